"""The fastest plan within a drop, found by halving limits, on plans that are made up."""

from __future__ import annotations

import pytest

from mpqc.errors import BudgetInfeasibleError
from mpqc.flow.drop_search import plan_within
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Choice, Plan, Proof, Use
from mpqc.values.site import SiteKind

LEAST, MOST = 20, 84


def solve(budgets: tuple[Budget, ...]) -> Plan:
    """The plan that uses all that it may: as many bits as microseconds."""
    limit = min((budget.limit for budget in budgets), default=MOST)
    if limit < LEAST:
        raise BudgetInfeasibleError("no", least={"latency": float(LEAST)})
    bits = int(min(limit, MOST))
    return Plan("t", (Choice("w", SiteKind.WEIGHT, bits),), Proof("optimal"), (Use(Resource.LATENCY, float(bits), limit),))


@pytest.mark.parametrize("most", [0.0, 1.0, 10.0, 40.0, 63.0, 64.0, 100.0])
def test_the_least_time_whose_drop_is_small_enough(most: float) -> None:
    tried: list[int] = []

    def drop(plan: Plan) -> float:
        tried.append(int(plan.choices[0].bits or 0))
        return float(MOST - tried[-1])

    found = plan_within(most, Resource.LATENCY, solve, drop)
    assert MOST - (found.choices[0].bits or 0) <= most
    assert (found.choices[0].bits or 0) - max(MOST - most, LEAST) <= 1
    assert len(tried) == len(set(tried)) <= 8
    assert found.uses[0].limit is None
    assert "lose at most" in found.notes[-1]


def test_where_nothing_is_good_enough_the_best_is_taken_and_says_so() -> None:
    found = plan_within(1.0, Resource.LATENCY, solve, lambda plan: 5.0)
    assert found.choices[0].bits == MOST
    assert "no plan loses at most 1 points: this one, the best of all, loses 5" in found.notes[-1]
