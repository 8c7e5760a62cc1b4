"""A Problem brought to one shape: terms merged by the groups they depend on, one row a limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import floor

import numpy as np

from mpqc.allocator.problem import Cost, Peak, Problem, Table, limit_of

WHOLE = 2.0**36
"""Sums of integers below this are counted as they are."""

Scope = tuple[int, ...]
"""Group indices in rising order."""


def are_whole(parts: Iterable[np.ndarray]) -> bool:
    """Whether `parts` hold integers alone, whose sums stay below WHOLE."""
    values = list(parts)
    return sum(float(np.abs(value).max()) for value in values) < WHOLE and all(np.array_equal(value, np.floor(value)) for value in values)


@dataclass(frozen=True, eq=False)
class Row:
    """sum of `terms` + constant <= limit; entries of combinations that do not exist are 0."""

    name: str
    limit: Fraction
    constant: float
    terms: tuple[tuple[Scope, np.ndarray], ...]
    """The tables as given, axes in rising group order."""
    parts: dict[Scope, np.ndarray]
    """The same with tables of one scope added up (in floats: to be rounded with care)."""

    @cached_property
    def room(self) -> Fraction:
        """What the terms may add up to: limit - constant, without a fraction where they are integers."""
        return Fraction(floor(self.limit - Fraction(self.constant))) if self.whole else self.limit - Fraction(self.constant)

    @cached_property
    def whole(self) -> bool:
        """Whether everything is an integer small enough for the solver to count as it is."""
        return are_whole([np.array([self.constant]), *self.parts.values()])

    @cached_property
    def magnitude(self) -> float:
        """An upper bound on the absolute value of any partial sum."""
        return abs(self.constant) + sum(float(np.abs(part).max()) for part in self.parts.values())


@dataclass(frozen=True, eq=False)
class Terms:
    """Objective parts, rows, and the combinations that may be chosen (`legal`, boolean, one array a scope)."""

    sizes: tuple[int, ...]
    loss: dict[Scope, np.ndarray]
    rows: tuple[Row, ...]
    legal: dict[Scope, np.ndarray]

    @cached_property
    def whole(self) -> bool:
        """Whether every objective is an integer small enough for the solver to count as it is."""
        return are_whole(self.loss.values())

    @property
    def scopes(self) -> list[Scope]:
        """Scopes of two groups or more, sorted."""
        return sorted(scope for scope in self.legal if len(scope) > 1)


def terms_of(problem: Problem, bounds: Iterable[Cost | Peak] | None = None) -> Terms:
    """The terms of `problem` with a row for each limited cost and moment of `bounds` (default: all of them)."""
    chosen = problem.limited if bounds is None else tuple(bounds)
    rows = tuple(row for bound in chosen for row in _rows(bound))
    legal = _legal(problem)
    for row in rows:
        for scope in row.parts:
            legal.setdefault(scope, np.ones([len(problem.groups[group].choices) for group in scope], dtype=bool))
    rows, single = _split_single(rows)
    for row in single:
        ((scope, part),) = row.parts.items()
        legal[scope] = legal[scope] & _below(row, part.shape)
    return Terms(tuple(len(group.choices) for group in problem.groups), _loss(problem), rows, legal)


def _split_single(rows: Sequence[Row]) -> tuple[tuple[Row, ...], list[Row]]:
    """Rows that are always satisfied dropped; rows of one group apart, for they only forbid choices."""
    kept: list[Row] = []
    single: list[Row] = []
    for row in rows:
        if row.constant + sum(float(part.max()) for part in row.parts.values()) <= float(row.limit) - 1e-9 * row.magnitude:
            continue
        is_single = len(row.parts) == 1 and len(next(iter(row.parts))) == 1
        (single if is_single else kept).append(row)
    return tuple(kept), single


def _below(row: Row, shape: tuple[int, ...]) -> np.ndarray:
    """Which choices of the one group that `row` depends on are inside it, by exact arithmetic."""
    sums = [sum((Fraction(float(values[at])) for _, values in row.terms), Fraction(0)) for at in range(shape[0])]
    return np.array([value <= row.room for value in sums], dtype=bool)


def _rows(bound: Cost | Peak) -> list[Row]:
    limit = limit_of(bound)
    if isinstance(bound, Cost):
        return [_row(bound.name, limit, bound.constant, bound.tables)]
    return [_row(bound.name, limit, 0.0, moment) for moment in bound.moments]


def _row(name: str, limit: Fraction, constant: float, tables: Iterable[Table]) -> Row:
    terms = tuple((scope, np.where(np.isinf(values), 0.0, values)) for scope, values in map(sort_axes, tables))
    return Row(name, limit, constant, terms, merge(tables))


def merge(tables: Iterable[Table]) -> dict[Scope, np.ndarray]:
    """Tables of the same groups added up, axes in rising group order, infinities replaced by 0."""
    parts: dict[Scope, np.ndarray] = {}
    for table in tables:
        scope, values = sort_axes(table)
        values = np.where(np.isinf(values), 0.0, values)
        parts[scope] = parts[scope] + values if scope in parts else values
    return parts


def sort_axes(table: Table) -> tuple[Scope, np.ndarray]:
    """The table's groups in rising order, and its values with the axes in that order."""
    order = sorted(range(len(table.groups)), key=lambda axis: table.groups[axis])
    return tuple(table.groups[axis] for axis in order), np.transpose(table.values, order)


def _loss(problem: Problem) -> dict[Scope, np.ndarray]:
    loss: dict[Scope, np.ndarray] = {(index,): np.array(group.loss, dtype=np.float64) for index, group in enumerate(problem.groups)}
    for scope, values in merge(problem.interactions).items():
        loss[scope] = loss[scope] + values if scope in loss else values
    return loss


def _legal(problem: Problem) -> dict[Scope, np.ndarray]:
    legal: dict[Scope, np.ndarray] = {}
    for index, (group, allowed) in enumerate(zip(problem.groups, problem.allowed, strict=True)):
        legal[(index,)] = np.isin(np.arange(len(group.choices)), allowed)
    tables = [table for cost in problem.costs for table in cost.tables]
    tables += [table for peak in problem.peaks for moment in peak.moments for table in moment]
    for table in (*tables, *problem.interactions):
        scope, values = sort_axes(table)
        legal[scope] = legal.get(scope, np.ones(values.shape, dtype=bool)) & np.isfinite(values)
    return legal
