"""MixQuant: each weight gets the fewest bits whose round-off error stays below a multiple of its 8-bit error (Kloberdanz and Le, 2023).

The paper's body was not available: the rule err(b) <= QEM err(8) with asymmetric min-max round trips follows its abstract and second-hand notes. Not
published: the bisection on QEM to a budget, the absolute rule, and bits for activations, which the paper keeps wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mpqc.errors import BudgetInfeasibleError
from mpqc.strategies.common import SOLVER_SECONDS, Bits, LsqStrategy, best_plan, bits_of
from mpqc.training.strategy import Finished
from mpqc.values.plan import Plan
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import SiteKind

if TYPE_CHECKING:
    from mpqc.training.session import Session

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
LARGEST_QEM = 1e6
"""At which every weight gets the fewest bits: err(2) / err(8) is about 7,000"""
TRIALS = 40
RULES = ("relative", "absolute")


def asymmetric(weight: np.ndarray, bits: int) -> np.ndarray:
    """`weight` through b-bit codes of its own minimum and maximum and back (vanilla asymmetric quantization of the whole tensor)."""
    low, high = min(float(weight.min()), 0.0), max(float(weight.max()), 0.0)
    step = (high - low) / (2**bits - 1) or 1.0
    zero = round(-low / step)
    return np.asarray((np.clip(np.rint(weight / step) + zero, 0, 2**bits - 1) - zero) * step, np.float32)


def round_off(weight: np.ndarray, bits: int) -> float:
    """Mean squared error of the round trip at `bits`."""
    return float(np.mean((asymmetric(weight, bits).astype(np.float64) - weight) ** 2))


def round_off_table(weights: Mapping[str, np.ndarray], widths: tuple[int, ...] = WIDTHS) -> dict[str, dict[int, float]]:
    """Weight -> bits -> round-off error: what the search reads, computed once."""
    return {name: {bits: round_off(weight, bits) for bits in widths} for name, weight in weights.items()}


def search(errors: Mapping[str, Mapping[int, float]], qem: float, powers: Mapping[str, float] | None = None) -> dict[str, int]:
    """The fewest bits of each weight with err(b) <= qem err(widest).

    With `powers` (mean squares of the weights) the rule is absolute: err(b) / power <= qem x the median of err(widest) / power, one bar for all.
    """
    if powers is None:
        return {name: _fewest(row, qem * row[max(row)]) for name, row in errors.items()}
    bar = float(np.median([row[max(row)] / max(powers[name], 1e-30) for name, row in errors.items()]))
    return {name: _fewest(row, qem * bar * powers[name]) for name, row in errors.items()}


def _fewest(row: Mapping[int, float], bar: float) -> int:
    return next((bits for bits in sorted(row) if row[bits] <= bar), max(row))


def search_within(choose: Callable[[float], dict[str, int]], fits: Callable[[dict[str, int]], Plan | None]) -> tuple[float, Plan | None]:
    """The smallest QEM (to 4 digits) whose bits fit, and their plan: bits only fall as QEM grows. None where not even the largest fits."""
    low, high = 1.0, LARGEST_QEM
    best = fits(choose(low))
    if best is not None:
        return low, best
    best = fits(choose(high))
    for _ in range(TRIALS):
        if best is None or high / low < 1.0001:
            break
        middle = math.sqrt(low * high)
        plan = fits(choose(middle))
        low, high, best = (middle, high, best) if plan is None else (low, middle, plan)
    return high, best


class MixQuant(LsqStrategy):
    """The searched bits, trained with LSQ quantizers as they are."""

    name = "mixquant"

    def __init__(self, rule: str = "relative") -> None:
        self.rule = rule

    def prepare(self, session: Session) -> None:
        """Search first; quantizers at the bits found."""
        self.qem, plan = mixquant_plan(session, self.rule)
        super().prepare(replace(session, plan=plan))

    def finish(self) -> Finished:
        """The searched plan and its QEM."""
        return Finished(self.current, notes=(f"QEM {self.qem:.4g} ({self.rule} rule)",))


def mixquant_plan(session: Session, rule: str = "relative") -> tuple[float, Plan]:
    """QEM and plan for the budgets of `session`: the same search with every weight's calibrated values.

    Activations, of which MixQuant says nothing, get the bits that the allocator gives them beside its own weights; where no searched weights fit
    beside those, what these leave. (Bit operations count both: were activations always free, the search would give all bits to the weights.)
    1 bit is tried where 2 do not fit; where nothing does, the session's plan is kept.
    """
    weights = {site.name: session.calibration.weights[site.name] for site in session.table.sites if site.kind is SiteKind.WEIGHT}
    powers = {name: float(np.mean(weight.astype(np.float64) ** 2)) for name, weight in weights.items()} if rule == "absolute" else None
    errors = round_off_table(weights, (1, *WIDTHS))
    chosen = _activation_bits(session)
    for least, activations in ((2, chosen), (2, {}), (1, chosen), (1, {})):
        rows = {name: {bits: error for bits, error in row.items() if bits >= least} for name, row in errors.items()}
        qem, plan = search_within(lambda qem, rows=rows: search(rows, qem, powers), partial(_completed, session, activations))  # type: ignore[misc]
        if plan is not None:
            return qem, replace(plan, strategy=MixQuant.name)
    session.notes.append("no bits of the round-off search fit the budgets beside the fixed ones: the allocator's plan is used")
    return LARGEST_QEM, session.plan


def _activation_bits(session: Session) -> dict[str, int | None]:
    """Those of the allocator's plan; none where no plan fits."""
    activations = {site.name for site in session.table.sites if site.kind is SiteKind.ACTIVATION}
    try:
        return {name: bits for name, bits in bits_of(best_plan(session, _measured(session), MixQuant.name)).items() if name in activations}
    except BudgetInfeasibleError:
        return {}


def _completed(session: Session, activations: Bits, weights: Mapping[str, int]) -> Plan | None:
    """The plan with these bits for `weights` (the next wider that the target has) and `activations`, the best ones for the other sites; None where
    none fits."""
    from mpqc.allocator import allocate

    names = {site.name: session.cost_model.choices(site) for site in session.table.sites}
    fixed = {name: min((width for width in names[name] if width >= bits), default=max(names[name])) for name, bits in weights.items()}
    kept = {name: None for name, bits in bits_of(session.plan).items() if bits is None}
    try:
        return allocate(
            session.table,
            _measured(session),
            session.cost_model,
            session.budgets,
            seconds=SOLVER_SECONDS,
            seed=session.recipe.seed,
            fixed={**fixed, **activations, **kept, **session.fixed},
            candidates={site.name: [bits for bits in names[site.name] if bits <= max(WIDTHS)] for site in session.table.sites},
        )
    except BudgetInfeasibleError:
        return None


def _measured(session: Session) -> Sensitivities:
    """The sensitivities from before training; without them what 4^-b says."""
    if session.sensitivities is not None:
        return session.sensitivities
    values = {site.name: {bits: 4.0**-bits for bits in session.cost_model.choices(site)} for site in session.table.sites}
    return Sensitivities("none", "4^-bits", values)
