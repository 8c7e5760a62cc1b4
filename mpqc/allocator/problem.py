"""The allocation problem: numbers only, no graph. One choice a group, summed losses, hard limits on summed costs.

minimise   sum_g loss[g][x_g] + sum of `interactions`
subject to sum of a Cost's tables + constant <= its limit      (latency, size, bit operations, average bits, ...)
           sum of each moment's sizes        <= its Peak's limit (live memory; with one group a moment: largest tensor)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cached_property

import numpy as np

from mpqc.errors import MpqcError, PlanError, TargetError

Label = int | str | None
"""What a choice is called: bits, a qtype key, or None for float."""


Show = Callable[[float | Fraction, Fraction | None], str]
"""Writes an amount for people; beside a limit that it exceeds, with digits enough to see by how much"""


def plain(amount: float | Fraction, limit: Fraction | None = None) -> str:
    """`amount` with six digits, or all that it takes to tell it from `limit`."""
    value = float(amount)
    return f"{value:.6g}" if limit is None or abs(value - float(limit)) > 1e-5 * abs(value) else repr(value).removesuffix(".0")


@dataclass(frozen=True)
class Group:
    """Sites that get one choice together. `loss[i]` is the expected loss increase of `choices[i]`, finite and >= 0."""

    name: str
    choices: tuple[Label, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Table:
    """A term that depends on the choices of `groups` (indices): `values` has one axis a group, in the same order.

    In costs, +inf marks a combination that does not exist (no kernel for it) and is never chosen.
    """

    groups: tuple[int, ...]
    values: np.ndarray

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def at(self, choice: Sequence[int]) -> float:
        """The term's value where group g takes its choice number `choice[g]`."""
        return float(self.values[tuple(choice[group] for group in self.groups)])


@dataclass(frozen=True, eq=False)
class Cost:
    """A summed cost. `limit` None: counted and reported, not bounded."""

    name: str
    tables: tuple[Table, ...]
    limit: float | Fraction | None = None
    constant: float = 0.0
    show: Show = plain
    """Writes an amount of it for people"""
    asked: str = "it"
    """The option that the limit comes from, for messages"""

    def exact(self, choice: Sequence[int]) -> Fraction:
        """The sum for `choice`, without rounding. Raises nothing; the combination must exist."""
        return sum((Fraction(table.at(choice)) for table in self.tables), Fraction(self.constant))


@dataclass(frozen=True, eq=False)
class Peak:
    """The largest of several sums: each moment is a tuple of one-group tables (sizes of what is in memory together)."""

    name: str
    moments: tuple[tuple[Table, ...], ...]
    limit: float | Fraction | None = None
    show: Show = plain
    """Writes an amount of it for people"""
    asked: str = "it"
    """The option that the limit comes from, for messages"""

    def exact(self, choice: Sequence[int]) -> Fraction:
        """The largest moment's sum for `choice`, without rounding."""
        return max((sum((Fraction(table.at(choice)) for table in moment), Fraction(0)) for moment in self.moments), default=Fraction(0))


def limit_of(bound: Cost | Peak) -> Fraction:
    """The limit as it is written in decimal: 0.1 is a tenth, not the float nearest to it."""
    return written(bound.limit or 0.0)


def written(amount: float | Fraction) -> Fraction:
    """`amount` as its shortest decimal text says; a Fraction is exact already."""
    return amount if isinstance(amount, Fraction) else Fraction(Decimal(repr(float(amount))))


