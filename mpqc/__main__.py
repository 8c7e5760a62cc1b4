"""`python -m mpqc` is `mpqc`."""

from mpqc.cli import run

run()
