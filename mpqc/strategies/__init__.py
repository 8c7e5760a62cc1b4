"""Strategies of the training phase, by name: one file each. Importing this imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mpqc.errors import UsageError
from mpqc.values.request import TRAINED

if TYPE_CHECKING:
    from mpqc.training.strategy import Strategy

FIXED = "fixed"
"""Training at the bits of a plan, which no request names"""
_HOMES = {
    FIXED: ("mpqc.strategies.fixed", "FixedPlan"),
    "qbitopt": ("mpqc.strategies.qbitopt", "QBitOpt"),
    "dq": ("mpqc.strategies.dq", "DQ"),
    "fracbits": ("mpqc.strategies.fracbits", "FracBits"),
    "mixquant": ("mpqc.strategies.mixquant", "MixQuant"),
    "auto": ("mpqc.strategies.auto", "Auto"),
}


def make_strategy(name: str) -> Strategy:
    """A new strategy by its name; the classes take no arguments, the session has everything. Raises UsageError for unknown names."""
    if name not in _HOMES:
        raise UsageError(f"no strategy {name!r} trains", where="--strategy", hint=f"use one of {', '.join(TRAINED)}")
    home, kind = _HOMES[name]
    made: Strategy = getattr(import_module(home), kind)()
    return made
