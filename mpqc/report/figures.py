"""The plots of the page: pieces of SVG, or nothing where there is nothing to show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mpqc.facts.amounts import format_amount
from mpqc.facts.resources import RESOURCES
from mpqc.report.model import LayerRow, Report
from mpqc.report.svg import Axis, around, bar, curve, grid, line, short, svg, text, titled
from mpqc.values.bench import EMULATED, FLOAT, INT8, PLAN, Bench
from mpqc.values.budget import Resource
from mpqc.values.history import TrainingSummary
from mpqc.values.trade import TradeOff
from mpqc.values.verdict import DECIBEL

LAYERS = 24
"""Layers side by side in one piece of the plot of bits; longer networks go on in the next piece, as text does in the next line"""
PITCH, LEFT, PANEL, NAMES = 15.0, 62.0, 92.0, 128.0
"""Pixels: between two layers, beside a plot, of a panel's height, and under it for names"""
WIDE, HIGH = 520.0, 300.0
"""Of a plot of two axes"""
BARS, BAR = 250.0, 20.0
"""Longest bar, and its height"""


def bits_over_depth(layers: Sequence[LayerRow]) -> list[str]:
    """Bits of weights above those of outputs, layer by layer; one plot for every LAYERS of them."""
    most = max([8, *(bits for row in layers for bits in (row.weight_bits, row.activation_bits) if bits is not None)])
    starts = range(0, len(layers), LAYERS)
    return [_depth_piece(layers[start : start + LAYERS], start, most) for start in starts]


def _depth_piece(layers: Sequence[LayerRow], start: int, most: int) -> str:
    width, height = LEFT + LAYERS * PITCH + 8, 2 * (PANEL + 22) + NAMES
    panels = (("weights", "w", 14.0), ("outputs", "a", PANEL + 36.0))
    parts: list[str] = []
    for name, kind, top in panels:
        axis = Axis(0, most, top + PANEL, top)
        parts += grid(axis, (LEFT, LEFT + len(layers) * PITCH), [(value, str(value)) for value in (2, 4, 8, 16) if value <= most])
        parts.append(text(14, top + PANEL / 2, f"bits of {name}", "mid axis", turn=-90))
        for index, row in enumerate(layers):
            parts += _depth_bar(row, kind, axis, LEFT + index * PITCH)
    names_at = 2 * PANEL + 46
    parts += [
        text(LEFT + (index + 0.7) * PITCH, names_at, f"{start + index + 1} {short(row.name)}", "end name", turn=-60)
        for index, row in enumerate(layers)
    ]
    return svg(width, height, f"Bits of weights and outputs, layers {start + 1} to {start + len(layers)}", parts)


def _depth_bar(row: LayerRow, kind: str, axis: Axis, x: float) -> Iterator[str]:
    bits = row.weight_bits if kind == "w" else row.activation_bits
    if bits is None:
        if kind == "a":
            yield titled(f"{row.name}: float", [text(x + PITCH / 2, axis.start - 3, "f", "mid value")])
        return
    top = axis.at(bits)
    parts = [bar(x + 2, top, PITCH - 4, axis.start - top, kind), text(x + PITCH / 2, top - 2.5, bits, "mid value")]
    yield titled(f"{row.name}: {bits} bits", parts)


@dataclass(frozen=True)
class Step:
    """One bar of a waterfall."""

    name: str
    value: float
    shown: str


def waterfalls(report: Report) -> list[tuple[str, str]]:
    """What was given up on the way from float to all int8 to the plan: (what, plot)."""
    sizes = report.sizes
    stored = (("float", sizes.float_bytes), ("all int8", sizes.int8_bytes), ("this plan", sizes.plan_bytes))
    found = [("weights and biases", [Step(name, float(size), format_amount(Resource.SIZE, size)) for name, size in stored])]
    timed = _benched(report.bench)
    if report.bench is not None and len(timed) > 1:
        found.append((f"time of one run, {report.bench.how} on {report.bench.device}", timed))
    if report.int8_latency_us and report.latency_us is not None:
        found.append((_time_name(report), _times(report)))
    if report.verdict and report.verdict.loses:
        loss = report.verdict.loses[0]
        named = (("float", loss.float_value), ("all int8", loss.int8_value), ("this plan", loss.value))
        steps = [Step(name, value, f"{value:.4g} {loss.unit}".strip()) for name, value in named if value is not None]
        if loss.unit != DECIBEL and len(steps) > 1 and min(step.value for step in steps) >= 0:
            found.append((loss.metric, steps))
    return [(name, _waterfall(name, steps)) for name, steps in found]


