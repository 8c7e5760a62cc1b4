"""The one place where a verdict is made: from a finished report and what was measured of the program beside the float network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mpqc.facts.amounts import format_amount
from mpqc.facts.resources import RESOURCES
from mpqc.report.model import Report
from mpqc.values.budget import Resource
from mpqc.values.plan import Choice, Plan, Use
from mpqc.values.verdict import DECIBEL, FINE, LOST, PERCENT, UNKNOWN, WORSE, Fit, Loss, Verdict

BINDING = 0.97
"""Share of a budget from which it decides the bits"""
LITTLE, HALF = 5.0, 0.5
"""Points of 100 that are no small loss any more; the part of what the float network scores whose loss is the loss of everything"""
NOISY, USELESS = 10.0, 3.0
"""SQNR in dB below which outputs are clearly other ones, and below which they are noise: 10 dB are a tenth of the power, 3 dB half of it.
All int8 networks of benchmarks/results/ptq.md have 20 to 40."""
FEW = 32
"""Samples below which a loss of some points cannot be seen"""
DOMINANT = 0.2
"""Part of the expected loss from which one site is worth naming"""
GAIN = 0.05
"""Part of all int8's time that fewer bits must save to be worth saying"""
SURE = 1.96
"""Deviations of a 95 % interval"""


@dataclass(frozen=True)
class Evidence:
    """What was measured of a program for its verdict."""

    losses: tuple[Loss, ...]
    """The metric that counts first"""
    samples: int
    held_out: bool
    made_up: bool
    """Whether there was no data"""
    doubts: tuple[str, ...] = ()
    """What is suspicious about the float network on the data"""
    max_drop: float | None = None
    cost_error: float | None = None
    """Mean relative error of the fitted prices over the rows that they come from; None where there are none"""


def judge(report: Report, plan: Plan, evidence: Evidence) -> Verdict:
    """The verdict on the compile that `report`, which has none yet, tells of."""
    fits = tuple(_fit(use, report) for use in report.uses if use.limit is not None)
    keeps = _keeps(evidence)
    worst = max(fits, key=lambda fit: fit.share, default=None)
    binds = worst.resource.value if worst is not None and worst.share >= BINDING else ""
    return Verdict(
        keeps=keeps,
        headline=_headline(fits, keeps, evidence),
        fits=fits,
        binds=binds,
        loses=evidence.losses,
        samples=evidence.samples,
        held_out=evidence.held_out,
        trust=tuple(_trust(report, evidence)),
        next=tuple(_next(report, plan, evidence, keeps, binds)),
        max_drop=evidence.max_drop,
    )


def _fit(use: Use, report: Report) -> Fit:
    assert use.limit is not None
    priced = use.resource is Resource.LATENCY and report.modelled_us is not None
    if priced:
        return Fit(use.resource, report.modelled_us or 0.0, use.limit, "modelled")
    predicted = use.resource in (Resource.LATENCY, Resource.ENERGY)
    if use.built is None:
        return Fit(use.resource, use.used, use.limit, "predicted" if predicted else "counted in the plan", _doubt(use))
    return Fit(use.resource, use.built, use.limit, "counted in the built program", _doubt(use))


def _doubt(use: Use) -> str:
    """Why a budget may be broken though the plan keeps it."""
    if use.unpriced:
        return f"{len(use.unpriced)} float nodes have no price"
    over = use.limit is not None and use.used * (1 + use.error_percent / 100) > use.limit
    return f"the prediction may be off by {use.error_percent} %" if use.error_percent and over else ""


def _keeps(evidence: Evidence) -> str:
    first = evidence.losses[0] if evidence.losses else None
    if first is None:
        return UNKNOWN
    found = _of_decibel(first.value) if first.drop is None else _of_points(first, evidence)
    return UNKNOWN if found == FINE and (evidence.made_up or evidence.doubts) else found


def _of_decibel(value: float | None) -> str:
    if value is None or value >= NOISY:
        return FINE
    return WORSE if value >= USELESS else LOST


def _of_points(loss: Loss, evidence: Evidence) -> str:
    """From points lost. One sample alone may change its answer by chance; what the user allows is fine."""
    drop, floats = loss.drop or 0.0, abs(loss.float_value or 0.0)
    if evidence.max_drop is not None and drop <= evidence.max_drop + 1e-9:
        return FINE
    if drop >= HALF * floats > 0:
        return LOST
    little = LITTLE if loss.unit == PERCENT else LITTLE / 100 * floats
    alone = loss.unit == PERCENT and drop * evidence.samples / 100 < 1.5
    past = evidence.max_drop is not None
    return FINE if (drop <= little or alone) and not past else WORSE


def _headline(fits: tuple[Fit, ...], keeps: str, evidence: Evidence) -> str:
    kept = {
        FINE: "keeps what the float network knows",
        UNKNOWN: "what it keeps of the float network is not known",
        WORSE: "IS WORSE than the float network",
        LOST: "LOST what the float network knew",
    }[keeps]
    if keeps == FINE and evidence.losses[0].drop is None:
        kept = "stays close to the float network"
    if not fits:
        return f"no budget was asked for; {kept}"
    whole = "the budget" if len(fits) == 1 else f"all {len(fits)} budgets"
    fitting = f"whether it is inside {whole} is not known" if any(fit.unknown for fit in fits) else f"inside {whole}"
    return f"{fitting}; {kept}"


