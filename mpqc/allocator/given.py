"""What a plan that is given (by hand, or uniform) uses of every resource, and whether it keeps the budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mpqc.allocator.build import allocate
from mpqc.facts.prices import Pricer
from mpqc.values.budget import Budget
from mpqc.values.plan import Plan, Proof
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import SiteTable


def evaluate(table: SiteTable, plan: Plan, cost_model: Pricer, budgets: Sequence[Budget]) -> Plan:
    """`plan` with its uses on this target. Raises BudgetInfeasibleError where it breaks a budget, PlanError for bits that the target lacks."""
    unscored = Sensitivities("none", "none", {})
    fixed = {choice.site: choice.bits for choice in plan.choices}
    priced = allocate(table, unscored, cost_model, budgets, fixed=fixed)
    status = plan.proof.status if plan.proof.status == "uniform" else "given"
    return replace(plan, target=priced.target, uses=priced.uses, proof=Proof(status), pruned=priced.pruned)
