"""The trade-off of a report: its trades are the allocator's own plans, and the chosen one lies among them."""

from __future__ import annotations

import pytest

from mpqc.cost.model import CostModel
from mpqc.flow.trade_off import POINTS, trade_offs
from mpqc.quantize.sites import find_sites
from mpqc.report.sites import Seen, site_rows
from mpqc.targets import load_target
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan, uniform_plan
from mpqc.values.request import Choosing
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import SiteTable
from tests.quant_models import residual_network


@pytest.fixture(scope="module")
def made() -> tuple[SiteTable, Sensitivities, CostModel]:
    table = find_sites(residual_network())
    rows = {site.name: {bits: (index + 1) * 4.0**-bits for bits in (2, 3, 4, 5, 6, 7, 8, 16)} for index, site in enumerate(table.sites)}
    return table, Sensitivities("fit", "loss", rows), CostModel(load_target("cortex-a76")).for_network(table)


def solved(made: tuple[SiteTable, Sensitivities, CostModel], choosing: Choosing) -> Plan:
    from mpqc.allocator import allocate

    table, sensitivities, model = made
    return allocate(table, sensitivities, model, choosing.budgets, seconds=5)


def test_each_budget_has_a_curve_on_which_the_plan_lies(made: tuple[SiteTable, Sensitivities, CostModel]) -> None:
    choosing = Choosing(budgets=(Budget(Resource.SIZE, 2500.0), Budget(Resource.BOPS, 1e9)))
    plan = solved(made, choosing)
    size, bops = trade_offs(*made, choosing, plan)
    assert (size.resource, bops.resource) == (Resource.SIZE, Resource.BOPS)
    assert (size.limit, size.used) == (2500.0, plan.used(Resource.SIZE))
    assert len(size.trades) == POINTS
    assert [trade.limit for trade in size.trades] == sorted(trade.limit for trade in size.trades)
    assert [trade.loss for trade in size.trades] == sorted((trade.loss for trade in size.trades), reverse=True)
    assert size.loss == pytest.approx(plan.proof.objective, rel=1e-6)
    assert all(trade.loss <= size.loss or trade.used < size.used for trade in size.trades)
    assert size.int8_loss == pytest.approx(sum((index + 1) * 4.0**-8 for index in range(len(made[0].sites))))


def test_without_a_budget_it_is_of_time_and_without_sensitivities_of_nothing(made: tuple[SiteTable, Sensitivities, CostModel]) -> None:
    plan = solved(made, Choosing())
    assert [found.resource for found in trade_offs(*made, Choosing(), plan)] == [Resource.LATENCY]
    assert trade_offs(made[0], None, made[2], Choosing(), plan) == ()


def test_alternatives_change_one_group_and_nothing_else(made: tuple[SiteTable, Sensitivities, CostModel]) -> None:
    table, sensitivities, model = made
    plan = uniform_plan(table, "cortex-a76", 8, 8)
    rows = {row.name: row for row in site_rows(table, plan, model, Seen({}, sensitivities.values, "loss"))}
    weight = rows["w1"]
    assert [item.bits for item in weight.alternatives] == [2, 3, 4, 5, 6, 7, 8, 16]
    by_bits = {item.bits: item for item in weight.alternatives}
    node = next(node for node in table.nodes if node.weight == "w1")
    assert by_bits[4].time_us == pytest.approx(model.microseconds(node, 4, (8,), 8))
    assert (by_bits[4].stored, by_bits[16].stored, by_bits[16].time_us) == (model.weight_bytes(table.by_name["w1"], 4), None, None)
    shared = next(name for name, members in table.groups.items() if len(members) > 1)
    total = sum(sensitivities.values[member.name][4] for member in table.groups[shared])
    assert all({item.bits: item for item in rows[member.name].alternatives}[4].loss == pytest.approx(total) for member in table.groups[shared])
