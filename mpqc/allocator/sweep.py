"""Many limits of one resource: the trade-off curve, each point started from its neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mpqc.allocator.problem import Problem
from mpqc.allocator.solution import Solution
from mpqc.allocator.solver import solve
from mpqc.errors import BudgetInfeasibleError, UsageError


@dataclass(frozen=True)
class Point:
    """One limit and the best solution within it; None where nothing fits."""

    limit: float
    solution: Solution | None


def pareto(problem: Problem, resource: str, limits: Sequence[float], *, seconds: float = 10.0, seed: int = 0) -> tuple[Point, ...]:
    """The best solution for each of `limits` on the cost or peak named `resource`, in the order given; other limits hold throughout.

    Solved from the widest limit down; `seconds` is for each. Raises UsageError where `problem` has no such cost or peak.
    """
    if resource not in {bound.name for bound in problem.bounds}:
        raise UsageError(f"{resource} is not a cost of the problem", hint=f"it has {', '.join(bound.name for bound in problem.bounds)}")
    found: dict[float, Solution | None] = {}
    last: Solution | None = None
    for limit in sorted(set(limits), reverse=True):
        last = None if None in found.values() else _within(problem, resource, limit, last, seconds, seed)
        found[limit] = last
    return tuple(Point(limit, found[limit]) for limit in limits)


def _within(problem: Problem, resource: str, limit: float, last: Solution | None, seconds: float, seed: int) -> Solution | None:
    if last is not None and last.uses[resource] <= limit and last.status == "optimal":
        return last
    try:
        return solve(limited(problem, resource, limit), seconds=seconds, seed=seed, hint=last.choice if last else None)
    except BudgetInfeasibleError:
        return None


def limited(problem: Problem, resource: str, limit: float | None) -> Problem:
    """`problem` with another limit on one cost or peak."""
    costs = tuple(replace(cost, limit=limit) if cost.name == resource else cost for cost in problem.costs)
    peaks = tuple(replace(peak, limit=limit) if peak.name == resource else peak for peak in problem.peaks)
    return replace(problem, costs=costs, peaks=peaks)
