"""Strategies of the training phase: `NAME.py` holds the class whose `name` is NAME. Importing this imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mpqc.errors import UsageError
from mpqc.values.request import TRAINED

if TYPE_CHECKING:
    from mpqc.training.strategy import Strategy

FIXED = "fixed"
"""Training at the bits of a plan, which no request names"""


def make_strategy(name: str) -> Strategy:
    """A new strategy by its name; the classes take no arguments, the session has everything. Raises UsageError for unknown names."""
    if name not in (FIXED, *TRAINED):
        raise UsageError(f"no strategy {name!r} trains", where="--strategy", hint=f"use one of {', '.join(TRAINED)}")
    home = import_module(f"{__name__}.{name}")
    kinds = [kind for kind in vars(home).values() if isinstance(kind, type) and kind.__module__ == home.__name__]
    made: Strategy = next(kind for kind in kinds if getattr(kind, "name", None) == name)()
    return made
