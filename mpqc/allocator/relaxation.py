"""What the Lagrangian says about terms: a bound, a first incumbent, and for every entry the least loss with it taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mpqc.allocator.dual import EPS, Ascent, Dual
from mpqc.allocator.elimination import Elimination, TooWideError
from mpqc.allocator.field import Field
from mpqc.allocator.repair import Repair
from mpqc.allocator.terms import Scope, Terms

ITERATIONS = 200
CLOSE = 1e-6
"""Relative distance to the dual's maximum at which the prices are good enough."""
CANDIDATES = 12
"""Choices met on the way to the best prices that are repaired; fewer where there are thousands of groups."""
REPAIRS = 9_000
"""Groups in all candidates together"""
DROP_SHARE = 0.25
"""Of the terms in a core that is too wide to eliminate, those dropped at once, the weakest first."""


@dataclass(frozen=True, eq=False)
class Relaxed:
    """The relaxation of `place`'s terms at its best prices."""

    place: Field
    bound: float
    least: np.ndarray
    """For every flat entry of `place`: no admissible choice with it has a smaller loss"""
    infeasible: bool
    incumbent: tuple[int, ...] | None
    value: float
    """The incumbent's loss in floats; inf without one"""


Admits = Callable[[tuple[int, ...]], bool]
"""The exact test that choices must pass"""


def relax(terms: Terms, admits: Admits, hint: tuple[int, ...] | None = None) -> Relaxed:
    """The relaxation of `terms`; where its graph is too wide for elimination, of what remains without the weakest edges.

    The incumbent has passed `admits`: floats alone never say that choices fit.
    """
    place = Field(terms)
    loose, order = _eliminable(terms)
    eased = place if loose is terms else Field(loose)
    ascent = Ascent(eased, order)
    dual = ascent.run(ITERATIONS, CLOSE)
    if dual.infeasible:
        return Relaxed(place, dual.bound, np.zeros(0), True, None, float("inf"))
    least = _spread(place, eased, _least(eased, order, dual), dual.bound)
    incumbent = _repaired(place, ascent, dual, admits, hint)
    value = float("inf") if incumbent is None else place.objective(incumbent)
    return Relaxed(place, dual.bound, least, False, None if incumbent is None else tuple(incumbent.tolist()), value)


def _least(place: Field, order: Elimination, dual: Dual) -> np.ndarray:
    least = place.flatten(order.marginals(dual.best))
    return least * (1 - 4 * EPS * len(place.scopes)) + dual.offset - 2 * dual.margin


def _spread(place: Field, eased: Field, least: np.ndarray, bound: float) -> np.ndarray:
    """`least` of the eased terms on the entries of the given ones; entries of dropped scopes are only above the bound."""
    if place is eased:
        return least
    found = np.full(int(place.first[-1]), bound)
    for scope in eased.scopes:
        found[place.span(scope)] = least[eased.span(scope)]
    return found


def _repaired(place: Field, ascent: Ascent, dual: Dual, admits: Admits, hint: tuple[int, ...] | None) -> np.ndarray | None:
    """The best choices that repair makes of those met near the best prices."""
    lagrangians = [loss + float(dual.prices @ over) for loss, over in zip(ascent.losses, ascent.overs, strict=True)]
    count = min(CANDIDATES, max(3, REPAIRS // place.groups))
    nearest = sorted(range(len(lagrangians)), key=lagrangians.__getitem__)[:count]
    starts = [ascent.points[at] for at in nearest]
    if hint is not None:
        starts.insert(0, np.array(hint))
    repair = Repair(place, dual.prices)
    repaired = [found for found in map(repair.admissible, starts) if found is not None]
    return next((found for found in sorted(repaired, key=place.objective) if admits(tuple(found.tolist()))), None)


def _eliminable(terms: Terms) -> tuple[Terms, Elimination]:
    """`terms`, or a lower bound of them without the weakest edges, and its order of elimination."""
    loose = terms
    while True:
        try:
            return loose, Elimination(len(terms.sizes), max(terms.sizes, default=1), loose.scopes)
        except TooWideError as wide:
            inside = [scope for scope in loose.scopes if wide.core.issuperset(scope)]
            weakest = sorted(inside, key=lambda scope: (_weight(loose, scope), scope))
            loose = without(loose, frozenset(weakest[: max(1, int(DROP_SHARE * len(inside)))]))


def _weight(terms: Terms, scope: Scope) -> float:
    """How much the terms of `scope` can matter: their spread relative to each row's magnitude."""
    rows = sum(float(np.ptp(row.parts[scope])) / max(row.magnitude, 1e-300) for row in terms.rows if scope in row.parts)
    magnitude = sum(float(np.abs(part).max()) for part in terms.loss.values()) or 1.0
    return rows + (float(np.ptp(terms.loss[scope])) / magnitude if scope in terms.loss else 0.0)


def without(terms: Terms, dropped: frozenset[Scope]) -> Terms:
    """Terms below the given ones, in which each part of a `dropped` scope is replaced by one-group parts."""
    rows = tuple(replace(row, parts=_eased(row.parts, dropped)) for row in terms.rows)
    legal = {scope: mask for scope, mask in terms.legal.items() if scope not in dropped}
    return replace(terms, loss=_eased(terms.loss, dropped), rows=rows, legal=legal)


def _eased(parts: dict[Scope, np.ndarray], dropped: frozenset[Scope]) -> dict[Scope, np.ndarray]:
    kept = {scope: part for scope, part in parts.items() if scope not in dropped}
    for scope in sorted(dropped & parts.keys()):
        rest = parts[scope]
        for axis, group in enumerate(scope):
            least = rest.min(axis=tuple(other for other in range(rest.ndim) if other != axis))
            rest = rest - least.reshape([-1 if other == axis else 1 for other in range(rest.ndim)])
            kept[(group,)] = kept[(group,)] + least if (group,) in kept else least
    return kept
