"""`python -m mpqc` is `mpqc`."""

from mpqc.cli.app import run

run()