def _benched(bench: Bench | None) -> list[Step]:
    """Float, all int8 and the plan as they were timed; an emulator's times are no chip's, and no plot is made of them."""
    if bench is None or bench.how == EMULATED:
        return []
    named = ((FLOAT, "float"), (INT8, "all int8"), (PLAN, "this plan"))
    rows = [(name, row) for program, name in named if (row := bench.program(program)) is not None]
    return [_time(name, row.us.median) for name, row in rows if row.us is not None]


def _time_name(report: Report) -> str:
    return "time of one run, modelled" if report.modelled_us is not None and report.int8_modelled_us is not None else "time of one run, predicted"


def _times(report: Report) -> list[Step]:
    own, int8 = report.latency_us or 0.0, report.int8_latency_us or 0.0
    if report.modelled_us is not None and report.int8_modelled_us is not None:
        own, int8 = report.modelled_us, report.int8_modelled_us
    steps = [_time("all int8", int8), _time("this plan", own)]
    return [*steps, _time("fastest plan", report.fastest_latency_us)] if report.fastest_latency_us is not None else steps


def _time(name: str, microseconds: float) -> Step:
    return Step(name, microseconds, format_amount(Resource.LATENCY, microseconds))


def _waterfall(name: str, steps: Sequence[Step]) -> str:
    """Bars from 0; what a step takes away of the bar before it hangs there pale, what it adds is hatched."""
    axis, left = Axis(0, max(step.value for step in steps) or 1.0, 84, 84 + BARS), 84
    parts = []
    for index, step in enumerate(steps):
        y, end = index * (BAR + 12) + 4, axis.at(step.value)
        before = steps[index - 1].value if index else step.value
        kind = "plan" if step.name == "this plan" else "other"
        parts += [text(left - 8, y + 14, step.name, "end"), bar(left, y, end - left, BAR, kind)]
        parts += [bar(end, y, axis.at(before) - end, BAR, "gone")] if before > step.value else []
        change = f" ({100 * (step.value - before) / before:+.0f} %)" if index and before and step.name != "fastest plan" else ""
        parts.append(text(max(end, axis.at(before)) + 8, y + 14, f"{step.shown}{change}", "value"))
    return svg(left + BARS + 150, len(steps) * (BAR + 12) + 4, f"{name}: {', '.join(f'{step.name} {step.shown}' for step in steps)}", parts)


