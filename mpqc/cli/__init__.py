"""The command line: `run(arguments)` is the program `mpqc`."""

from mpqc.cli.app import run

__all__ = ["run"]
