"""Which plan a compile starts from: the user's own, the uniform one, or the allocator's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from mpqc.errors import PlanError, UsageError
from mpqc.values.plan import Plan, bits_by_group, uniform_plan
from mpqc.values.request import Choosing, Solving
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import SiteTable

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel
    from mpqc.targets import Target

NEAREST = 3
"""Names that a message offers for one that is unknown"""


def cost_model_of(solving: Solving) -> CostModel:
    """The cost model of the target asked for. Raises where the target is unknown or cannot price one of the budgets."""
    from mpqc.cost.model import CostModel
    from mpqc.targets import load_target

    cost_model = CostModel(load_target(solving.target))
    for budget in solving.budgets:
        cost_model.require(budget.resource)
    return cost_model


def choose_plan(table: SiteTable, sensitivities: Sensitivities | None, cost_model: CostModel, choosing: Choosing) -> Plan:
    """The plan: the user's own, the uniform one, or the best inside the budgets. Raises BudgetInfeasibleError where it does not fit."""
    from mpqc.allocator import allocate, evaluate

    budgets, fixed = choosing.budgets, choosing.fixed
    if choosing.plan is not None:
        return evaluate(table, checked(choosing.plan, table), cost_model, budgets)
    if sensitivities is None:
        uniform = uniform_plan(table, cost_model.target.name, *choosing.uniform_bits)
        return evaluate(table, checked(with_fixed(uniform, fixed), table), cost_model, budgets)
    plan = allocate(table, sensitivities, cost_model, budgets, seconds=choosing.solver_seconds, seed=choosing.seed, fixed=fixed)
    return replace(plan, strategy=sensitivities.method)


def check_fixed(fixed: Mapping[str, int | None], table: SiteTable, target: Target) -> None:
    """Raises UsageError, with the names that are nearest, for a site that the network does not have, and for bits that the target does not."""
    from mpqc.allocator.build import offered
    from mpqc.cost.model import CostModel

    model = CostModel(target)
    for name, bits in fixed.items():
        site = table.by_name.get(name)
        if site is None:
            near = get_close_matches(name, table.by_name, n=NEAREST, cutoff=0.3)
            hint = f"nearest: {', '.join(near)}" if near else "sites.json and `mpqc analyze` have the names"
            raise UsageError(f"the network has no site {name!r}", where="--fix", hint=hint)
        if bits is not None and bits not in offered(site, model):
            widths = ", ".join(map(str, offered(site, model)))
            raise UsageError(f"{target.name} has no {bits} bits for {name!r}", where="--fix", hint=f"it has {widths}, and float")


def with_fixed(plan: Plan, fixed: Mapping[str, int | None]) -> Plan:
    """`plan` with the user's own bits for some sites. Raises PlanError for a site that it does not have."""
    strangers = sorted(set(fixed) - {choice.site for choice in plan.choices})
    if strangers:
        raise PlanError("no such site", where=strangers[0], hint="see sites.json or `mpqc analyze` for the names")
    changed = (replace(choice, bits=fixed[choice.site], reason="fixed by the user") if choice.site in fixed else choice for choice in plan.choices)
    return replace(plan, choices=tuple(changed))


def checked(plan: Plan, table: SiteTable) -> Plan:
    """`plan`, if it fits the network. Raises PlanError for unknown sites, missing ones, and groups that disagree, by name."""
    known = {choice.site for choice in plan.choices}
    strangers, missing = sorted(known - set(table.by_name)), sorted(set(table.by_name) - known)
    if strangers or missing:
        fault = f"unknown: {strangers[0]}" if strangers else f"missing: {missing[0]}"
        raise PlanError("the plan is not for this network", where=fault, hint="make one with mpqc allocate and edit its bits")
    if plan.pruned and plan.pruned != table.pruned:
        raise PlanError("the plan is for a network with other channels pruned", where=plan.pruned[0].node, hint="compile the network it was made for")
    bits_by_group(table, plan)
    return plan
