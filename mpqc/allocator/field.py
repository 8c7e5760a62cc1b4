"""Terms as flat arrays: objective, rows and forbidden entries at once, for the Lagrangian and the local search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mpqc.allocator.elimination import Tables
from mpqc.allocator.terms import Row, Scope, Terms


@dataclass(frozen=True, eq=False)
class FlatRow:
    """A row over flat entries: `slots` it touches, their entries `index` in the flat vector, and `values` there."""

    slots: np.ndarray
    starts: np.ndarray
    """Position in `values` of each slot's first entry"""
    index: np.ndarray
    values: np.ndarray
    room: float
    """limit - constant"""
    scale: float
    """Half the spread of the row's sum: what multipliers are measured against"""
    slack: float
    """Sums below room - slack fit whatever the rounding of floats"""


class Field:
    """The arrays of `terms`: a flat vector of entries, slot by slot (a slot is a scope, padded to the most choices of any group)."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.groups, self.choices = len(terms.sizes), max(terms.sizes, default=1)
        self.scopes: list[Scope] = [*((group,) for group in range(self.groups)), *sorted(terms.scopes, key=lambda scope: (len(scope), scope))]
        self.slot = {scope: slot for slot, scope in enumerate(self.scopes)}
        arities = [len(scope) for scope in self.scopes]
        self.first = np.concatenate([[0], np.cumsum([self.choices**arity for arity in arities])]).astype(np.int64)
        self.legal = self._flat(terms.legal, fill=False, dtype=bool)
        self.loss = self._flat(terms.loss, fill=0.0, dtype=np.float64)
        self.rows = [self._row(row) for row in terms.rows]
        self.by_arity = _by_arity(self.scopes)

    def _flat(self, parts: dict[Scope, np.ndarray], *, fill: float | bool, dtype: type) -> np.ndarray:
        flat: np.ndarray = np.full(int(self.first[-1]), fill, dtype=dtype)
        for scope, part in parts.items():
            flat[self.span(scope)] = self._padded(part, fill, dtype).reshape(-1)
        return flat

    def span(self, scope: Scope) -> slice:
        """Where the entries of `scope` are in a flat vector."""
        slot = self.slot[scope]
        return slice(self.first[slot], self.first[slot + 1])

    def _padded(self, part: np.ndarray, fill: float | bool, dtype: type) -> np.ndarray:
        padded: np.ndarray = np.full((self.choices,) * part.ndim, fill, dtype=dtype)
        padded[tuple(slice(0, size) for size in part.shape)] = part
        return padded

    def _row(self, row: Row) -> FlatRow:
        slots = np.array([self.slot[scope] for scope in row.parts], dtype=np.int64)
        values = [self._padded(part, 0.0, np.float64).reshape(-1) for part in row.parts.values()]
        index = [np.arange(self.first[slot], self.first[slot + 1]) for slot in slots]
        starts = np.cumsum([0, *(len(value) for value in values[:-1])]) if values else np.zeros(0, dtype=np.int64)
        spread = sum(float(part.max() - part.min()) for part in row.parts.values())
        slack = 0.0 if row.whole else 1e-12 * (row.magnitude + abs(float(row.limit)))
        where = np.concatenate(index) if index else np.zeros(0, dtype=np.int64)
        what = np.concatenate(values) if values else np.zeros(0)
        return FlatRow(slots, starts, where, what, float(row.room), max(spread / 2, 1e-30), slack)

    @cached_property
    def is_positive(self) -> bool:
        """Whether no loss and no cost is negative."""
        return bool((self.loss >= 0).all()) and all(bool((row.values >= 0).all()) for row in self.rows)

    @cached_property
    def total(self) -> float:
        """More than any objective: the sum of the largest absolute entries."""
        return float(sum(np.abs(self.loss[self.first[s] : self.first[s + 1]]).max() for s in range(len(self.scopes)))) + 1e-300

    def cells(self, choice: np.ndarray) -> np.ndarray:
        """The flat entry that each slot takes for `choice`."""
        cells = self.first[:-1].copy()
        for arity, (slots, members) in self.by_arity.items():
            weights = self.choices ** np.arange(arity - 1, -1, -1)
            cells[slots] += choice[members] @ weights
        return cells

    def objective(self, choice: np.ndarray) -> float:
        """The objective in floats."""
        return float(self.loss[self.cells(choice)].sum())

    def over(self, choice: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray:
        """For each row how far `choice` is over its limit, in the row's scale (negative: room left)."""
        relative = self.cells(choice) - self.first[:-1]
        chosen = self.rows if rows is None else [self.rows[row] for row in rows]
        return np.array([(row.values[row.starts + relative[row.slots]].sum() - row.room) / row.scale for row in chosen])

    def fits(self, choice: np.ndarray) -> bool:
        """Whether `choice` is legal and inside every row, for certain."""
        if not self.legal[self.cells(choice)].all():
            return False
        over = self.over(choice)
        return all(value * row.scale <= -row.slack for value, row in zip(over, self.rows, strict=True))

    def priced(self, prices: np.ndarray) -> np.ndarray:
        """The flat Lagrangian: loss plus each row times its price (loss a scale), without the rows' limits."""
        flat = self.loss.copy()
        for price, row in zip(prices, self.rows, strict=True):
            if price:
                flat[row.index] += (price / row.scale) * row.values
        return flat

    def tables(self, flat: np.ndarray) -> Tables:
        """`flat` by scope size, as views shaped for elimination."""
        shaped: Tables = {}
        for arity, (slots, _) in self.by_arity.items():
            start, stop = self.first[slots[0]], self.first[slots[-1] + 1]
            shaped[arity] = flat[start:stop].reshape(len(slots), *(self.choices,) * arity)
        return shaped

    def flatten(self, tables: Tables) -> np.ndarray:
        """The inverse of `tables`."""
        return np.concatenate([tables[arity].reshape(-1) for arity in sorted(tables)])


def _by_arity(scopes: list[Scope]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    found: dict[int, tuple[list[int], list[Scope]]] = {}
    for slot, scope in enumerate(scopes):
        slots, members = found.setdefault(len(scope), ([], []))
        slots.append(slot)
        members.append(scope)
    return {arity: (np.array(slots), np.array(members)) for arity, (slots, members) in sorted(found.items())}
