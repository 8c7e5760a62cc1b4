"""The Lagrangian bound: limits priced into the objective, minimised exactly by elimination, prices raised to the best bound.

L(p) = min_x loss(x) + sum_r p_r (use_r(x) - limit_r) is below every admissible loss for any p >= 0 (Everett 1963, Geoffrion 1974).
Its maximum is the bound of the Dantzig-Wolfe relaxation, whose gap shrinks with the number of groups: every group keeps all but
a few choices once those whose best Lagrangian is above a known loss are ruled out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import fsum, inf

import numpy as np
from ortools.linear_solver import pywraplp

from mpqc.allocator.elimination import Elimination, Pass
from mpqc.allocator.field import Field

EPS = 2.0**-52


@dataclass(eq=False)
class Dual:
    """Bound and prices found so far, and the choices met on the way (candidates for repair)."""

    bound: float
    prices: np.ndarray
    best: Pass
    offset: float
    """What to add to sums of `best`"""
    margin: float
    """What rounding of floats can have added to the bound"""
    met: list[np.ndarray] = field(default_factory=list)
    infeasible: bool = False
    """The bound is above any objective: no choice fits."""


ENOUGH = "max_number_of_iterations: 10000 max_deterministic_time: 1.0"
"""What the linear program over the cuts may take: near limits that differ by one float it can go round in circles. The same on any machine."""


class Ascent:
    """Kelley's cutting planes with the next prices taken between the best ones and the model's maximum (Wentges smoothing)."""

    def __init__(self, place: Field, order: Elimination) -> None:
        self.place, self.order = place, order
        self.error = 4 * EPS * len(place.scopes)
        self.points: list[np.ndarray] = []
        self.losses: list[float] = []
        self.overs: list[np.ndarray] = []
        self.active: list[int] = []
        self.seen: set[bytes] = set()

    def run(self, iterations: int, tolerance: float) -> Dual:
        """The best bound after at most `iterations` eliminations, or when it is within `tolerance` (relative) of the dual's maximum."""
        rows = len(self.place.rows)
        best = self.evaluate(np.zeros(rows))
        if best.infeasible:
            return best
        ceiling = self.place.total
        toward = 0.5
        for _ in range(iterations):
            self._activate()
            top, prices = self._model(ceiling)
            if top - best.bound <= tolerance * max(abs(best.bound), abs(top), 1e-300):
                break
            tried = self.evaluate(toward * best.prices + (1 - toward) * prices)
            toward = 0.5 if tried.bound > best.bound else 0.5 * toward if toward > 0.1 else 0.0
            best = max(best, tried, key=lambda dual: dual.bound)
            if best.bound > ceiling:
                best.infeasible = True
                break
        best.met = self.points
        return best

    def evaluate(self, prices: np.ndarray) -> Dual:
        """The bound at `prices`, with the rounding of floats subtracted.

        Each slot is shifted so that its least entry is 0: a sum of n terms of one sign is off by at most n roundings of itself.
        """
        place = self.place
        flat, first = place.priced(prices), place.first
        least = np.minimum.reduceat(np.where(place.legal, flat, np.inf), first[:-1])
        if np.isinf(least).any():
            return Dual(inf, prices, Pass(inf, np.zeros(place.groups, dtype=np.int64), [], []), 0.0, 0.0, infeasible=True)
        shifted = flat - np.repeat(least, np.diff(first))
        most = float(np.maximum.reduceat(np.where(place.legal, shifted, 0.0), first[:-1]).sum())
        done = self.order.run(place.tables(np.where(place.legal, shifted, max(1e4 * most, 1e-200))))
        rooms = [price * row.room / row.scale for price, row in zip(prices, place.rows, strict=True)]
        offset = fsum(least) - fsum(rooms)
        sizes = done.value + float(np.abs(least).sum()) + fsum(map(abs, rooms))
        margin = self.error * (sizes if place.is_positive else sizes + most)
        self._remember(done.choice)
        return Dual(done.value + offset - margin, prices, done, offset, margin)

    def _remember(self, choice: np.ndarray) -> None:
        key = choice.tobytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.points.append(choice)
        self.losses.append(self.place.objective(choice))
        self.overs.append(self.place.over(choice))

    def _activate(self) -> None:
        """Prices for rows that the last choices exceed; the others stay at 0, which is valid and keeps the model small."""
        over = self.overs[-1] > 0
        self.active = sorted({*self.active, *np.flatnonzero(over).tolist()})

    def _model(self, ceiling: float) -> tuple[float, np.ndarray]:
        """The maximum of the cutting-plane model and the prices there."""
        solver = pywraplp.Solver.CreateSolver("GLOP")
        solver.SetSolverSpecificParametersAsString(ENOUGH)
        top = solver.NumVar(-solver.infinity(), solver.infinity(), "top")
        prices = {row: solver.NumVar(0.0, 1e3 * ceiling, str(row)) for row in self.active}
        for loss, over in zip(self.losses, self.overs, strict=True):
            solver.Add(top - solver.Sum([float(over[row]) * price for row, price in prices.items()]) <= loss)
        solver.Maximize(top)
        if solver.Solve() != pywraplp.Solver.OPTIMAL:
            return inf, np.zeros(len(self.place.rows))
        found = np.zeros(len(self.place.rows))
        for row, price in prices.items():
            found[row] = max(price.solution_value(), 0.0)
        return top.solution_value(), found
