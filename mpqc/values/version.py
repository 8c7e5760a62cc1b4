"""The version of mpqc, for whoever records what made a file."""

__version__ = "0.1.0"
