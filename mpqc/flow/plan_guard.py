"""A chosen plan is never worse than the obvious one: both are run on the calibration data, and the better one is taken.

Without a binding budget the obvious plan is 8 bits everywhere; inside one it is the best uniform plan that keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mpqc.errors import BudgetInfeasibleError, PlanError
from mpqc.flow.plan_choice import with_fixed
from mpqc.values.budget import Budget
from mpqc.values.plan import Plan, same_bits, uniform_plan
from mpqc.values.site import SiteKind, SiteTable

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel
    from mpqc.data.batches import Batches
    from mpqc.flow.results import Analysis
    from mpqc.workspace.progress import Progress

SAMPLES = 32
"""Samples that plans are compared on"""
PLAIN = (8, 8)
"""Weight and activation bits of the obvious plan"""
WORTHLESS = "every plan tried loses what the network knew"
SEVERAL = 4
"""Samples from which their mean is no answer to one of them"""
VARIES = 1e-6
"""Loss of that mean below which the network answers the same for every sample itself"""


def guarded_plan(plan: Plan, analysis: Analysis, cost_model: CostModel, budgets: Sequence[Budget], fixed: Mapping[str, int | None]) -> Plan:
    """`plan`, or the uniform plan inside `budgets` that loses less on at most SAMPLES of the calibration data; then its notes say so.

    Each plan is run once. Plans with the same bits are not run at all.
    """
    from mpqc.sensitivity.plan_loss import plan_losses

    table = analysis.table
    rivals = {widths: rival for widths, rival in uniform_rivals(table, cost_model, budgets, fixed).items() if not same_bits(rival, plan)}
    if not rivals:
        return plan
    few = replace(analysis.batches, limit=min(analysis.batches.limit, SAMPLES))
    own, *others = plan_losses(analysis.network, table, analysis.calibration, few, (plan, *rivals.values()))
    least, (weights, activations) = min(zip(others, rivals, strict=True))
    way = "raise the budgets" if budgets else "keep some sites float with --fix SITE=float"
    worthless = _worthless(min(own, least), analysis, few, way)
    if own <= least:
        return replace(plan, notes=(*plan.notes, *worthless)) if worthless else plan
    best = rivals[weights, activations]
    note = f"the solver's plan loses {own:.3g} on the calibration data, w{weights}a{activations} everywhere {least:.3g}: that one is taken"
    return replace(best, strategy=plan.strategy, notes=(*best.notes, *plan.notes, note, *worthless))


def _worthless(least: float, analysis: Analysis, batches: Batches, way: str) -> tuple[str, ...]:
    """A note where the best plan loses as much as answering the same for every sample would."""
    from mpqc.sensitivity.plan_loss import blank_loss

    if len(list(batches)) < SEVERAL:
        return ()
    blank = blank_loss(analysis.network, analysis.table, batches)
    if least < blank or blank < VARIES:
        return ()
    return (f"{WORTHLESS}: the best one loses {least:.3g} on the calibration data, the same answer for every sample {blank:.3g}; {way}",)


def warn_of_worthless(plan: Plan, progress: Progress) -> None:
    """Says aloud what the notes of `plan` say of that."""
    for note in plan.notes:
        if note.startswith(WORTHLESS):
            progress.warn(note)


def uniform_rivals(
    table: SiteTable, cost_model: CostModel, budgets: Sequence[Budget], fixed: Mapping[str, int | None]
) -> dict[tuple[int, int], Plan]:
    """Uniform plans inside `budgets` by weight and activation bits, with their uses: 8 bits everywhere where that fits, else those that no other
    one inside exceeds in both widths."""
    plain = _inside(PLAIN, table, cost_model, budgets, fixed)
    if plain is not None:
        return {PLAIN: plain}
    found: dict[tuple[int, int], Plan] = {}
    for weights in reversed(_common(SiteKind.WEIGHT, table, cost_model)):
        for activations in reversed(_common(SiteKind.ACTIVATION, table, cost_model)):
            if not any(weights <= other[0] and activations <= other[1] for other in found):
                made = _inside((weights, activations), table, cost_model, budgets, fixed)
                found |= {} if made is None else {(weights, activations): made}
    return found


def _common(kind: SiteKind, table: SiteTable, cost_model: CostModel) -> list[int]:
    """Widths of at most 8 bits that every site of a kind may have; 8 where there is no such site."""
    choices = [set(cost_model.choices(site)) for site in table.sites if site.kind is kind]
    return sorted(width for width in set.intersection(*choices) if width <= max(PLAIN)) if choices else [max(PLAIN)]


def _inside(
    widths: tuple[int, int], table: SiteTable, cost_model: CostModel, budgets: Sequence[Budget], fixed: Mapping[str, int | None]
) -> Plan | None:
    """The uniform plan with its uses, None where the target lacks it or a budget is broken."""
    from mpqc.allocator import evaluate

    try:
        return evaluate(table, with_fixed(uniform_plan(table, cost_model.target.name, *widths), fixed), cost_model, budgets)
    except (BudgetInfeasibleError, PlanError):
        return None
