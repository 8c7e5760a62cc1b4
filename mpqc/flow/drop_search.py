"""The fastest plan that loses little enough: limits of time are halved, and what the best plan inside each one loses is measured.

Plans are tried out with quantizers in float, on the samples that verdicts are judged on, before any program is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mpqc.errors import BudgetInfeasibleError
from mpqc.facts.amounts import format_amount
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan, same_bits

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel

HALVINGS = 6
"""Limits that are tried between the least and what the best plan of all takes: the last two differ by a 64th of the way"""
NEARLY_NOTHING = 1e-9
"""A limit that no plan meets, which makes the allocator say what the least is"""

Solve = Callable[[tuple[Budget, ...]], Plan]
Drop = Callable[[Plan], float]


@dataclass(frozen=True)
class Tried:
    """A plan, what it uses of the resource, and the points that it loses."""

    plan: Plan
    used: float
    drop: float


def cheapest_resource(cost_model: CostModel) -> Resource:
    """What is made small: time where the target knows it, else bit operations."""
    return Resource.LATENCY if cost_model.can_bound(Resource.LATENCY) else Resource.BOPS


def plan_within(most: float, resource: Resource, solve: Solve, drop: Drop) -> Plan:
    """The plan that uses least of `resource` of those tried that lose at most `most` points; where even the best one of all loses more, that one.

    `solve` finds the best plan inside budgets. Its loss is expected, `drop` is measured: more of the resource is taken for less loss.
    """
    tried: list[Tried] = []

    def judged(plan: Plan) -> Tried:
        known = next((one for one in tried if same_bits(one.plan, plan)), None)
        found = Tried(plan, plan.used(resource) or 0.0, known.drop if known else drop(plan))
        tried.append(found)
        return found

    best = judged(solve(()))
    if best.drop > most:
        return _noted(best, most, resource, tried)
    low = judged(_least(solve, resource))
    if low.drop <= most:
        return _noted(low, most, resource, tried)
    least = low.used
    for _ in range(HALVINGS):
        middle = (least + best.used) / 2
        found = judged(solve((Budget(resource, middle),)))
        if found.drop <= most:
            best = found
        else:
            least = middle
    return _noted(best, most, resource, tried)


def _least(solve: Solve, resource: Resource) -> Plan:
    """The plan that uses least of all."""
    try:
        return solve((Budget(resource, NEARLY_NOTHING),))
    except BudgetInfeasibleError as error:
        return solve((Budget(resource, error.together.get(resource.value, error.least[resource.value])),))


def _noted(chosen: Tried, most: float, resource: Resource, tried: list[Tried]) -> Plan:
    """The plan alone, without the limit that it was found with, and how it was found."""
    uses = tuple(replace(use, limit=None) for use in chosen.plan.uses)
    count = sum(not any(same_bits(one.plan, other.plan) for other in tried[:index]) for index, one in enumerate(tried))
    found = f"of {count} plans tried, this one uses least ({format_amount(resource, chosen.used)}) of those that lose at most {most:g} points"
    if chosen.drop > most:
        found = f"no plan loses at most {most:g} points: this one, the best of all, loses {chosen.drop:.3g} when tried out"
    return replace(chosen.plan, uses=uses, notes=(*chosen.plan.notes, found))
