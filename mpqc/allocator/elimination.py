"""Exact minimum of a sum of tables by eliminating one group after another, many at a time.

Min-sum variable elimination (Bertele and Brioschi, "Nonserial Dynamic Programming", 1972): the table of a group and its neighbours is minimised
over the group and left on the neighbours. Groups that are not neighbours are eliminated together, so that numpy does a whole
round at once; networks are chains with short detours, and their tables stay small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mpqc.allocator.terms import Scope

CELLS = 60_000
"""Entries of the largest table that is worth eliminating: beyond, terms are dropped from the relaxation."""

Tables = dict[int, np.ndarray]
"""number of groups in a scope -> [scopes, choices, ..., choices]"""


class TooWideError(Exception):
    """The graph needs tables beyond CELLS; `core` are the groups that were left."""

    def __init__(self, core: frozenset[int]) -> None:
        super().__init__()
        self.core = core


@dataclass(frozen=True, eq=False)
class Part:
    """Tables of one scope size that enter the cliques of a step at the same axes."""

    arity: int
    place: int
    """Axis of the eliminated group within the scope"""
    axes: tuple[int, ...]
    """Axes of the scope within the clique, the eliminated group first"""
    slots: np.ndarray
    cliques: np.ndarray


@dataclass(frozen=True, eq=False)
class Step:
    """Groups of equal degree that are eliminated together: clique axes are (group, its neighbours in rising order)."""

    groups: np.ndarray
    neighbours: np.ndarray
    parts: tuple[Part, ...]
    out: np.ndarray
    """Slot of each neighbours' scope, to which the minimum is added"""


@dataclass(frozen=True, eq=False)
class Pass:
    """The result of one elimination: the minimum, choices that attain it, and what `marginals` needs."""

    value: float
    choice: np.ndarray
    cliques: list[np.ndarray]
    messages: list[np.ndarray]


class Elimination:
    """The order of elimination for one graph, reused for any values. `slots` maps every scope to its (arity, index)."""

    def __init__(self, groups: int, choices: int, scopes: Iterable[Scope]) -> None:
        self.groups, self.choices = groups, choices
        self.slots: dict[Scope, tuple[int, int]] = {}
        self.counts: dict[int, int] = {}
        for scope in [*((group,) for group in range(groups)), *sorted(scopes)]:
            self._slot(scope)
        self.given = dict(self.counts)
        self.steps = _Planner(self).plan()

    def _slot(self, scope: Scope) -> int:
        if scope not in self.slots:
            self.slots[scope] = (len(scope), self.counts.get(len(scope), 0))
            self.counts[len(scope)] = self.slots[scope][1] + 1
        return self.slots[scope][1]

    def empty(self) -> Tables:
        """Zero tables for every slot, including those that elimination fills."""
        return {arity: np.zeros((count, *(self.choices,) * arity)) for arity, count in self.counts.items() if arity}

    def run(self, given: Tables) -> Pass:
        """The minimum of the sum of `given` tables (slots in order; not changed) and choices that attain it."""
        tables = self.empty()
        for arity, values in given.items():
            tables[arity][: len(values)] = values
        value, cliques, messages = 0.0, [], []
        for step in self.steps:
            clique = self._clique(step, tables)
            message = clique.min(axis=1)
            if step.neighbours.shape[1]:
                np.add.at(tables[step.neighbours.shape[1]], step.out, message)
            else:
                value += float(message.sum())
            cliques.append(clique)
            messages.append(message)
        return Pass(value, self._decode(cliques), cliques, messages)

    def _clique(self, step: Step, tables: Tables) -> np.ndarray:
        degree = step.neighbours.shape[1]
        clique = np.zeros((len(step.groups), *(self.choices,) * (degree + 1)))
        for part in step.parts:
            values = np.moveaxis(tables[part.arity][part.slots], 1 + part.place, 1)
            shape = [self.choices if axis in part.axes else 1 for axis in range(degree + 1)]
            values = values.reshape(len(part.slots), *shape)
            if len(part.slots) == len(step.groups):
                clique += values
            else:
                clique[part.cliques] += values
        return clique

    def _decode(self, cliques: Sequence[np.ndarray]) -> np.ndarray:
        choice = np.zeros(self.groups, dtype=np.int64)
        for step, clique in zip(reversed(self.steps), reversed(cliques), strict=True):
            at = (np.arange(len(step.groups)), slice(None), *(choice[column] for column in step.neighbours.T))
            choice[step.groups] = clique[at].argmin(axis=1)
        return choice

    def marginals(self, done: Pass) -> Tables:
        """For every entry of every given slot, the minimum of the whole sum with that entry taken."""
        found = self.empty()
        for step, clique, message in zip(reversed(self.steps), reversed(done.cliques), reversed(done.messages), strict=True):
            degree = step.neighbours.shape[1]
            outside = found[degree][step.out] - message if degree else done.value - message
            belief = clique + np.expand_dims(outside, 1)
            for part in step.parts:
                rest = tuple(1 + axis for axis in range(degree + 1) if axis not in part.axes)
                values = belief[part.cliques].min(axis=rest) if rest else belief[part.cliques]
                found[part.arity][part.slots] = np.moveaxis(values, 1, 1 + part.place)
        return {arity: values[: self.given[arity]] for arity, values in found.items() if arity in self.given}