def _trust(report: Report, evidence: Evidence) -> Iterator[str]:
    if report.modelled_us is not None:
        yield "latency: modelled, the built program priced kernel by kernel under the emulator; not measured on a board"
    elif report.latency_us is not None:
        yield f"latency: predicted ({report.latency_origin}){_fitted(evidence)}"
    yield _samples(evidence)
    yield from (f"doubt: {doubt}" for doubt in evidence.doubts)


def _fitted(evidence: Evidence) -> str:
    return "" if evidence.cost_error is None else f"; the fit is {100 * evidence.cost_error:.1f} % off these rows on average"


def _samples(evidence: Evidence) -> str:
    if evidence.made_up:
        return f"loss: measured on {evidence.samples} made-up inputs, which say little about real ones"
    where = "held out of calibration" if evidence.held_out else "that calibration saw too, as there are too few to hold any out"
    return f"loss: measured on {evidence.samples} samples {where}{_interval(evidence)}"


def _interval(evidence: Evidence) -> str:
    """Half of the 95 % interval (Wilson, JASA 1927) of a share of the samples."""
    first, count = evidence.losses[0] if evidence.losses else None, evidence.samples
    if first is None or first.value is None or not first.metric.startswith("top-"):
        return ""
    share = first.value / 100
    half = SURE * ((share * (1 - share) + SURE**2 / (4 * count)) / count) ** 0.5 / (1 + SURE**2 / count)
    return f": +-{100 * half:.0f} points"


def _next(report: Report, plan: Plan, evidence: Evidence, keeps: str, binds: str) -> Iterator[str]:
    if evidence.doubts:
        yield "look at what goes in: --preset, --mean, --std, --bgr (the float network itself says too little)"
    if evidence.made_up:
        yield "give --data: ranges, bits and this verdict come from made-up inputs"
    elif evidence.samples < FEW:
        yield f"give more samples: {evidence.samples} cannot show a loss of some points"
    if any(use.unpriced and use.limit is not None for use in report.uses) and report.modelled_us is None:
        yield "--price prices the whole program, float nodes too"
    if keeps in (WORSE, LOST):
        yield from _repairs(report, plan, evidence, binds)
    yield from _bits(report, keeps, binds)


def _repairs(report: Report, plan: Plan, evidence: Evidence, binds: str) -> Iterator[str]:
    """Ways to lose less."""
    first = evidence.losses[0]
    if first.int8_value is not None and first.float_value is not None and first.float_value - first.int8_value > LITTLE / 2:
        yield f"all int8 has {amount(first.int8_value, first.unit)} too: not the bits alone cost, --effort high learns ranges and rounding"
    site = costliest(plan)
    if site is not None:
        yield f"the costliest site is {site[0].site} at {site[0].bits} bits, {100 * site[1]:.0f} % of the expected loss: --fix {site[0].site}=8"
    if report.training is None and not evidence.made_up:
        yield "learn the weights at these bits: --effort high, or --qat-steps 2000 with as much data as there is"
    if binds:
        yield f"raise the budget of {RESOURCES[Resource(binds)].label}, which decides the bits"


def _bits(report: Report, keeps: str, binds: str) -> Iterator[str]:
    """What fewer bits would buy, where the budgets leave that open."""
    int8, fastest, own = report.int8_latency_us, report.fastest_latency_us, report.latency_us
    if binds or keeps in (WORSE, LOST) or not int8 or fastest is None or own is None:
        return
    if own - fastest > GAIN * int8:
        least = format_amount(Resource.LATENCY, fastest).replace(" ", "")
        yield f"fewer bits take up to {100 * (1 - fastest / own):.0f} % of the time away: --max-drop 1%, or --budget-latency from {least}"
    elif int8 - fastest <= GAIN * int8:
        yield f"fewer bits save {100 * (1 - fastest / int8):.0f} % of the time at most on this network: they buy size"


def costliest(plan: Plan) -> tuple[Choice, float] | None:
    """The site below 8 bits that the plan expects to cost most, and its part of what all sites cost; None where none stands out."""
    scored = [choice for choice in plan.choices if choice.sensitivity]
    total = sum(choice.sensitivity or 0.0 for choice in scored)
    narrow = [choice for choice in scored if choice.bits is not None and choice.bits < 8]
    worst = max(narrow, key=lambda choice: choice.sensitivity or 0.0, default=None)
    if worst is None or (worst.sensitivity or 0.0) < DOMINANT * total:
        return None
    return worst, (worst.sensitivity or 0.0) / total


def amount(value: float | None, unit: str) -> str:
    """A score for people."""
    if value is None:
        return "no error at all"
    return f"{value:.1f} {unit}" if unit == DECIBEL else f"{value:.2f} {unit}" if unit else f"{value:.6g}"
