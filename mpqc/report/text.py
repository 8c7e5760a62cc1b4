"""The report on a terminal: rich tables, written to the console given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpqc.facts.amounts import format_amount
from mpqc.facts.resources import RESOURCES
from mpqc.report.bench_text import bench_lines, times_by_layer
from mpqc.report.model import LayerRow, Report
from mpqc.report.verdict_text import verdict_lines
from mpqc.values.artifacts import FILE_CONSTANTS, MODULE
from mpqc.values.budget import Resource
from mpqc.values.plan import Choice, Plan, Proof, Use
from mpqc.values.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mpqc.values.history import TrainingSummary

UNITLESS = "-"


def print_report(report: Report, console: Console) -> None:
    """Prints the verdict, the plan layer by layer, what stays float with its reason, and the totals."""
    for line in verdict_lines(report):
        console.print(plain(line))
    console.print(plan_table(report))
    for row in report.floats:
        console.print(plain(f"float: {row.name} ({row.ops}): {row.reason}"))
    for line in totals(report):
        console.print(plain(line))


def plain(text: str) -> Text:
    """`text` for a console: no markup, no emoji codes, no control characters are read in it."""
    from rich.text import Text

    return Text(printable(text))


def plan_table(report: Report) -> Table:
    """One row a node: bits of weight and output, bytes, predicted time, and why."""
    from rich.table import Table

    table = Table(title=plain(f"{report.network} on {report.target}"), title_justify="left")
    timed = times_by_layer(report.bench)
    beside = (("us", "right"),) if report.bench is None else (("predicted us", "right"), (f"{report.bench.how} us", "right"))
    for name, justify in (("node", "left"), ("op", "left"), ("w", "right"), ("a", "right"), ("bytes", "right"), *beside, ("why", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in report.layers:
        *cells, why = _cells(row)
        more = () if report.bench is None else (_microseconds(timed.get(row.name)),)
        table.add_row(*map(plain, (*cells, *more, why)))
    return table


def _cells(row: LayerRow) -> tuple[str, ...]:
    weight = UNITLESS if row.weight_bits is None else f"{row.weight_bits}{' half' * row.half}"
    activation = "float" if row.activation_bits is None else str(row.activation_bits)
    return (row.name, row.op, weight, activation, str(row.weight_bytes or UNITLESS), _microseconds(row.predicted_us), row.reason)


def _microseconds(value: float | None) -> str:
    return UNITLESS if value is None else f"{value:.1f}"


def plan_lines(plan: Plan) -> list[str]:
    """One line a site with its reason, then what the plan uses and its proof."""
    sites = [f"{_bits(choice):>6}  {choice.site}: {choice.reason}" for choice in plan.choices]
    return [*sites, *_outcome(plan.uses, plan.proof)]


def _bits(choice: Choice) -> str:
    return "float" if choice.bits is None else f"{choice.bits} bit"


def _reach(report: Report) -> list[str]:
    """How far fewer bits go on this network."""
    if not report.int8_latency_us or report.fastest_latency_us is None or report.latency_us is None:
        return []
    fastest, own = (us / report.int8_latency_us for us in (report.fastest_latency_us, report.latency_us))
    return [f"bits: the fastest plan takes {fastest:.2f}x of all int8, this one {own:.2f}x"]


def _outcome(uses: tuple[Use, ...], proof: Proof, place: str = "") -> list[str]:
    """`place`: where what was built was counted."""
    lines = [_use_line(use, proof, place) for use in uses]
    if proof.status not in ("optimal", "feasible"):
        return [*lines, f"plan: {proof.status}"]
    return [
        *lines,
        f"plan: {proof.status}, objective {proof.objective:.6g}, bound {proof.bound:.6g}, gap {100 * proof.gap:.2f} %",
    ]


def _use_line(use: Use, proof: Proof, place: str) -> str:
    built = "" if use.built is None or use.unpriced else f", {format_amount(use.resource, use.built)} {place or 'as built'}"
    return f"{RESOURCES[use.resource].label}: {format_amount(use.resource, use.used)}{_limit(use, proof)}{built}"


def totals(report: Report) -> list[str]:
    """The lines under the table: budgets kept, proof, sizes, latency, closeness to float."""
    lines = [*fed_lines(report), *_outcome(report.uses, report.proof, _place(report))]
    sizes = report.sizes
    lines.append(f"weights: float {sizes.float_bytes:,} B, all int8 {sizes.int8_bytes:,} B, this plan {sizes.plan_bytes:,} B")
    lines += stored_lines(report) + memory_lines(report)
    if report.latency_us is not None:
        int8 = "" if report.int8_latency_us is None else f", all int8 {report.int8_latency_us / 1e3:.3f} ms"
        lines.append(f"latency: {report.latency_us / 1e3:.3f} ms{int8} predicted ({report.latency_origin})")
        lines += _reach(report)
    if report.modelled_us is not None:
        int8 = "" if report.int8_modelled_us is None else f", all int8 {report.int8_modelled_us / 1e3:.3f} ms"
        lines.append(f"latency: {report.modelled_us / 1e3:.3f} ms{int8} modelled (the built program, priced under the emulator)")
    lines += bench_lines(report.bench)
    lines += [f"output {row.output}: {_decibel(row.sqnr_db)} against float on {row.samples} samples" for row in report.quality]
    if report.accuracy:
        accuracy = report.accuracy
        lines.append(f"accuracy on {accuracy.samples} samples: float {accuracy.float_percent:.2f} %, integer {accuracy.integer_percent:.2f} %")
    return lines + training_lines(report.training) + accumulator_lines(report) + [f"note: {note}" for note in report.notes]


def _place(report: Report) -> str:
    """Where what was built was counted: a target without code stores the file, or packs it in containers of its own."""
    if MODULE in report.sizes.files:
        return "in the built program"
    size = next((use.built for use in report.uses if use.resource is Resource.SIZE), None)
    return "in the file" if size == report.sizes.files.get(FILE_CONSTANTS) else f"as {report.target} packs what is in the file"


def stored_lines(report: Report) -> list[str]:
    """Bytes of the constants in each file, in one line."""
    constants = {name.split()[0]: size for name, size in report.sizes.files.items() if name.endswith("constants")}
    return [f"constants stored: {', '.join(f'{name} {size:,} B' for name, size in constants.items())}"] if constants else []


def fed_lines(report: Report) -> list[str]:
    """What went in, in one line: how it was prepared, and what came of that."""
    if report.fed is None or not report.fed.preprocessing:
        return []
    fed = report.fed
    return [
        f"input ({report.data}): {fed.preprocessing}; the first {fed.samples} samples reach {fed.least:.3g} to {fed.largest:.3g}, mean {fed.mean:.3g}"
    ]


def memory_lines(report: Report) -> list[str]:
    """What runs needs besides weights, in one line; none where there is no program."""
    if not report.memory:
        return []
    arena, live, workspace = (report.memory[key] for key in ("arena_bytes", "live_bytes", "workspace_bytes"))
    return [f"memory while running: one arena of {arena:,} B (activations live together {live:,} B, largest scratch {workspace:,} B)"]


def training_lines(training: TrainingSummary | None) -> list[str]:
    """What was trained, how long, what came of it and how often bits changed."""
    if training is None or not training.curve or not training.evaluations:
        return []
    teacher = "labels and float network" if training.labelled else "float network"
    pace = f"{training.steps:,} steps of {training.batch} samples ({training.arithmetic}, {training.processes} processes)"
    first, last = training.evaluations[0], next(item for item in reversed(training.evaluations) if item.step <= training.best_step)
    accuracy = "" if last.accuracy is None else f", accuracy {last.accuracy:.2f} %"
    learned = f"loss {training.curve[0][1]:.4g} to {training.curve[-1][1]:.4g}, on {training.held_out:,} held-out samples {first.loss:.4g} to"
    lines = [
        f"training ({training.strategy}, taught by {teacher}): {pace}",
        f"  {learned} {last.loss:.4g}{accuracy} (step {training.best_step:,} is kept)",
    ]
    if training.changes:
        steps = len({change.step for change in training.changes})
        lines.append(f"  bits changed at {steps} of the re-allocations, {len(training.changes)} changes of sites in all")
    return [*lines, *(f"  {note}" for note in training.notes)]


def accumulator_lines(report: Report) -> list[str]:
    """The proof that no accumulator overflows, in one line; none where nothing accumulates."""
    worst = max(report.accumulators, key=lambda row: row.peak, default=None)
    if worst is None:
        return []
    share = f"{worst.peak:,} of {worst.limit:,} ({worst.name})"
    return [f"accumulators: no input overflows int32; the largest of {len(report.accumulators)} reaches {share}"]


def _decibel(sqnr: float | None) -> str:
    return "exactly equal" if sqnr is None else f"SQNR {sqnr:.1f} dB"


def _limit(use: Use, proof: Proof) -> str:
    """The budget, and whether it holds where a part of the program has no price."""
    if use.limit is None:
        return ""
    bound = f"{_doubt(use)} of {format_amount(use.resource, use.limit)}"
    if not use.unpriced:
        return bound + (": it may be over" if use.used * (1 + use.error_percent / 100) > use.limit else "")
    if use.resource is Resource.LATENCY and proof.modelled_us is not None:
        return f"{bound}, {format_amount(use.resource, proof.modelled_us)} with the float nodes, which only the built program has a price for"
    return f"{bound} without the float nodes, which have no price ({_some(use.unpriced)}): whether the budget holds is not known{_way(use.resource)}"


def _doubt(use: Use) -> str:
    return f" +-{use.error_percent} % (prices were not compared with the chip)" if use.error_percent else ""


def _way(resource: Resource) -> str:
    return "; --price prices the whole program" if resource is Resource.LATENCY else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
