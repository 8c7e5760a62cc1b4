"""The verdict in lines, the same on a terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator

from mpqc.facts.amounts import format_amount
from mpqc.facts.resources import RESOURCES
from mpqc.report.bench_text import measured_lines
from mpqc.report.judge import amount
from mpqc.report.model import Report
from mpqc.values.plan import Use
from mpqc.values.verdict import DECIBEL, Fit, Loss, Verdict

SHOWN_OUTPUTS = 4
"""Outputs whose SQNR is shown; the report lists all"""


def verdict_rows(report: Report) -> list[tuple[str, str]]:
    """Pairs of a word and what it says: the verdict itself, fits, loses, trust, next. Empty for a report without a verdict."""
    return [] if report.verdict is None else list(_rows(report.verdict, report))


def verdict_lines(report: Report) -> list[str]:
    """The same, a line each."""
    return [f"{word + ':':<9}{text}" for word, text in verdict_rows(report)]


def _rows(verdict: Verdict, report: Report) -> Iterator[tuple[str, str]]:
    yield "verdict", verdict.headline
    yield "fits", "; ".join(_fit(fit, verdict) for fit in verdict.fits) or f"no budget; {_spent(report.uses)}"
    yield "loses", "; ".join(_losses(verdict))
    for text in (*verdict.trust, *measured_lines(report.bench)):
        yield "trust", text
    for text in verdict.next:
        yield "next", text


def _fit(fit: Fit, verdict: Verdict) -> str:
    used, limit = format_amount(fit.resource, fit.used), format_amount(fit.resource, fit.limit)
    binds = ", binds" if verdict.binds == fit.resource.value else ""
    known = f"; not known to hold: {fit.unknown}" if fit.unknown else ""
    return f"{RESOURCES[fit.resource].label} {used} of {limit} ({100 * fit.share:.0f} %, {fit.how}{binds}{known})"


def _spent(uses: tuple[Use, ...]) -> str:
    shown = [use for use in uses if use.resource.value in ("latency", "size")]
    return ", ".join(f"{RESOURCES[use.resource].label} {format_amount(use.resource, use.used if use.built is None else use.built)}" for use in shown)


def _losses(verdict: Verdict) -> Iterator[str]:
    yield from map(_loss, verdict.loses[: SHOWN_OUTPUTS + 1])
    if len(verdict.loses) > SHOWN_OUTPUTS + 1:
        yield f"and {len(verdict.loses) - SHOWN_OUTPUTS - 1} outputs more"
    if verdict.max_drop is not None:
        yield f"{verdict.max_drop:g} points may be lost"


def _loss(loss: Loss) -> str:
    beside = [f"float {amount(loss.float_value, loss.unit)}"] if loss.float_value is not None and "agreement" not in loss.metric else []
    if loss.int8_value is not None or loss.unit == DECIBEL:
        beside.append(f"all int8 {amount(loss.int8_value, loss.unit)}")
    return f"{loss.metric} {amount(loss.value, loss.unit)}" + (f" ({', '.join(beside)})" if beside else "")
