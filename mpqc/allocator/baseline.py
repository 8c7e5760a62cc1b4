"""What every plan is compared with: the network with everything at 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpqc.errors import PlanError, TargetError
from mpqc.values.plan import Plan, predicted, uniform_plan
from mpqc.values.site import SiteTable

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel


def int8_plan(table: SiteTable, cost_model: CostModel) -> Plan | None:
    """Everything at 8 bits, with its uses; None where the target has no such kernels or no latency."""
    from mpqc.allocator.given import evaluate

    try:
        plan = evaluate(table, uniform_plan(table, cost_model.target.name, 8, 8), cost_model, ())
    except (PlanError, TargetError):
        return None
    return plan if predicted(plan) else None


def int8_latency(table: SiteTable, cost_model: CostModel) -> float | None:
    """Predicted microseconds with every site at 8 bits; None where the target has no such kernels or no latency."""
    plan = int8_plan(table, cost_model)
    return None if plan is None else predicted(plan)
