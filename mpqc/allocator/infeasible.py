"""Why no plan fits: which limits cannot be met, and the least that each can be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from mpqc.allocator.model import Effort, Model, Outcome, grid
from mpqc.allocator.problem import Cost, Peak, Problem, limit_of
from mpqc.allocator.search import minimum
from mpqc.allocator.solution import Solution, round_up, solution_of
from mpqc.allocator.terms import are_whole, merge, terms_of
from mpqc.errors import BudgetInfeasibleError, PlanError

Bound = Cost | Peak

HAIR = Fraction(1, 2**1100)
"""Less than any two sums of floats can differ by"""


@dataclass(frozen=True)
class Least:
    """The least that a bound can be, and choices that attain it; both None where nothing is possible."""

    name: str
    value: Fraction | None
    at: tuple[int, ...] | None
    proven: bool = True
    """Whether nothing less is possible; else it is the least found in the time given"""

    @property
    def shown(self) -> float:
        """The smallest float that admits `value` as a limit."""
        assert self.value is not None, self.name
        return round_up(self.value)


@dataclass(frozen=True)
class Conflict:
    """Why no choice fits: bounds that cannot be met even alone, the least of each alone, and while the others hold."""

    impossible: tuple[str, ...]
    alone: tuple[Least, ...]
    together: tuple[Least, ...]

    @property
    def way_out(self) -> Least | None:
        """The least of the first bound named: while the others hold if they can, else alone."""
        first = self.impossible[0] if self.impossible else ""
        ranked = (*self.together, *self.alone)
        return next((least for least in ranked if least.at and first in ("", least.name)), None)


def refuse(problem: Problem, effort: Effort) -> BudgetInfeasibleError:
    """The error for `problem`, whose limits no choice satisfies; `plan` is the best Solution where the first limit named is the least
    that can be met. Raises PlanError where no combination exists at all."""
    conflict = explain(problem, effort)
    alone, together = _values(conflict.alone), _values(conflict.together)
    what, why, hint = _told(problem, conflict, alone, together)
    return BudgetInfeasibleError(what, why=why, hint=hint, least=alone, together=together, plan=_best(problem, conflict, effort))


def explain(problem: Problem, effort: Effort) -> Conflict:
    """The conflict in `problem`, whose limits no choice satisfies. Raises PlanError where no combination exists at all."""
    bounds = problem.limited
    alone = tuple(_least(problem, bound, (), effort) for bound in bounds)
    if any(least.at is None for least in alone):
        raise PlanError("no combination of the allowed and fixed choices has a kernel", hint="free some fixed sites or pick another target")
    impossible = tuple(least.name for least, bound in zip(alone, bounds, strict=True) if (least.value or 0) > limit_of(bound))
    together = tuple(_least(problem, bound, [b for b in bounds if b is not bound], effort) for bound in bounds) if len(bounds) > 1 else ()
    return Conflict(impossible, alone, together)


def _values(leasts: tuple[Least, ...]) -> dict[str, float]:
    return {least.name: least.shown for least in leasts if least.value is not None}


def _told(problem: Problem, conflict: Conflict, alone: dict[str, float], together: dict[str, float]) -> tuple[str, str, str]:
    """What, why and hint."""
    bounds = {bound.name: bound for bound in problem.limited}
    least = {found.name: "least possible" if found.proven else "least found" for found in conflict.alone}
    limits = {name: f"{name} <= {bound.show(limit_of(bound), limit_of(bound))}" for name, bound in bounds.items()}

    def show(name: str, value: float) -> str:
        return bounds[name].show(value, limit_of(bounds[name]))

    options = "; ".join(f"{name} {show(name, value)}" for name, value in together.items())
    if conflict.impossible:
        asked = " and ".join(dict.fromkeys(bounds[name].asked for name in conflict.impossible))
        faults = (f"{limits[name]} (the {least[name]} is {show(name, alone[name])})" for name in conflict.impossible)
        tighter = "; ".join(f"{name} {show(name, together[name])}" for name in conflict.impossible if together.get(name, 0.0) > alone[name])
        hint = f"with the other budgets held: at least {tighter}" if tighter else f"raise {asked} to at least that"
        return f"cannot meet {' nor '.join(faults)}", "", hint
    singles = "; ".join(f"{name} {show(name, value)}" for name, value in alone.items())
    hint = f"with the others held, the least is: {options}" if options else "raise at least two of them"
    return f"cannot meet {' and '.join(limits.values())} together", f"each alone can be met (least: {singles})", hint


def _best(problem: Problem, conflict: Conflict, effort: Effort) -> Solution | None:
    """The best choices where the limit in the way is the least that can be met, and the others hold if they can."""
    least = conflict.way_out
    if least is None or least.at is None:
        return None
    kept = {bound.name for bound in problem.limited} if least in conflict.together else {least.name}
    eased = replace(
        problem,
        costs=tuple(replace(cost, limit=_eased(cost, least, kept)) for cost in problem.costs),
        peaks=tuple(replace(peak, limit=_eased(peak, least, kept)) for peak in problem.peaks),
    )
    found = minimum(terms_of(eased), effort, eased.admits, least.at)
    return solution_of(eased, found.choice or least.at, found.bound, 0.0)


def _eased(bound: Bound, least: Least, kept: set[str]) -> float | Fraction | None:
    if bound.name == least.name:
        return least.value
    return bound.limit if bound.name in kept else None


def _least(problem: Problem, bound: Bound, others: Sequence[Bound], effort: Effort) -> Least:
    start = time.process_time()
    outcome = _least_cost(problem, bound, others, effort) if isinstance(bound, Cost) else _least_peak(problem, bound, others, effort)
    if outcome.choice is None:
        return Least(bound.name, None, None, outcome.status == "infeasible")
    left = replace(effort, seconds=max(effort.seconds - (time.process_time() - start), 0.1))
    return _lowered(problem, bound, others, outcome.choice, left)


def _lowered(problem: Problem, bound: Bound, others: Sequence[Bound], at: tuple[int, ...], effort: Effort) -> Least:
    """The least that `bound` can be, from choices that attain it nearly: the search before closes gaps of floats that are tiny, not none.

    Each round asks, in digits enough, for anything less than what is known.
    """
    deadline = time.process_time() + effort.seconds
    while (left := deadline - time.process_time()) > 0:
        value = bound.exact(at)
        below = replace(bound, limit=value - HAIR)
        model = Model(terms_of(problem, [*others, below]), strict=True)
        found = model.minimise({}, 1.0, replace(effort, seconds=left), whole=True)
        if found.choice is None:
            return Least(bound.name, value, at, found.status == "infeasible")
        at = found.choice
    return Least(bound.name, bound.exact(at), at, proven=False)


def _least_cost(problem: Problem, bound: Cost, others: Sequence[Bound], effort: Effort) -> Outcome:
    terms = replace(terms_of(problem, others), loss=merge(bound.tables))
    return minimum(terms, effort, lambda choice: _hold(others, choice))


def _least_peak(problem: Problem, bound: Peak, others: Sequence[Bound], effort: Effort) -> Outcome:
    moments = [merge(moment) for moment in bound.moments]
    whole = all(are_whole(parts.values()) for parts in moments)
    unit = 1.0 if whole else grid(max((sum(float(abs(part).max()) for part in parts.values()) for parts in moments), default=0.0))
    terms = terms_of(problem, others)
    outcome = Model(terms, strict=False).minimise_largest(moments, unit, effort, whole=whole)
    return _strict_if_needed(others, outcome, lambda: Model(terms, strict=True).minimise_largest(moments, unit, effort, whole=whole))


def _strict_if_needed(others: Sequence[Bound], outcome: Outcome, again: Callable[[], Outcome]) -> Outcome:
    """`outcome`, or that of `again` where its choices exceed another limit by less than the grid can show."""
    return outcome if outcome.choice is None or _hold(others, outcome.choice) else again()


def _hold(bounds: Iterable[Bound], choice: tuple[int, ...]) -> bool:
    return all(bound.exact(choice) <= limit_of(bound) for bound in bounds)
