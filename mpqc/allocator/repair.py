"""Admissible choices from nearly admissible ones: one group changed at a time, by price."""

from __future__ import annotations

import numpy as np

from mpqc.allocator.field import Field, FlatRow


class Repair:
    """Moves of one group on `place`, judged by the Lagrangian at `prices`."""

    def __init__(self, place: Field, prices: np.ndarray) -> None:
        self.place, self.prices = place, prices
        self.illegal = (~place.legal).astype(np.float64)
        self.priced = place.priced(prices)
        self.slacks = np.array([row.slack / row.scale for row in place.rows])

    def admissible(self, choice: np.ndarray) -> np.ndarray | None:
        """Choices that fit, near `choice`, improved until no single change helps; None where the way is not found."""
        fitting = self._fit(choice.copy())
        return None if fitting is None else self.improved(fitting)

    def _fit(self, choice: np.ndarray) -> np.ndarray | None:
        """Takes the change of least Lagrangian a unit of excess until nothing is exceeded."""
        for _ in range(2 * self.place.groups):
            over = self.place.over(choice) + self.slacks
            excess = np.maximum(over, 0.0).sum()
            if excess == 0.0:
                return choice if self.place.fits(choice) else None
            gain = excess - self._excess_after(choice, over)
            rise = self.change(choice, self.priced)
            score = np.where((gain > 0) & self._allowed(choice), (rise + 1e-12 * self.place.total) / np.maximum(gain, 1e-300), np.inf)
            group, at = np.unravel_index(int(score.argmin()), score.shape)
            if not np.isfinite(score[group, at]):
                return None
            choice[group] = at
        return None

    def improved(self, choice: np.ndarray) -> np.ndarray:
        """`choice`, which fits, after the best single changes until none helps."""
        choice = choice.copy()
        for _ in range(4 * self.place.groups):
            over = self.place.over(choice) + self.slacks
            fits = self._excess_after(choice, over) == 0.0
            drop = np.where(fits & self._allowed(choice), self.change(choice, self.place.loss), 0.0)
            group, at = np.unravel_index(int(drop.argmin()), drop.shape)
            if drop[group, at] >= -1e-13 * self.place.total:
                break
            choice[group] = at
        return choice

    def _excess_after(self, choice: np.ndarray, over: np.ndarray) -> np.ndarray:
        """[groups, choices]: what all rows together are exceeded by after each change."""
        excess = np.full((self.place.groups, self.place.choices), np.maximum(over, 0.0).sum())
        for row, value in zip(self.place.rows, over, strict=True):
            change = self.row_change(choice, row) / row.scale
            excess += np.maximum(value + change, 0.0) - max(float(value), 0.0)
        left: np.ndarray = np.maximum(excess, 0.0) * (excess > 1e-15)
        return left

    def _allowed(self, choice: np.ndarray) -> np.ndarray:
        allowed: np.ndarray = self._conditional(choice, self.illegal, None, None) == 0.0
        return allowed

    def change(self, choice: np.ndarray, flat: np.ndarray) -> np.ndarray:
        """[groups, choices]: how the sum of `flat` changes with each single change."""
        values = self._conditional(choice, flat, None, None)
        changes: np.ndarray = values - values[np.arange(self.place.groups), choice][:, None]
        return changes

    def row_change(self, choice: np.ndarray, row: FlatRow) -> np.ndarray:
        """[groups, choices]: how the row's sum changes with each single change."""
        values = self._conditional(choice, row.values, row.slots, row.starts)
        changes: np.ndarray = values - values[np.arange(self.place.groups), choice][:, None]
        return changes

    def _conditional(self, choice: np.ndarray, flat: np.ndarray, slots: np.ndarray | None, starts: np.ndarray | None) -> np.ndarray:
        """[groups, choices]: the sum of the terms around each group with it at each choice and all others as they are."""
        place = self.place
        found = np.zeros(place.groups * place.choices)
        every = np.arange(place.choices)
        for arity, (members_of, members) in place.by_arity.items():
            at, offset = members_of, place.first[members_of]
            if slots is not None and starts is not None:
                inside = (slots >= members_of[0]) & (slots <= members_of[-1])
                at, offset = slots[inside], starts[inside]
                members = members[at - members_of[0]]
            weights = place.choices ** np.arange(arity - 1, -1, -1)
            for axis, weight in enumerate(weights):
                others = choice[members] @ weights - choice[members[:, axis]] * weight
                index = (offset + others)[:, None] + weight * every
                where = members[:, axis, None] * place.choices + every
                found += np.bincount(where.reshape(-1), weights=flat[index].reshape(-1), minlength=len(found))
        return found.reshape(place.groups, place.choices)
