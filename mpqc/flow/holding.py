"""What a finished compile is held to: no slower than all int8, and no more lost than may be. Its files are all written before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpqc.errors import DropError, GuardError
from mpqc.facts.amounts import format_amount
from mpqc.flow.widening import WIDENED
from mpqc.report.judge import amount
from mpqc.values.artifacts import MODULE
from mpqc.values.budget import Resource
from mpqc.values.verdict import LOST, WORSE, Verdict

if TYPE_CHECKING:
    from mpqc.report.model import Report
    from mpqc.workspace.progress import Progress

SLOWER = 1.001
"""Ratio from which a plan is slower: below it two sums of the same prices differ by rounding"""


def hold_to(report: Report, compiled: object, progress: Progress, *, allow_slower: bool) -> None:
    """Raises DropError past the largest drop, GuardError where the program is slower than all int8 and its activations are not why. Warns where
    much is lost without a bound."""
    verdict = report.verdict
    if verdict is not None and verdict.is_past_its_drop:
        raise _dropped(verdict, compiled)
    if verdict is not None and verdict.keeps in (WORSE, LOST):
        progress.warn(f"the program {_lost(verdict)}; --max-drop makes that an error (exit code 5)")
    if allow_slower or MODULE not in report.sizes.files:
        return
    try:
        guard(report, compiled)
    except GuardError as error:
        if not any(note.startswith(WIDENED) for note in report.notes):
            raise
        progress.warn(f"{error.what}: wider activations are what keeps the outputs; {error.hint}")


def _dropped(verdict: Verdict, compiled: object) -> DropError:
    what = f"the program {_lost(verdict)}: {verdict.drop:.4g} points, {verdict.max_drop:g} may be lost"
    return DropError(what, where="--max-drop", hint="; ".join(("all files are written", *verdict.next[:1])), compiled=compiled)


def _lost(verdict: Verdict) -> str:
    first = verdict.loses[0]
    word = "LOST what the float network knew" if verdict.keeps == LOST else "is worse than the float network"
    beside = "" if first.float_value is None else f" (float {amount(first.float_value, first.unit)})"
    return f"{word}: {first.metric} {amount(first.value, first.unit)}{beside} on {verdict.samples} samples"


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
    what = f"the plan takes {_microseconds(planned)}, all int8 {_microseconds(int8)} ({how})"
    way = "all files are written; --allow-slower accepts it where size or bits matter more"
    bound = _microseconds(int8).replace(" ", "")
    hint = f"{way}, --budget-latency {bound} asks for a plan that is no slower"
    raise GuardError(what, where="slower than all int8", hint=hint, compiled=compiled)


def _microseconds(amount: float) -> str:
    return format_amount(Resource.LATENCY, amount)