def trade_off_plot(found: TradeOff) -> str:
    """Expected loss over what is used, with the chosen plan, all int8 and the budget."""
    points = [(trade.used, trade.loss) for trade in found.trades] + [(found.used, found.loss)]
    if found.int8_used is not None and found.int8_loss is not None:
        points.append((found.int8_used, found.int8_loss))
    uses = [used for used, _ in points] + ([found.limit] if found.limit is not None and found.limit < 2 * max(used for used, _ in points) else [])
    is_log = min(loss for _, loss in points) > 0
    across, up = Axis(*around(uses), LEFT + 14, WIDE - 16), Axis(*around([loss for _, loss in points], is_log=is_log), HIGH - 48, 22, is_log)
    parts = [*_frame(across, up, found.resource), *_budget(found, across, up)]
    parts.append(curve([(across.at(trade.used), up.at(trade.loss)) for trade in found.trades], "line"))
    for trade in found.trades:
        x, y = across.at(trade.used), up.at(trade.loss)
        parts.append(titled(_told(found.resource, trade.used, trade.loss), [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="dot"/>']))
    if found.int8_used is not None and found.int8_loss is not None:
        parts += _marked("all int8", found.int8_used, found.int8_loss, (across, up), found.resource)
    parts += _marked("this plan", found.used, found.loss, (across, up), found.resource)
    return svg(WIDE, HIGH, f"Expected loss over {RESOURCES[found.resource].label}", parts)


def _told(resource: Resource, used: float, loss: float) -> str:
    return f"{format_amount(resource, used)}, expected loss {loss:.3g}"


def _frame(across: Axis, up: Axis, resource: Resource) -> Iterator[str]:
    yield from grid(up, (across.start, across.end), [(value, f"{value:.3g}") for value in up.ticks()])
    for value in _round_amounts(across, resource):
        x = across.at(value)
        yield line(x, up.start, x, up.start + 4, "tick")
        yield text(x, up.start + 17, format_amount(resource, value) if value else "0", "mid")
    yield text((across.start + across.end) / 2, HIGH - 10, RESOURCES[resource].label, "mid axis")
    yield text(12, (up.start + up.end) / 2, "expected loss", "mid axis", turn=-90)


def _round_amounts(axis: Axis, resource: Resource) -> list[float]:
    """Ticks that are round in the unit that amounts of this size are shown in."""
    factor = max(factor for factor in RESOURCES[resource].units.values() if factor <= max(axis.high, 1))
    return [value * factor for value in Axis(axis.low / factor, axis.high / factor, axis.start, axis.end).ticks() if value >= 0]


def _budget(found: TradeOff, across: Axis, up: Axis) -> Iterator[str]:
    if found.limit is None:
        return
    if found.limit > across.high:
        yield text(across.end, up.end - 8, f"budget {format_amount(found.resource, found.limit)}, further right", "end value")
        return
    x = across.at(found.limit)
    yield line(x, up.end, x, up.start, "budget")
    yield text(x - 5, up.end + 10, f"budget {format_amount(found.resource, found.limit)}", "end value")


def _marked(name: str, used: float, loss: float, axes: tuple[Axis, Axis], resource: Resource) -> Iterator[str]:
    x, y = axes[0].at(used), axes[1].at(loss)
    side, at = ("end value", x - 9) if x > (axes[0].start + axes[0].end) / 2 else ("value", x + 9)
    shape = f'<path d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z" class="plan"/>' if name == "this plan" else bar(x - 4.5, y - 4.5, 9, 9, "other")
    yield titled(f"{name}: {_told(resource, used, loss)}", [shape, text(at, y + (16 if name == "this plan" else -8), name, side)])


def training_plot(training: TrainingSummary | None) -> str:
    """Loss of the steps and of the held-out part, and the steps at which bits changed."""
    if training is None or not training.curve:
        return ""
    held_out = [(item.step, item.loss) for item in training.evaluations]
    losses = [loss for _, loss in [*training.curve, *held_out]]
    is_log = min(losses) > 0
    across, up = Axis(0, training.steps, LEFT + 14, WIDE - 110), Axis(*around(losses, is_log=is_log), HIGH - 48, 22, is_log)
    parts = [*grid(up, (across.start, across.end), [(value, f"{value:.3g}") for value in up.ticks()])]
    parts += [text(across.at(value), up.start + 17, f"{value:,.0f}", "mid") for value in across.ticks()]
    for step in sorted({change.step for change in training.changes}):
        parts.append(titled(f"bits changed at step {step}", [line(across.at(step), up.end, across.at(step), up.start, "changed")]))
    for name, points, kind in (("training", training.curve, "line"), ("held out", held_out, "line second")):
        placed = [(across.at(step), up.at(loss)) for step, loss in points]
        parts += [curve(placed, kind), text(placed[-1][0] + 6, placed[-1][1] + 3.5, name, "value")] if placed else []
    x = across.at(training.best_step)
    parts.append(titled(f"step {training.best_step} is kept", [f'<path d="M{x:.1f} {up.start:.1f}l5 9h-10z" class="plan"/>']))
    parts += [text((across.start + across.end) / 2, HIGH - 10, "step", "mid axis"), text(12, HIGH / 2, "loss", "mid axis", turn=-90)]
    return svg(WIDE, HIGH, "Loss while training", parts)
