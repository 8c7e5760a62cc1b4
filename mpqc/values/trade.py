"""The trade-off between one resource and the expected loss."""

from __future__ import annotations

from dataclasses import dataclass

from mpqc.values.budget import Resource
from mpqc.values.json_file import Record


@dataclass(frozen=True)
class Trade(Record):
    """One limit, what the best plan within uses of the resource, and its expected loss increase."""

    limit: float
    used: float
    loss: float
    status: str
    """optimal | feasible (at the deadline)"""


@dataclass(frozen=True)
class TradeOff(Record):
    """The best plans at limits on one resource; the other budgets hold at each."""

    resource: Resource
    trades: tuple[Trade, ...]
    """Ascending limits"""
    used: float
    """By the plan that was chosen"""
    loss: float
    """The chosen plan's expected loss, as that of the trades"""
    limit: float | None = None
    """The budget of the resource; None where there is none"""
    int8_used: float | None = None
    """By everything at 8 bits; None as for `int8_loss`"""
    int8_loss: float | None = None
    """Expected loss of that; None where the target or the sensitivities have no such plan"""
