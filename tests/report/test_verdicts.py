"""What the report says of a budget: nothing is called met that a part without a price could break."""

from __future__ import annotations

import pytest

import mpqc
from mpqc.report.text import plan_lines
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan, Proof, Use, uniform_plan
from tests.quant_models import residual_network


def lines(*, limit: float | None = 20.0, unpriced: tuple[str, ...] = (), modelled_us: float | None = None) -> str:
    return plan_lines(Plan("cortex-a76", (), Proof("optimal", modelled_us=modelled_us), (Use(Resource.LATENCY, 12.0, limit, unpriced),)))[0]


def test_a_budget_beside_float_nodes_is_not_known_to_hold() -> None:
    assert lines() == "latency: 12 us of 20 us"
    assert lines(limit=None, unpriced=("a",)) == "latency: 12 us"
    found = lines(unpriced=("a", "b", "c", "d"))
    assert found.startswith("latency: 12 us of 20 us without the float nodes")
    assert "(a, b, c and 1 more): whether the budget holds is not known; --price" in found
    assert lines(unpriced=("a",), modelled_us=19.0).startswith("latency: 12 us of 20 us, 19 us with the float nodes")


def test_prices_that_were_never_compared_are_shown_with_their_error() -> None:
    for limit, tail in ((20.0, ""), (14.0, ": it may be over")):
        use = Use(Resource.LATENCY, 12.0, limit, (), 25)
        found = plan_lines(Plan("neoverse-n1", (), Proof("optimal"), (use,)))[0]
        assert found == f"latency: 12 us +-25 % (prices were not compared with the chip) of {limit:.0f} us{tail}"


@pytest.mark.parametrize("softmax", [False, True])
def test_plans_name_the_nodes_that_have_no_price(softmax: bool) -> None:
    network = residual_network(softmax=softmax)
    table = mpqc.find_sites(network)
    target = mpqc.load_target("cortex-a76")
    bare = target.model_copy(update={"rows": tuple(row for row in target.rows if not row.kernel.startswith("float_"))})
    costs = mpqc.CostModel(bare).for_network(table)
    plan = mpqc.evaluate(table, uniform_plan(table, "cortex-a76", 8, 8), costs, (Budget(Resource.LATENCY, 1e4),))
    assert [use.resource for use in plan.uses if use.unpriced] == ([Resource.LATENCY] if softmax else [])
    latency = plan.use(Resource.LATENCY)
    assert latency is not None
    assert latency.unpriced == (("softmax",) if softmax else ())


def test_every_core_with_dotprod_but_one_takes_latency_budgets() -> None:
    network = residual_network()
    table = mpqc.find_sites(network)
    for name, error in (("cortex-a76", 0), ("neoverse-n1", 25)):
        costs = mpqc.CostModel(mpqc.load_target(name)).for_network(table)
        plan = mpqc.evaluate(table, uniform_plan(table, name, 8, 8), costs, (Budget(Resource.LATENCY, 1e4),))
        latency = plan.use(Resource.LATENCY)
        assert latency is not None
        assert latency.used > 0
        assert latency.error_percent == error
        assert ("not validated" in costs.origin) == bool(error)
