"""From sites, sensitivities and a cost model to a plan: the allocator as the rest of mpqc calls it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mpqc.allocator.pairs import interactions_of
from mpqc.allocator.pricing import Pricing
from mpqc.allocator.problem import Cost, Group, Peak, Problem
from mpqc.allocator.reasons import Reasons
from mpqc.allocator.solution import Solution, round_up
from mpqc.allocator.solver import solve
from mpqc.errors import BudgetInfeasibleError, PlanError, TargetError
from mpqc.facts.prices import NodeSum, Pricer
from mpqc.facts.resources import RESOURCES
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Choice, Plan, Proof, Use, group_bits
from mpqc.values.sensitivities import Pair, Sensitivities
from mpqc.values.site import FloatNode, Site, SiteTable

Bits = int | None


def allocate(
    table: SiteTable,
    sensitivities: Sensitivities,
    cost_model: Pricer,
    budgets: Sequence[Budget],
    *,
    seconds: float = 10.0,
    seed: int = 0,
    fixed: Mapping[str, Bits] | None = None,
    candidates: Mapping[str, Sequence[int]] | None = None,
    hint: Mapping[str, Bits] | None = None,
    pairs: Sequence[Pair] = (),
) -> Plan:
    """The plan of least summed sensitivity inside all budgets, with its proof, its uses and a reason for every choice.

    A sharing group gets one width; its sensitivity is the sum of its members'. `fixed` gives sites the user's bits (None: stays
    float), `candidates` narrows the bits that sites may get, `hint` (site -> bits, as of a plan for a similar budget) saves time.
    `pairs` add losses that two sites have together, exactly: the proof covers them.

    Raises:
        BudgetInfeasibleError: no plan fits; names the budgets and the least of each, carries the plan that attains it.
        PlanError: a sensitivity missing, NaN, infinite or negative, or a fixed site that does not exist, by name.
        TargetError: a budget that the target cannot price.
    """
    pricing = Pricing(table, cost_model, candidates_of(table, sensitivities, cost_model, fixed or {}, candidates or {}))
    alone = problem_of(pricing, sensitivities, merged(budgets))
    problem = replace(alone, interactions=interactions_of(pairs, table, pricing.candidates))
    asked = _Asked(pricing, problem, sensitivities, merged(budgets), fixed or {}, seed)
    try:
        solution = solve(problem, seconds=seconds, seed=seed, hint=group_bits(table, hint or {}) or None)
    except BudgetInfeasibleError as error:
        raise _in_user_units(error, asked) from None
    return _plan_of(solution, asked)


def merged(budgets: Sequence[Budget]) -> dict[Resource, float]:
    """The tightest limit of each resource."""
    limits: dict[Resource, float] = {}
    for budget in budgets:
        limits[budget.resource] = min(budget.limit, limits.get(budget.resource, math.inf))
    return limits


def candidates_of(
    table: SiteTable, sensitivities: Sensitivities, model: Pricer, fixed: Mapping[str, Bits], narrowed: Mapping[str, Sequence[int]]
) -> dict[str, tuple[Bits, ...]]:
    """Bits that each group may take: what the target allows to all members, is scored, and is not ruled out by the user."""
    decided = group_bits(table, fixed)
    bits: dict[str, tuple[Bits, ...]] = {}
    for name, sites in table.groups.items():
        bits[name] = (decided[name],) if name in decided else _open_bits(sites, sensitivities, model, narrowed)
        if decided.get(name) is not None:
            _check_fixed(decided[name], sites, model)
    return bits


def _check_fixed(width: Bits, sites: Sequence[Site], model: Pricer) -> None:
    for site in sites:
        if width not in offered(site, model):
            raise PlanError(f"is fixed at {width} bits, which the target does not have", where=site.name, hint=f"it has {offered(site, model)}")


def offered(site: Site, model: Pricer) -> tuple[int, ...]:
    """Widths that the user may give `site`: those that the solver may choose, and longer ones that the target has for where they lose too much."""
    longer: Callable[[Site], tuple[int, ...]] = getattr(model, "long_choices", lambda site: ())
    return (*model.choices(site), *longer(site))


def _open_bits(sites: Sequence[Site], sensitivities: Sensitivities, model: Pricer, narrowed: Mapping[str, Sequence[int]]) -> tuple[Bits, ...]:
    common = set(model.choices(sites[0]))
    for site in sites:
        row = sensitivities.values.get(site.name)
        if row is None:
            raise PlanError("has no sensitivities", where=site.name, hint="measure it, or fix its bits")
        common &= set(model.choices(site)) & set(row) & set(narrowed.get(site.name, row))
    if not common:
        names = ", ".join(site.name for site in sites[:3])
        raise PlanError("no width is allowed, scored and common to all that share qparams", where=names, hint=f"target: {model.choices(sites[0])}")
    return tuple(sorted(common))


def problem_of(pricing: Pricing, sensitivities: Sensitivities, limits: Mapping[Resource, float]) -> Problem:
    """The allocation problem of a network inside `limits`."""
    groups = tuple(_group(name, pricing, sensitivities) for name in pricing.candidates)
    bounds = [pricing.bound(resource, limit) for resource, limit in limits.items()]
    costs = [bound for bound in bounds if isinstance(bound, Cost)]
    peaks = [bound for bound in bounds if isinstance(bound, Peak)]
    return Problem(groups, (*costs, pricing.kernels()), tuple(peaks))


def _group(name: str, pricing: Pricing, sensitivities: Sensitivities) -> Group:
    bits, sites = pricing.candidates[name], pricing.table.groups[name]
    return Group(name, bits, tuple(sum(_loss(site, width, sensitivities) for site in sites) for width in bits))


def _loss(site: Site, width: Bits, sensitivities: Sensitivities) -> float:
    """The sensitivity of `site` at `width`, checked by name; 0 where it stays float or is fixed at a width never scored."""
    value = 0.0 if width is None else sensitivities.values.get(site.name, {}).get(width, 0.0)
    if not math.isfinite(value) or value < 0:
        fault = "negative" if value < 0 else str(value)
        raise PlanError(f"the sensitivity at {width} bits is {fault}", where=site.name, hint="check the data and the layer for NaN or overflow")
    return value


@dataclass(frozen=True, eq=False)
class _Asked:
    """What was asked of the solver, in the units of both sides."""

    pricing: Pricing
    problem: Problem
    sensitivities: Sensitivities
    limits: Mapping[Resource, float]
    fixed: Mapping[str, Bits]
    """Sites whose bits the user gave"""
    seed: int


def _plan_of(solution: Solution, asked: _Asked) -> Plan:
    """The plan that `solution` means, with reasons and uses in the units of the resources."""
    pricing, table = asked.pricing, asked.pricing.table
    reasons = Reasons(asked.problem, solution, pricing, frozenset(group_bits(table, asked.fixed)))
    choices = tuple(_choice(site, solution, asked.sensitivities, reasons) for site in table.sites)
    proof = Proof(solution.status, solution.objective, solution.bound, solution.gap, solution.seconds, asked.seed)
    target = getattr(getattr(pricing.model, "target", None), "name", "")
    return Plan(target, choices, proof, uses_of(pricing, solution, asked.limits), "qbitopt", _notes(pricing, asked.fixed), table.pruned)


def _choice(site: Site, solution: Solution, sensitivities: Sensitivities, reasons: Reasons) -> Choice:
    width = solution.choice[site.group_name]
    assert width is None or isinstance(width, int)
    return Choice(site.name, site.kind, width, reasons.text(site), _loss(site, width, sensitivities) if width else None)


def uses_of(pricing: Pricing, solution: Solution, limits: Mapping[Resource, float]) -> tuple[Use, ...]:
    """What the plan uses of every resource that the target can price, bounded or not."""
    decided = {name: (width if width is None else int(width),) for name, width in solution.choice.items()}
    chosen = replace(pricing, candidates=decided)
    doubt = getattr(getattr(pricing.model, "target", None), "unvalidated", None)
    unpriced = (*(node.name for node in unpriced_floats(pricing)), *chosen.floats())
    uses = []
    for resource in RESOURCES:
        try:
            bound = chosen.bound(resource, None)
        except TargetError:
            continue  # the target has no price for a resource that no budget bounds
        used = round_up(pricing.amount(resource, bound.exact([0] * len(decided))))
        is_time = _takes_float(resource)
        uses.append(Use(resource, used, limits.get(resource), unpriced if is_time else (), doubt.error_percent if doubt and is_time else 0))
    return tuple(uses)


def unpriced_floats(pricing: Pricing) -> tuple[FloatNode, ...]:
    """Nodes that stay float and are in no price of the model."""
    priced = getattr(pricing.model, "prices_float", lambda node: False)
    return tuple(node for node in pricing.table.floats if not priced(node))


def _takes_float(resource: Resource) -> bool:
    """Whether nodes that stay float take some of it too, whatever they do."""
    price = RESOURCES[resource].price
    return isinstance(price, NodeSum) and not price.products


def _notes(pricing: Pricing, fixed: Mapping[str, Bits]) -> tuple[str, ...]:
    floats, unpriced = len(pricing.table.floats), len(unpriced_floats(pricing))
    notes = [f"{floats} float nodes are outside bit operations" + (f", {unpriced} of them outside latency too" if unpriced else "")] if floats else []
    kept = [name for name, width in fixed.items() if width is None]
    return (*notes, f"kept float by choice, without a price in latency: {', '.join(kept)}") if kept else tuple(notes)


def _in_user_units(error: BudgetInfeasibleError, asked: _Asked) -> BudgetInfeasibleError:
    """The same error with averages instead of sums, and the plan in place of the solution."""
    pricing = asked.pricing
    least = {name: round_up(pricing.amount(Resource(name), value)) for name, value in error.least.items()}
    together = {name: round_up(pricing.amount(Resource(name), value)) for name, value in error.together.items()}
    plan = _plan_of(error.plan, asked) if isinstance(error.plan, Solution) else None
    return BudgetInfeasibleError(error.what, why=error.why, hint=error.hint, least=least, together=together, plan=plan)
