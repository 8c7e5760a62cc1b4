"""What more or less of a resource would buy, for the report: a short sweep of the plans that the sensitivities say are best."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mpqc.errors import BudgetInfeasibleError
from mpqc.flow.drop_search import cheapest_resource
from mpqc.flow.pareto import Sweep, swept
from mpqc.values.budget import Resource
from mpqc.values.plan import Plan
from mpqc.values.request import Choosing
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import SiteTable
from mpqc.values.trade import TradeOff

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel

POINTS = 6
SECONDS = 2.0
"""Processor time of one plan, at most"""
MOST = 2
"""Resources that are swept"""


def trade_offs(table: SiteTable, sensitivities: Sensitivities | None, cost_model: CostModel, choosing: Choosing, plan: Plan) -> tuple[TradeOff, ...]:
    """Of each budgeted resource, or of time where there is no budget, with the chosen `plan` among the trades. None without sensitivities."""
    if sensitivities is None:
        return ()
    bounded = tuple(dict.fromkeys(budget.resource for budget in choosing.budgets))[:MOST] or (cheapest_resource(cost_model),)
    found = (_trade_off(table, sensitivities, cost_model, choosing, (plan, resource)) for resource in bounded)
    return tuple(trade_off for trade_off in found if trade_off is not None)


def _trade_off(
    table: SiteTable, sensitivities: Sensitivities, cost_model: CostModel, choosing: Choosing, chosen: tuple[Plan, Resource]
) -> TradeOff | None:
    plan, resource = chosen
    others = tuple(budget for budget in choosing.budgets if budget.resource is not resource)
    solving = replace(choosing, budgets=others, solver_seconds=min(SECONDS, choosing.solver_seconds))
    used, loss = plan.used(resource), expected_loss(table, sensitivities, plan)
    if used is None or loss is None:
        return None
    try:
        trades = swept(Sweep(table, sensitivities, cost_model, solving), resource, POINTS)
    except BudgetInfeasibleError:  # the other budgets hold for trained or pruned networks alone
        return None
    limit = min((budget.limit for budget in choosing.budgets if budget.resource is resource), default=None)
    return TradeOff(resource, trades, used, loss, limit, *_int8(table, sensitivities, cost_model, resource))


def _int8(table: SiteTable, sensitivities: Sensitivities, cost_model: CostModel, resource: Resource) -> tuple[float | None, float | None]:
    from mpqc.allocator.baseline import int8_plan

    plan = int8_plan(table, cost_model)
    return (None, None) if plan is None else (plan.used(resource), expected_loss(table, sensitivities, plan))


def expected_loss(table: SiteTable, sensitivities: Sensitivities, plan: Plan) -> float | None:
    """The sum over all sites; None where one has a width that was not scored. Float costs nothing."""
    total = 0.0
    for site in table.sites:
        bits, row = plan.bits(site.name), sensitivities.values.get(site.name, {})
        if bits is not None and bits not in row:
            return None
        total += 0.0 if bits is None else row[bits]
    return total
