"""Why no plan fits: which limits cannot be met, and the least that each can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf

from mpqc.allocator.model import Effort, Model, Outcome, grid
from mpqc.allocator.problem import Cost, Peak, Problem
from mpqc.allocator.search import minimum
from mpqc.allocator.solution import round_up, solution_of
from mpqc.allocator.terms import merge, terms_of
from mpqc.errors import BudgetInfeasibleError, PlanError

Bound = Cost | Peak
Formatter = Callable[[str, float], str]


@dataclass(frozen=True)
class Least:
    """The least that a bound can be, and choices that attain it; `value` None where nothing is possible."""

    name: str
    value: float | None
    at: tuple[int, ...] | None


@dataclass(frozen=True)
class Conflict:
    """Why no choice fits: bounds that cannot be met even alone, the least of each alone, and while the others hold."""

    impossible: tuple[str, ...]
    alone: tuple[Least, ...]
    together: tuple[Least, ...]

    @property
    def plan(self) -> tuple[int, ...] | None:
        """Choices that attain the least of the first bound named: while the others hold if they can, else alone."""
        first = self.impossible[0] if self.impossible else ""
        ranked = (*self.together, *self.alone)
        return next((least.at for least in ranked if least.at and first in ("", least.name)), None)


def explain(problem: Problem, effort: Effort) -> Conflict:
    """The conflict in `problem`, whose limits no choice satisfies. Raises PlanError where no combination exists at all."""
    bounds = [bound for bound in (*problem.costs, *problem.peaks) if bound.limit is not None]
    alone = tuple(_least(problem, bound, (), effort) for bound in bounds)
    if any(least.at is None for least in alone):
        raise PlanError("no combination of the allowed and fixed choices has a kernel", hint="free some fixed sites or pick another target")
    impossible = tuple(least.name for least, bound in zip(alone, bounds, strict=True) if (least.value or 0.0) > (bound.limit or 0.0))
    together = tuple(_least(problem, bound, [b for b in bounds if b is not bound], effort) for bound in bounds) if len(bounds) > 1 else ()
    return Conflict(impossible, alone, together)


def refuse(problem: Problem, effort: Effort) -> BudgetInfeasibleError:
    """The error for `problem`, whose limits no choice satisfies, in the problem's own units."""
    return error_of(problem, explain(problem, effort), lambda _, value: f"{value:.6g}")


def error_of(problem: Problem, conflict: Conflict, show: Formatter) -> BudgetInfeasibleError:
    """The error that tells `conflict`; `show(name, value)` writes an amount."""
    limits = {bound.name: bound.limit for bound in (*problem.costs, *problem.peaks) if bound.limit is not None}
    alone = {least.name: least.value for least in conflict.alone if least.value is not None}
    together = {least.name: least.value for least in conflict.together if least.value is not None}
    plan = solution_of(problem, conflict.plan, -inf, 0.0) if conflict.plan else None
    if conflict.impossible:
        faults = [f"{name} <= {show(name, limits[name])} (least possible {show(name, alone[name])})" for name in conflict.impossible]
        return BudgetInfeasibleError(
            f"cannot meet {', '.join(faults)}", least=alone, together=together, plan=plan, hint="raise the limit to at least this"
        )
    faults = [f"{name} <= {show(name, limit)}" for name, limit in limits.items()]
    options = [f"{name} {show(name, value)}" for name, value in together.items()]
    singles = ", ".join(f"{name} {show(name, value)}" for name, value in alone.items())
    hint = f"with the other limits held, the least is: {'; '.join(options)}" if options else "relax at least two limits"
    what = f"cannot meet {' and '.join(faults)} together"
    return BudgetInfeasibleError(what, why=f"each alone can be met (least: {singles})", least=alone, together=together, plan=plan, hint=hint)


def _least(problem: Problem, bound: Bound, others: Iterable[Bound], effort: Effort) -> Least:
    terms = terms_of(problem, others)
    if isinstance(bound, Cost):
        terms = replace(terms, loss=merge(bound.tables))
        outcome = minimum(terms, effort, lambda choice: _hold(others, choice))
    else:
        outcome = _least_peak(problem, bound, others, effort)
    if outcome.choice is None:
        return Least(bound.name, None, None)
    return Least(bound.name, round_up(bound.exact(outcome.choice)), outcome.choice)


def _least_peak(problem: Problem, bound: Peak, others: Iterable[Bound], effort: Effort) -> Outcome:
    moments = [merge(moment) for moment in bound.moments]
    unit = grid(max((sum(float(abs(part).max()) for part in parts.values()) for parts in moments), default=0.0))
    terms = terms_of(problem, others)
    outcome = Model(terms, strict=False).minimise_largest(moments, unit, effort)
    return _strict_if_needed(others, outcome, lambda: Model(terms, strict=True).minimise_largest(moments, unit, effort))


def _strict_if_needed(others: Iterable[Bound], outcome: Outcome, again: Callable[[], Outcome]) -> Outcome:
    """`outcome`, or that of `again` where its choices exceed another limit by less than the grid can show."""
    return outcome if outcome.choice is None or _hold(others, outcome.choice) else again()


def _hold(bounds: Iterable[Bound], choice: tuple[int, ...]) -> bool:
    return all(bound.exact(choice) <= Fraction(bound.limit or 0) for bound in bounds)
