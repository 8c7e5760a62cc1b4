"""report.html: one self-contained page (inline SVG, no script, no network)."""

from __future__ import annotations

import io
import warnings
from importlib.resources import files
from typing import TYPE_CHECKING

from mpqc.report.model import LayerRow, Report
from mpqc.report.text import totals
from mpqc.report.verdict_text import verdict_rows
from mpqc.values.history import TrainingSummary
from mpqc.values.text import printable

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure

PIECE = """<table>
{% for word, text in verdict %}<tr><th style="text-align:left">{{ word }}</th><td style="text-align:left">{{ text }}</td></tr>
{% endfor %}</table>
<table>
<tr><th>node</th><th>op</th><th>weight bits</th><th>output bits</th><th>bytes</th><th>us</th><th>why</th></tr>
{% for row in report.layers %}
<tr><td>{{ row.name }}</td><td>{{ row.op }}</td><td>{{ row.weight_bits if row.weight_bits is not none else "" }}</td>
<td>{{ row.activation_bits if row.activation_bits is not none else "float" }}</td><td>{{ row.weight_bytes or "" }}</td>
<td>{{ "%.1f" | format(row.predicted_us) if row.predicted_us is not none else "" }}</td><td>{{ row.reason }}</td></tr>
{% endfor %}
</table>
"""


def render(report: Report) -> str:
    """The page for `report`."""
    template = _template(files("mpqc.report").joinpath("report.html.j2").read_text(encoding="utf-8"))
    figures = {"bits_svg": _bits_figure(report.layers), "time_svg": _time_figure(report.layers), "training_svg": _training_figure(report.training)}
    return template.render(report=report, verdict=verdict_rows(report), totals=totals(report), **figures)


def result_table(report: Report) -> str:
    """The verdict and the table of layers as a piece of HTML, without figures and style."""
    return _template(PIECE).render(report=report, verdict=verdict_rows(report))


def _template(source: str) -> Template:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    return environment.from_string(source)


def _shown(value: object) -> object:
    """Text from files can be shown; what is markup already (the plots) stays."""
    return printable(value) if type(value) is str else value


def _bits_figure(layers: tuple[LayerRow, ...]) -> str:
    rows = [row for row in layers if row.weight_bits is not None]
    return _bars([row.name for row in rows], [float(row.weight_bits or 0) for row in rows], "bits of the weights", "#3b6ea5") if rows else ""


def _time_figure(layers: tuple[LayerRow, ...]) -> str:
    rows = [row for row in layers if row.predicted_us]
    return _bars([row.name for row in rows], [row.predicted_us or 0.0 for row in rows], "predicted microseconds", "#a5583b") if rows else ""


def _training_figure(training: TrainingSummary | None) -> str:
    """Loss of the steps and of the held-out part, and the moments at which bits changed."""
    if training is None or not training.curve:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*training.curve, strict=True), color="#3b6ea5", linewidth=1, label="training loss")
    held_out = [(item.step, item.loss) for item in training.evaluations]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color="#a5583b", marker="o", markersize=3, linewidth=1, label="held out")
    for step in sorted({change.step for change in training.changes}):
        axes.axvline(step, color="#bbb", linewidth=0.8, zorder=0)
    axes.set_xlabel("step (grey: bits changed)")
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "mpqc"}), warnings.catch_warnings():  # ids are digests of what they name, not random
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names may have any characters; an unknown one is a box
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _bars(names: list[str], values: list[float], label: str, colour: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(range(len(values)), values, color=colour)
    axes.set_ylabel(label)
    crowded = len(names) > 40
    labels = [] if crowded else [printable(name)[-24:] for name in names]
    axes.set_xticks([] if crowded else range(len(names)), labels, rotation=90, fontsize=6, parse_math=False)
    return _svg(figure)
