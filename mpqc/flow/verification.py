"""What a built program is held to: its price against the latency budget, and its time against all int8.

Prices are modelled by a pricing tool (mpqc.timing.pricer); without one, times are the cost model's predictions. A plan whose program is
over the budget is solved for again with less predicted time, a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.errors import BudgetInfeasibleError, GuardError, UsageError
from mpqc.facts.amounts import format_amount
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan, predicted

if TYPE_CHECKING:
    from mpqc.report.model import Report
    from mpqc.targets import Target
    from mpqc.timing.pricer import Pricer

ROUNDS = 4
"""Programs that are built and priced at most"""
MARGIN = 0.998
"""Share of the budget that a new plan is to take: prices of one program move by a tenth of a percent"""
SLOWER = 1.001
"""Ratio from which a plan is slower: below it two sums of the same prices differ by rounding"""

Solve = Callable[[tuple[Budget, ...]], Plan]
Price = Callable[[Plan], float]
"""Builds the program of a plan and prices it: modelled microseconds"""


@dataclass(frozen=True)
class PricedPlan:
    """A plan whose built program was priced."""

    plan: Plan
    modelled_us: float


@dataclass(frozen=True)
class Verifier:
    """Prices bundles for one target."""

    pricer: Pricer
    target: Target

    def microseconds(self, bundle: Path) -> float:
        """Modelled time of one warm run of `bundle` on one core."""
        return self.pricer.bundle(bundle) / (self.target.clock_hz or 1) * 1e6


def open_verifier(tool: Path | None, target: Target) -> Verifier:
    """A verifier for `target`. Raises UsageError where the target runs no bundle that can be priced, ToolMissingError without a tool."""
    from mpqc.timing.pricer import find_pricer

    if target.llvm is None or not target.llvm.mtriple.startswith("aarch64") or target.clock_hz is None:
        raise UsageError("cannot be priced", where=target.name, why="there is no AArch64 bundle or no clock_hz", hint="leave --price out")
    pricer = find_pricer(tool)
    pricer.require(target)
    return Verifier(pricer, target)


def verified(plan: Plan, budgets: tuple[Budget, ...], price: Price, solve: Solve | None) -> PricedPlan:
    """`plan`, or one with less predicted time, whose program is inside the latency budget when priced (any, without such a budget).

    `solve` finds the best plan inside other budgets; None where the plan is the user's own. The returned plan was priced last.
    Raises BudgetInfeasibleError where no plan is found whose program holds.
    """
    limit = next((budget.limit for budget in budgets if budget.resource is Resource.LATENCY), None)
    tried: list[PricedPlan] = []
    while True:
        tried.append(PricedPlan(plan, price(plan)))
        if limit is None or tried[-1].modelled_us <= limit:
            return replace(tried[-1], plan=_proven(tried, limit))
        if solve is None or len(tried) == ROUNDS:
            raise _over(tried, limit)
        plan = _tighter(tried, limit, budgets, solve)


def _tighter(tried: list[PricedPlan], limit: float, budgets: tuple[Budget, ...], solve: Solve) -> Plan:
    bound = predicted(tried[-1].plan) * limit / tried[-1].modelled_us * MARGIN
    others = tuple(budget for budget in budgets if budget.resource is not Resource.LATENCY)
    try:
        return solve((*others, Budget(Resource.LATENCY, bound)))
    except BudgetInfeasibleError as error:
        raise _over(tried, limit) from error


def _proven(tried: list[PricedPlan], limit: float | None) -> Plan:
    plan, spent = tried[-1].plan, tried[-1].modelled_us
    proof = replace(plan.proof, modelled_us=spent, rounds=len(tried))
    uses = tuple(replace(use, limit=limit) if use.resource is Resource.LATENCY and limit else use for use in plan.uses)
    if len(tried) == 1:
        return replace(plan, proof=proof, uses=uses)
    latency = plan.use(Resource.LATENCY)
    bound = None if latency is None else latency.limit
    note = (
        f"priced programs were over the latency budget of {_text(limit)} ({', '.join(_text(one.modelled_us) for one in tried[:-1])}): "
        f"solved again for {_text(bound)} of predicted time"
    )
    return replace(plan, proof=proof, uses=uses, notes=(*plan.notes, note))


def _over(tried: list[PricedPlan], limit: float) -> BudgetInfeasibleError:
    least = min(one.modelled_us for one in tried)
    found = ", ".join(f"{_text(one.modelled_us)} (predicted {_text(predicted(one.plan))})" for one in tried)
    what = f"no program was found inside {_text(limit)}: the built ones take {found} when priced"
    hint = f"raise the budget to {_text(least * 1.001)}, or leave --price out to bound the predicted time alone"
    return BudgetInfeasibleError(what, where="--budget-latency", hint=hint, least={Resource.LATENCY.value: least})


def guard(report: Report, compiled: object | None = None) -> None:
    """Raises GuardError where the program is slower than the same network with everything at 8 bits: by price where there is one.

    The error carries `compiled`, for callers that go on with it.
    """
    if report.modelled_us is not None and report.int8_modelled_us is not None:
        _compare(report.modelled_us, report.int8_modelled_us, "modelled", compiled)
    elif report.latency_us is not None and report.int8_latency_us is not None:
        _compare(report.latency_us, report.int8_latency_us, "predicted", compiled)


def _compare(planned: float, int8: float, how: str, compiled: object | None) -> None:
    if planned <= int8 * SLOWER:
        return
    what = f"the plan takes {_text(planned)}, all int8 {_text(int8)} ({how})"
    way = "all files are written; --allow-slower accepts it where size or bits matter more"
    bound = _text(int8).replace(" ", "")
    hint = f"{way}, --budget-latency {bound} asks for a plan that is no slower"
    raise GuardError(what, where="slower than all int8", hint=hint, compiled=compiled)


def _text(microseconds: float | None) -> str:
    return "" if microseconds is None else format_amount(Resource.LATENCY, microseconds)