@dataclass(frozen=True, eq=False)
class Problem:
    """Groups, what their choices cost, and the limits. Raises by name on construction for anything that is not a number.

    Raises:
        PlanError: a loss that is NaN, infinite or negative (names the group), two groups of one name, a fixed choice that
            does not exist.
        TargetError: a cost that is NaN or -inf, or of the wrong shape (names cost and group).
    """

    groups: tuple[Group, ...]
    costs: tuple[Cost, ...] = ()
    peaks: tuple[Peak, ...] = ()
    interactions: tuple[Table, ...] = ()
    """Losses that depend on several groups: finite, any sign."""
    fixed: Mapping[str, Label] = field(default_factory=dict)
    """group name -> the choice it must take"""

    def __post_init__(self) -> None:
        for group in self.groups:
            _check_group(group)
        if len(self.index) != len(self.groups):
            names = [group.name for group in self.groups]
            raise PlanError("two groups have this name", where=next(name for name in names if names.count(name) > 1))
        for table in self.interactions:
            _check_table(table, self.groups, "interaction", PlanError, allow_inf=False)
        for bound in self.bounds:
            _check_bound(bound, self.groups)
        for name, label in self.fixed.items():
            self._check_fixed(name, label)

    def _check_fixed(self, name: str, label: Label) -> None:
        if name not in self.index:
            raise PlanError("a choice is fixed for a group that does not exist", where=name)
        choices = self.groups[self.index[name]].choices
        if label not in choices:
            raise PlanError(f"the fixed choice {label!r} is not one of {choices}", where=name)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Position of a group by name."""
        return {group.name: position for position, group in enumerate(self.groups)}

    @property
    def bounds(self) -> tuple[Cost | Peak, ...]:
        """Everything that is summed."""
        return (*self.costs, *self.peaks)

    @property
    def limited(self) -> tuple[Cost | Peak, ...]:
        """What has a limit."""
        return tuple(bound for bound in self.bounds if bound.limit is not None)

    @cached_property
    def allowed(self) -> tuple[tuple[int, ...], ...]:
        """For each group the numbers of the choices that it may take (one where fixed)."""
        return tuple(self._allowed(group) for group in self.groups)

    def _allowed(self, group: Group) -> tuple[int, ...]:
        if group.name in self.fixed:
            return (group.choices.index(self.fixed[group.name]),)
        return tuple(range(len(group.choices)))

    def loss(self, choice: Sequence[int]) -> Fraction:
        """The objective for `choice`, without rounding."""
        unary = sum((Fraction(group.loss[at]) for group, at in zip(self.groups, choice, strict=True)), Fraction(0))
        return unary + sum((Fraction(table.at(choice)) for table in self.interactions), Fraction(0))

    def exists(self, choice: Sequence[int]) -> bool:
        """Whether every combination that `choice` uses exists (no infinite cost)."""
        tables = [table for cost in self.costs for table in cost.tables]
        tables += [table for peak in self.peaks for moment in peak.moments for table in moment]
        return all(math.isfinite(table.at(choice)) for table in tables)

    def uses(self, choice: Sequence[int]) -> dict[str, Fraction]:
        """Exact use of every cost and peak by `choice`."""
        return {bound.name: bound.exact(choice) for bound in self.bounds}

    def violated(self, choice: Sequence[int]) -> tuple[str, ...]:
        """Names of the limits that `choice` exceeds, by exact arithmetic."""
        return tuple(bound.name for bound in self.limited if bound.exact(choice) > limit_of(bound))

    def admits(self, choice: Sequence[int]) -> bool:
        """Whether `choice` obeys fixed choices and existing combinations, exceeds no limit (exact arithmetic)."""
        legal = all(at in allowed for at, allowed in zip(choice, self.allowed, strict=True))
        return legal and self.exists(choice) and not self.violated(choice)


def _check_group(group: Group) -> None:
    if not group.choices:
        raise PlanError("has no choices", where=group.name)
    if len(group.loss) != len(group.choices):
        raise PlanError(f"{len(group.choices)} choices and {len(group.loss)} sensitivities", where=group.name)
    for label, loss in zip(group.choices, group.loss, strict=True):
        if not math.isfinite(loss):
            raise PlanError(f"sensitivity at {label} is {loss}", where=group.name, hint="check the data and the layer for NaN or overflow")
        if loss < 0:
            raise PlanError(f"sensitivity at {label} is negative: {loss}", where=group.name, hint="clamp estimates at 0 where they are noise")


def _check_bound(bound: Cost | Peak, groups: tuple[Group, ...]) -> None:
    if bound.limit is not None and not math.isfinite(bound.limit):
        raise TargetError(f"the limit is {bound.limit}", where=bound.name)
    if isinstance(bound, Cost) and not math.isfinite(bound.constant):
        raise TargetError(f"the constant is {bound.constant}", where=bound.name)
    moments = (bound.tables,) if isinstance(bound, Cost) else bound.moments
    for tables in moments:
        for table in tables:
            _check_table(table, groups, bound.name, TargetError, allow_inf=True)


def _check_table(table: Table, groups: tuple[Group, ...], name: str, error: type[MpqcError], *, allow_inf: bool) -> None:
    if len(set(table.groups)) != len(table.groups) or not all(0 <= group < len(groups) for group in table.groups):
        raise error(f"a table names the groups {table.groups} of {len(groups)}", where=name)
    where = f"{name}: {', '.join(groups[group].name for group in table.groups)}"
    shape = tuple(len(groups[group].choices) for group in table.groups)
    if table.values.shape != shape:
        raise error(f"a table of shape {table.values.shape} where {shape} is needed", where=where)
    bad = np.isnan(table.values) | np.isneginf(table.values)
    if not allow_inf:
        bad |= np.isposinf(table.values)
    if bad.any():
        raise error(f"a value is {table.values[bad][0]}", where=where)
