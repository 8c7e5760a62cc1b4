"""The trade-off between one resource and the expected loss: the best plan at evenly spread limits, from saved sensitivities."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpqc.errors import BudgetInfeasibleError, UsageError
from mpqc.flow.plan_choice import check_fixed, cost_model_of
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan
from mpqc.values.request import Solving
from mpqc.values.sensitivities import Sensitivities, read_sensitivities
from mpqc.values.site import SiteTable
from mpqc.values.site_file import read_sites
from mpqc.values.trade import Trade
from mpqc.workspace.folder import Workspace

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel

NEARLY_NOTHING = 1e-9
"""Of the most that a plan uses: a limit that no plan meets, which makes the allocator say what the least is"""
FILE = "pareto.json"


@dataclass(frozen=True, eq=False)
class Sweep:
    """What plans are solved for, again and again."""

    table: SiteTable
    sensitivities: Sensitivities
    cost_model: CostModel
    """For the network"""
    solving: Solving

    def within(self, resource: Resource, limit: float) -> Sweep:
        """The same with one budget more."""
        return replace(self, solving=replace(self.solving, budgets=(*self.solving.budgets, Budget(resource, limit))))

    def plan(self, near: Plan | None = None) -> Plan:
        """The best plan inside the budgets; the search starts at `near`."""
        from mpqc.allocator import allocate

        hint = None if near is None else {choice.site: choice.bits for choice in near.choices}
        asked = self.solving
        seconds, seed, fixed = asked.solver_seconds, asked.seed, asked.fixed
        return allocate(self.table, self.sensitivities, self.cost_model, asked.budgets, seconds=seconds, seed=seed, fixed=fixed, hint=hint)


def sweep_saved(folder: Path, solving: Solving, resource: Resource, points: int) -> tuple[Trade, ...]:
    """The best plans at `points` limits on `resource` from the least possible to what the best plan of all uses; writes pareto.json.

    The budgets of `solving` hold at every point. Raises PlanError without sites.json and sensitivities.json in `folder`, TargetError where the
    target cannot price the resource, BudgetInfeasibleError where the other budgets cannot be met.
    """
    table, sensitivities = read_sites(folder / "sites.json"), read_sensitivities(folder / "sensitivities.json")
    cost_model = cost_model_of(solving)
    check_fixed(solving.fixed, table, cost_model.target)
    trades = swept(Sweep(table, sensitivities, cost_model.for_network(table), solving), resource, points)
    rows = {"schema_version": 1, "target": solving.target, "resource": resource.value, "points": [asdict(trade) for trade in trades]}
    Workspace(folder).write_text(FILE, json.dumps(rows, indent=1) + "\n")
    return trades


def swept(sweep: Sweep, resource: Resource, points: int) -> tuple[Trade, ...]:
    """The trades at evenly spread limits, ascending. They are solved from the widest down: each starts from its wider neighbour, which holds
    where it fits. Raises as sweep_saved does."""
    widest = sweep.plan()
    most = _used(widest, resource)
    limits = [float(limit) for limit in np.linspace(_least(sweep, resource, most), most, points)]
    found: dict[float, Plan] = {}
    last = widest
    for limit in sorted(limits, reverse=True):
        fits = last.proof.status == "optimal" and _used(last, resource) <= limit
        last = last if fits else sweep.within(resource, limit).plan(last)
        found[limit] = last
    return tuple(_trade(found[limit], resource, limit) for limit in limits)


def _least(sweep: Sweep, resource: Resource, most: float) -> float:
    try:
        sweep.within(resource, max(most, 1.0) * NEARLY_NOTHING).plan()
    except BudgetInfeasibleError as error:
        return error.together.get(resource.value, error.least[resource.value])
    return most


def _used(plan: Plan, resource: Resource) -> float:
    used = plan.used(resource)
    if used is not None:
        return used
    raise UsageError(f"{resource.value} has no price on this target", where="--over", hint=f"one of {', '.join(use.resource for use in plan.uses)}")


def _trade(plan: Plan, resource: Resource, limit: float) -> Trade:
    return Trade(limit, _used(plan, resource), plan.proof.objective, plan.proof.status)