class _Planner:
    """Chooses the rounds: at each, groups of least degree, or of two neighbours, that are not neighbours themselves and whose tables are worth it."""

    def __init__(self, order: Elimination) -> None:
        self.order = order
        self.around: list[set[int]] = [set() for _ in range(order.groups)]
        self.waiting: list[set[Scope]] = [set() for _ in range(order.groups)]
        for scope in order.slots:
            self._add(scope)

    def _add(self, scope: Scope) -> None:
        for group in scope:
            self.around[group].update(scope)
            self.around[group].discard(group)
            self.waiting[group].add(scope)

    def plan(self) -> list[Step]:
        steps: list[Step] = []
        left = set(range(self.order.groups))
        while left:
            chosen = self._round(left)
            left.difference_update(chosen)
            by_degree: dict[int, list[int]] = {}
            for group in chosen:
                by_degree.setdefault(len(self.around[group]), []).append(group)
            steps += [self._step(groups, degree) for degree, groups in sorted(by_degree.items())]
            for group in chosen:
                for other in self.around[group]:
                    self.around[other].discard(group)
        return steps

    def _round(self, left: set[int]) -> list[int]:
        least = min(len(self.around[group]) for group in left)
        if self.order.choices ** (least + 1) > CELLS:
            raise TooWideError(frozenset(left))
        chosen: list[int] = []
        taken: set[int] = set()
        for group in sorted(left, key=lambda group: (len(self.around[group]), group)):
            degree = len(self.around[group])
            if degree > max(least, 2) or self.order.choices ** (degree + 1) > CELLS:
                break
            if group not in taken:
                chosen.append(group)
                taken.update(self.around[group])
        return chosen

    def _step(self, groups: list[int], degree: int) -> Step:
        neighbours = [sorted(self.around[group]) for group in groups]
        parts: dict[tuple[int, int, tuple[int, ...]], list[tuple[int, int]]] = {}
        out = []
        for clique, (group, around) in enumerate(zip(groups, neighbours, strict=True)):
            for scope in sorted(self.waiting[group]):
                axes = (0, *(1 + around.index(other) for other in scope if other != group))
                parts.setdefault((len(scope), scope.index(group), axes), []).append((self.order.slots[scope][1], clique))
                for other in scope:
                    if other != group:
                        self.waiting[other].discard(scope)
            out.append(self._leave(tuple(around)))
        columns = [Part(*key, *map(np.array, zip(*pairs, strict=True))) for key, pairs in parts.items()]
        shaped = np.array(neighbours, dtype=np.int64).reshape(len(groups), degree)
        return Step(np.array(groups), shaped, tuple(columns), np.array(out))

    def _leave(self, scope: Scope) -> int:
        if not scope:
            return 0
        slot = self.order._slot(scope)
        self._add(scope)
        return slot
