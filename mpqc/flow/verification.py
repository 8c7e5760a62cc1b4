"""What a built program is held to: what it stores, allocates and, where it is priced, takes against the budgets, and its time against all int8.

Prices are modelled by a pricing tool (mpqc.timing.pricer); without one, times are the cost model's predictions. A plan whose program is
over a budget is solved for again with less, a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.errors import BudgetInfeasibleError, UsageError
from mpqc.facts.amounts import format_amount
from mpqc.facts.resources import RESOURCES
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan, Use, same_bits
from mpqc.workspace.digest import File

if TYPE_CHECKING:
    from mpqc.targets import Target
    from mpqc.timing.pricer import Pricer
    from mpqc.workspace.folder import Workspace

ROUNDS = 4
"""Programs that are built at most"""
MARGIN = 0.998
"""Share of the budget that a new plan is to take: prices of one program move by a tenth of a percent"""
Solve = Callable[[tuple[Budget, ...]], Plan]
Spent = Mapping[Resource, float]
"""What a built program takes, in the units of the resources, of those that were counted or priced"""
Measure = Callable[[Plan], Spent]
"""Builds the program of a plan and says what it takes"""


@dataclass(frozen=True)
class BuiltPlan:
    """A plan whose program was built, and what that takes."""

    plan: Plan
    spent: Spent
    bounds: tuple[Budget, ...] = ()
    """Limits of what a plan counts, inside which the program came to be inside the budgets"""

    @property
    def modelled_us(self) -> float | None:
        """Modelled time, None where the program was not priced."""
        return self.spent.get(Resource.LATENCY)

    def over(self, limits: Mapping[Resource, float]) -> tuple[Resource, ...]:
        """The resources of which the program takes more than the limit."""
        return tuple(resource for resource, limit in limits.items() if self.spent.get(resource, 0.0) > limit)

    def used(self, resource: Resource) -> float:
        """What the plan counts of the resource."""
        use = self.plan.use(resource)
        return 0.0 if use is None else use.used


@dataclass(frozen=True)
class Verifier:
    """Prices bundles for one target."""

    pricer: Pricer
    target: Target

    def microseconds(self, bundle: Path, kept: Workspace) -> float:
        """Modelled time of one warm run of `bundle` on one core; from `kept` where the same program was priced before."""
        from mpqc.flow.phases import PRICE, PriceInputs

        files = (File(bundle / "model.so"), File(bundle / "bin" / "mpqc-runner"), File(self.pricer.tool))
        return PRICE.run(kept, PriceInputs(*files, self.pricer.arguments)) / (self.target.clock_hz or 1) * 1e6


def open_verifier(tool: str | None, target: Target) -> Verifier:
    """A verifier for `target`. Raises UsageError where the target runs no bundle that can be priced, ToolMissingError without a tool."""
    from mpqc.timing.pricer import find_pricer

    if target.machine != "aarch64" or target.clock_hz is None:
        raise UsageError("cannot be priced", where=target.name, why="there is no AArch64 bundle or no clock_hz", hint="leave --price out")
    pricer = find_pricer(tool, target.llvm.mcpu if target.llvm else None)
    pricer.require(target)
    return Verifier(pricer, target)


def verified(plan: Plan, budgets: tuple[Budget, ...], measure: Measure, solve: Solve | None) -> BuiltPlan:
    """`plan`, or one that the solver is asked for with less, whose program is inside the budgets as built.

    `solve` finds the best plan inside other budgets; None where the plan is the user's own. The returned plan was built last.
    Raises BudgetInfeasibleError where no plan is found whose program holds; its plan is the one whose program is nearest.
    """
    limits = merged(budgets)
    bounds = dict(limits)
    tried: list[BuiltPlan] = []
    while True:
        tried.append(BuiltPlan(plan, measure(plan)))
        over = tried[-1].over(limits)
        if not over:
            return replace(tried[-1], plan=_proven(tried, limits, bounds), bounds=_budgets(bounds))
        if solve is None or len(tried) == ROUNDS:
            raise _over(tried, limits)
        bounds |= {resource: _tighter(tried[-1], resource, limits[resource]) for resource in over}
        plan = _solved(tried, limits, bounds, solve)


def counted_again(plan: Plan, budgets: Iterable[Budget], measure: Measure) -> Plan:
    """`plan` with what its program takes now. Raises BudgetInfeasibleError where that is over a budget."""
    limits, now = merged(budgets), BuiltPlan(plan, measure(plan))
    if now.over(limits):
        raise _over([now], limits)
    return replace(plan, uses=tuple(replace(use, built=now.spent.get(use.resource, use.built)) for use in plan.uses))


def first_plan(choose: Callable[[], Plan], budgets: Iterable[Budget], measure: Measure) -> Plan:
    """The plan that `choose` finds, or the one of its BudgetInfeasibleError where the program of that is inside all budgets.

    Raises the error with what that program takes of a resource, which is to be asked for instead of what the plan counts.
    """
    try:
        return choose()
    except BudgetInfeasibleError as error:
        if not isinstance(error.plan, Plan):
            raise
        built = BuiltPlan(error.plan, measure(error.plan))
        if all((built.spent.get(resource) or built.used(resource)) <= limit for resource, limit in merged(budgets).items()):
            return error.plan
        raise _told(error, built) from error


def _told(error: BudgetInfeasibleError, built: BuiltPlan) -> BudgetInfeasibleError:
    """`error` with what the program of its plan takes, where the plan itself is the least of a resource."""
    attained = [resource for resource in built.spent if resource in error.least and built.used(resource) <= error.least[resource]]
    more = {resource.value: built.spent[resource] for resource in attained if built.spent[resource] > error.least[resource]}
    texts = (f"{_text(Resource(name), amount)} of {RESOURCES[Resource(name)].label}" for name, amount in more.items())
    hint = f"{error.hint}; its program takes {' and '.join(texts)}" if more else error.hint
    return retold(error, hint, {**error.least, **more})


def retold(error: BudgetInfeasibleError, hint: str, least: Mapping[str, float] | None = None) -> BudgetInfeasibleError:
    """`error` with another hint and, where they are given, other least values."""
    values = error.least if least is None else least
    return BudgetInfeasibleError(
        error.what, where=error.where, why=error.why, hint=hint, least=dict(values), together=error.together, plan=error.plan
    )


def merged(budgets: Iterable[Budget]) -> dict[Resource, float]:
    """The tightest limit of each resource."""
    limits: dict[Resource, float] = {}
    for budget in budgets:
        limits[budget.resource] = min(budget.limit, limits.get(budget.resource, budget.limit))
    return limits


def _budgets(bounds: Mapping[Resource, float]) -> tuple[Budget, ...]:
    return tuple(Budget(resource, bound) for resource, bound in bounds.items())


def _tighter(tried: BuiltPlan, resource: Resource, limit: float) -> float:
    """What a new plan may count of a resource: time in proportion, bytes less what the program has beside the plan; at least 1."""
    used, spent = tried.used(resource), tried.spent[resource]
    return used * limit / spent * MARGIN if resource is Resource.LATENCY else max(limit - (spent - used), 1.0)


def _solved(tried: list[BuiltPlan], limits: Mapping[Resource, float], bounds: Mapping[Resource, float], solve: Solve) -> Plan:
    """The plan inside `bounds`; where there is none, the plan of least use, as what its program has besides may be less too."""
    try:
        plan = solve(_budgets(bounds))
    except BudgetInfeasibleError as error:
        if not isinstance(error.plan, Plan):
            raise _over(tried, limits) from error
        plan = error.plan
    if any(same_bits(plan, one.plan) for one in tried if plan.choices):
        raise _over(tried, limits)
    return plan


def _proven(tried: list[BuiltPlan], limits: Mapping[Resource, float], bounds: Mapping[Resource, float]) -> Plan:
    plan, spent = tried[-1].plan, tried[-1].spent
    rounds = len(tried) if len(tried) > 1 or Resource.LATENCY in spent else 0
    proof = replace(plan.proof, modelled_us=tried[-1].modelled_us, rounds=rounds)
    uses = tuple(_use(use, limits, spent) for use in plan.uses)
    notes = tuple(_note(resource, limits[resource], bound, tried) for resource, bound in bounds.items() if bound != limits[resource])
    return replace(plan, proof=proof, uses=uses, notes=(*plan.notes, *notes))


def _use(use: Use, limits: Mapping[Resource, float], spent: Spent) -> Use:
    return replace(use, limit=limits.get(use.resource), built=spent.get(use.resource))


def _note(resource: Resource, limit: float, bound: float, tried: list[BuiltPlan]) -> str:
    facts = RESOURCES[resource]
    found = ", ".join(_text(resource, one.spent[resource]) for one in tried if one.spent[resource] > limit)
    if resource is Resource.LATENCY:
        return (
            f"priced programs were over the latency budget of {_text(resource, limit)} ({found}): "
            f"solved again for {_text(resource, bound)} of predicted time"
        )
    return f"built programs were over the budget of {facts.label}, {_text(resource, limit)} ({found}): solved again for {_text(resource, bound)}"


def _over(tried: list[BuiltPlan], limits: Mapping[Resource, float]) -> BudgetInfeasibleError:
    """Names the first budget that no program was inside of, with what each took and what its plan counted."""
    resource = next((resource for resource in limits if all(resource in one.over(limits) for one in tried)), tried[-1].over(limits)[0])
    limit, facts = limits[resource], RESOURCES[resource]
    least = min(tried, key=lambda one: one.spent[resource])
    counted = "predicted" if resource is Resource.LATENCY else "planned"
    ones = (f"{_text(resource, one.spent[resource])} ({counted} {_text(resource, one.used(resource))})" for one in tried)
    found = ", ".join(dict.fromkeys(ones))
    what = f"no program was found inside {_text(resource, limit)}: the built ones take {found}"
    hint = f"raise the budget to {_text(resource, least.spent[resource] * (1.001 if resource is Resource.LATENCY else 1))}"
    if resource is Resource.LATENCY:
        what, hint = f"{what} when priced", f"{hint}, or leave --price out to bound the predicted time alone"
    plan = replace(least.plan, uses=tuple(_use(use, limits, least.spent) for use in least.plan.uses))
    return BudgetInfeasibleError(what, where=facts.flag.option, hint=hint, least={resource.value: least.spent[resource]}, plan=plan)


def _text(resource: Resource, amount: float) -> str:
    """The amount with all its digits where it is whole, so that it can be typed back."""
    return format_amount(resource, Fraction(amount), 17) if amount == int(amount) > 0 else format_amount(resource, amount)
