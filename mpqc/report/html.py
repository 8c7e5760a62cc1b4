"""report.html: one self-contained page (inline SVG, no script, no network)."""

from __future__ import annotations

import io
from importlib.resources import files

from mpqc.report.model import LayerRow, Report
from mpqc.report.text import totals


def render(report: Report) -> str:
    """The page for `report`."""
    import jinja2

    source = files("mpqc.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(source)
    return template.render(report=report, totals=totals(report), bits_svg=_bits_figure(report.layers), time_svg=_time_figure(report.layers))


def _bits_figure(layers: tuple[LayerRow, ...]) -> str:
    rows = [row for row in layers if row.weight_bits is not None]
    return _bars([row.name for row in rows], [float(row.weight_bits or 0) for row in rows], "bits of the weights", "#3b6ea5") if rows else ""


def _time_figure(layers: tuple[LayerRow, ...]) -> str:
    rows = [row for row in layers if row.predicted_us]
    return _bars([row.name for row in rows], [row.predicted_us or 0.0 for row in rows], "predicted microseconds", "#a5583b") if rows else ""


def _bars(names: list[str], values: list[float], label: str, colour: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(range(len(values)), values, color=colour)
    axes.set_ylabel(label)
    crowded = len(names) > 40
    axes.set_xticks([] if crowded else range(len(names)), [] if crowded else [name[-24:] for name in names], rotation=90, fontsize=6)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
