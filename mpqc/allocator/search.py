"""Minimise terms under rows: the one search that the solver and the infeasibility report share.

Lagrangian bound -> repaired incumbent -> entries ruled out because their least loss is above it -> CP-SAT on what is left: first
on narrow cores for better incumbents, each of which rules out more, then on all that the best one still allows, for the proof.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import ceil, fsum, inf, isfinite

import numpy as np

from mpqc.allocator.dual import EPS
from mpqc.allocator.model import Effort, Model, Outcome, grid
from mpqc.allocator.relaxation import Admits, Relaxed, relax
from mpqc.allocator.solution import OPTIMAL_GAP
from mpqc.allocator.terms import Terms

CORES = (30, 60, 120, 240, 480)
"""Choices beyond one a group in the cores that are searched for incumbents."""
CORE_SHARE = 0.1
"""Of the effort, what one core may take."""

LATE = 0.05
"""Of the time: with less than this left, the proof is not begun."""


@dataclass(frozen=True)
class _Best:
    """The best choices known and their loss in floats."""

    choice: tuple[int, ...] | None
    value: float


def minimum(terms: Terms, effort: Effort, admits: Admits, hint: tuple[int, ...] | None = None) -> Outcome:
    """The least sum of `terms.loss` under `terms.rows`, with a valid lower bound.

    `admits` is the exact test that choices must pass: rows are counted on a grid, and what exceeds a limit by less than its step
    is found again with digits enough to tell.
    """
    if not terms.legal:  # nothing to choose
        return Outcome("optimal", (), 0.0) if admits(()) else Outcome("infeasible", None, inf)
    clock = _Clock(effort)
    relaxed = relax(terms, admits, hint)
    if relaxed.infeasible:
        return Outcome("infeasible", None, inf)
    best = _Best(relaxed.incumbent, relaxed.value)
    if _closed(relaxed, best.value, relaxed.bound):
        return Outcome("optimal", best.choice, _bound(relaxed, relaxed.bound))
    for size in CORES:
        if clock.left > 0.5 * effort.seconds:
            best = _improved(relaxed, best, size, clock.share(CORE_SHARE), admits)
    return _proved(relaxed, best, clock, admits)


def _improved(relaxed: Relaxed, best: _Best, size: int, effort: Effort, admits: Admits) -> _Best:
    """`best`, or better choices within the core of `size`."""
    ceiling = _core_ceiling(relaxed, size)
    if ceiling >= best.value:
        return best
    found = exact(kept_terms(relaxed, best, ceiling), effort, strict=True, hint=best.choice)
    return _better(relaxed, best, found, admits)


def _better(relaxed: Relaxed, best: _Best, found: Outcome, admits: Admits) -> _Best:
    if found.choice is None:
        return best
    value = relaxed.place.objective(np.array(found.choice))
    return _Best(found.choice, value) if value < best.value and admits(found.choice) else best


def _proved(relaxed: Relaxed, best: _Best, clock: _Clock, admits: Admits) -> Outcome:
    """The outcome of searching all that can be better than `best`."""
    if best.choice is not None and clock.left < LATE * clock.effort.seconds:
        return Outcome("feasible", best.choice, _bound(relaxed, relaxed.bound))
    kept = kept_terms(relaxed, best, best.value)
    first = exact(kept, clock.share(1.0), strict=False, hint=best.choice)
    if first.status == "infeasible" and best.choice is None:
        return first
    better = _better(relaxed, best, first, admits)
    bound = max(relaxed.bound, min(first.bound, better.value))
    if first.choice is not None and not admits(first.choice) and not _closed(relaxed, better.value, bound):
        second = exact(kept_terms(relaxed, better, better.value), clock.share(1.0), strict=True, hint=better.choice)
        better = _better(relaxed, better, second, admits)
        bound = max(bound, min(second.bound, better.value)) if second.exact else bound
        first = second
    status = first.status if better.choice is None else "feasible"
    return Outcome("optimal" if _closed(relaxed, better.value, bound) else status, better.choice, _bound(relaxed, bound))


def _closed(relaxed: Relaxed, value: float, bound: float) -> bool:
    """Whether nothing is better than `value`: of integers none lies between, of floats none that is better by more than OPTIMAL_GAP."""
    if not np.isfinite(value):
        return False
    return value - bound < 1 if relaxed.place.terms.whole else value - bound <= OPTIMAL_GAP * abs(value)


def _bound(relaxed: Relaxed, bound: float) -> float:
    """`bound`, up to the next integer where every objective is one."""
    return float(ceil(bound)) if relaxed.place.terms.whole and isfinite(bound) else bound


def _core_ceiling(relaxed: Relaxed, size: int) -> float:
    """The least loss up to which entries belong to a core of `size` choices more than groups."""
    place = relaxed.place
    unary = place.groups * place.choices
    least = np.sort(relaxed.least[:unary][place.legal[:unary]])
    return float(least[min(place.groups + size, len(least)) - 1])


def kept_terms(relaxed: Relaxed, best: _Best, ceiling: float) -> Terms:
    """The terms without entries whose least loss is above `ceiling`; at the incumbent's loss nothing better is lost."""
    place, terms = relaxed.place, relaxed.place.terms
    keep = relaxed.least <= ceiling + 1e-12 * abs(ceiling) if np.isfinite(ceiling) else np.ones(len(relaxed.least), dtype=bool)
    if best.choice is not None:
        keep[place.cells(np.array(best.choice))] = True
    legal = {}
    for scope, mask in terms.legal.items():
        shaped = keep[place.span(scope)].reshape((place.choices,) * len(scope))
        legal[scope] = mask & shaped[tuple(slice(0, size) for size in mask.shape)]
    return replace(terms, legal=legal)


def exact(terms: Terms, effort: Effort, *, strict: bool, hint: tuple[int, ...] | None) -> Outcome:
    """CP-SAT on `terms`, each part of the objective counted from its least entry."""
    least = {scope: float(part[terms.legal[scope]].min(initial=inf)) for scope, part in terms.loss.items()}
    least = {scope: value if isfinite(value) else 0.0 for scope, value in least.items()}
    above = {scope: np.where(terms.legal[scope], part - least[scope], 0.0) for scope, part in terms.loss.items()}
    spread = sum(float(part.max()) for part in above.values())
    clock = _Clock(effort)
    model = Model(terms, strict=strict)
    outcome = model.minimise(above, 1.0 if terms.whole else grid(spread), clock.share(1.0), hint, whole=terms.whole)
    rounding = 0.0 if terms.whole else 4 * EPS * (sum(map(abs, least.values())) + spread)
    return replace(outcome, bound=outcome.bound + fsum(least.values()) - rounding)


class _Clock:
    """Hands out what is left of an effort."""

    def __init__(self, effort: Effort) -> None:
        self.effort, self.start = effort, time.process_time()

    @property
    def left(self) -> float:
        """Seconds of processor time to the deadline."""
        return self.effort.seconds - (time.process_time() - self.start)

    def share(self, share: float) -> Effort:
        """A share of the deterministic time, and of the seconds left where it is a small one."""
        return replace(self.effort, seconds=max(self.left, 0.1), deterministic=self.effort.deterministic * share)
