"""The trade-off between one resource and the expected loss: the best plan at evenly spread limits, from saved sensitivities."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from mpqc.errors import BudgetInfeasibleError, UsageError
from mpqc.flow.plan_choice import check_fixed, cost_model_of
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan
from mpqc.values.request import Solving
from mpqc.values.sensitivities import Sensitivities, read_sensitivities
from mpqc.values.site import SiteTable
from mpqc.values.site_file import read_sites
from mpqc.workspace.folder import Workspace

NEARLY_NOTHING = 1e-9
"""Of the most that a plan uses: a limit that no plan meets, which makes the allocator say what the least is"""
FILE = "pareto.json"


@dataclass(frozen=True)
class Trade:
    """One limit, what the best plan within uses of the resource, and its expected loss increase."""

    limit: float
    used: float
    loss: float
    status: str
    """optimal | feasible (at the deadline)"""


def sweep_saved(folder: Path, solving: Solving, resource: Resource, points: int) -> tuple[Trade, ...]:
    """The best plans at `points` limits on `resource` from the least possible to what the best plan of all uses; writes pareto.json.

    The budgets of `solving` hold at every point. Raises PlanError without sites.json and sensitivities.json in `folder`, TargetError where the
    target cannot price the resource, BudgetInfeasibleError where the other budgets cannot be met.
    """
    table, sensitivities = read_sites(folder / "sites.json"), read_sensitivities(folder / "sensitivities.json")
    check_fixed(solving.fixed, table, cost_model_of(solving).target)
    widest = _plan(table, sensitivities, solving)
    most = _used(widest, resource)
    limits = [float(limit) for limit in np.linspace(_least(table, sensitivities, solving, resource, most), most, points)]
    trades = _swept(table, sensitivities, solving, resource, limits, widest)
    rows = {"schema_version": 1, "target": solving.target, "resource": resource.value, "points": [asdict(trade) for trade in trades]}
    Workspace(folder).write_text(FILE, json.dumps(rows, indent=1) + "\n")
    return trades


def _swept(
    table: SiteTable, sensitivities: Sensitivities, solving: Solving, resource: Resource, limits: list[float], widest: Plan
) -> tuple[Trade, ...]:
    """The trades in the order of `limits`, solved from the widest down: each starts from its wider neighbour, which holds where it fits."""
    found: dict[float, Plan] = {}
    last = widest
    for limit in sorted(limits, reverse=True):
        fits = last.proof.status == "optimal" and _used(last, resource) <= limit
        last = last if fits else _plan(table, sensitivities, _within(solving, resource, limit), last)
        found[limit] = last
    return tuple(_trade(found[limit], resource, limit) for limit in limits)


def _plan(table: SiteTable, sensitivities: Sensitivities, solving: Solving, near: Plan | None = None) -> Plan:
    from mpqc.allocator import allocate

    cost_model = cost_model_of(solving).for_network(table)
    hint = None if near is None else {choice.site: choice.bits for choice in near.choices}
    seconds, seed, fixed = solving.solver_seconds, solving.seed, solving.fixed
    return allocate(table, sensitivities, cost_model, solving.budgets, seconds=seconds, seed=seed, fixed=fixed, hint=hint)


def _within(solving: Solving, resource: Resource, limit: float) -> Solving:
    return replace(solving, budgets=(*solving.budgets, Budget(resource, limit)))


def _least(table: SiteTable, sensitivities: Sensitivities, solving: Solving, resource: Resource, most: float) -> float:
    try:
        _plan(table, sensitivities, _within(solving, resource, max(most, 1.0) * NEARLY_NOTHING))
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
