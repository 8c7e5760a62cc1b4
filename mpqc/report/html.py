"""report.html: one self-contained page. Its plots are inline SVG, its one script is inline, and its own policy forbids it to load anything."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from mpqc.facts.amounts import format_amount
from mpqc.report.bench_text import NAMES, bench_lines
from mpqc.report.figures import bits_over_depth, trade_off_plot, training_plot, waterfalls
from mpqc.report.model import Report
from mpqc.report.page import heat_map, layer_cells
from mpqc.report.text import totals
from mpqc.report.verdict_text import verdict_rows
from mpqc.values.budget import Resource
from mpqc.values.text import printable

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

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
NUMBER = True
"""Of a column: values to be sorted from the largest"""


def render(report: Report) -> str:
    """The page for `report`."""
    script = _file("page.js")
    plots = {
        "waterfalls": waterfalls(report),
        "bits": bits_over_depth(report.layers) if report.layers else [],
        "heat": heat_map(report.sites),
        "trade_offs": [trade_off_plot(found) for found in report.trade_offs],
        "training_svg": training_plot(report.training),
    }
    return _template(_file("report.html.j2")).render(
        report=report,
        verdict=verdict_rows(report),
        totals=totals(report),
        tiles=_tiles(report),
        parts=_parts(report),
        columns=_columns(report),
        timed=_is_timed(report),
        layers=layer_cells(report.layers, report.bench),
        bench=bench_lines(report.bench),
        picture=_picture(report),
        known=_known(report),
        names=NAMES,
        style=_file("page.css"),
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        **plots,
    )


def result_table(report: Report) -> str:
    """The verdict and the table of layers as a piece of HTML, without figures and style."""
    return _template(PIECE).render(report=report, verdict=verdict_rows(report))


@cache
def _file(name: str) -> str:
    return files("mpqc.report").joinpath(name).read_text(encoding="utf-8")


def _template(source: str) -> Template:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    environment.filters["breakable"] = _breakable
    return environment.from_string(source)


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line behind its separators."""
    from markupsafe import Markup

    return Markup(re.sub(r"([/._:])", r"\1<wbr>", escape(printable(name))))


def _shown(value: object) -> object:
    """Text from files can be shown; what is markup already (the plots) stays."""
    return printable(value) if type(value) is str else value


def _is_timed(report: Report) -> bool:
    return any(row.predicted_us is not None for row in report.layers)


def _columns(report: Report) -> list[tuple[str, bool]]:
    """Heading of every column of the layers, and whether it has numbers."""
    timed = [("us", NUMBER), ("share", NUMBER)] if _is_timed(report) else []
    if report.bench is not None:
        timed.append((f"{report.bench.how} us", NUMBER))
    before = [("#", False), ("layer", False), ("op", False), ("output", NUMBER), ("MACs", NUMBER), ("w bits", NUMBER), ("out bits", NUMBER)]
    return [*before, ("runs as", False), ("bytes", NUMBER), *timed, ("sensitivity", NUMBER), ("why", False)]


def _parts(report: Report) -> list[tuple[str, str]]:
    """Anchors of the page that are there, with their names."""
    found = [("plan", "layers", True), ("bits", "bits", bool(report.layers)), ("losses", "expected losses", bool(report.loss_unit))]
    found += [("trades", "trade-off", bool(report.trade_offs)), ("training", "training", report.training is not None)]
    found.append(("bench", "on the board", report.bench is not None))
    found += [("input", "input", True), ("totals", "totals and proof", True), ("again", "how it was made", True)]
    return [(anchor, name) for anchor, name, is_there in found if is_there]


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """The figures that are looked for first: what, how much, beside what."""
    found = []
    own, int8 = (report.latency_us, report.int8_latency_us) if report.modelled_us is None else (report.modelled_us, report.int8_modelled_us)
    if own is not None:
        how = "predicted" if report.modelled_us is None else "modelled"
        beside = how if int8 is None else f"{how}; all int8 {format_amount(Resource.LATENCY, int8)}"
        found.append(("time", format_amount(Resource.LATENCY, own), beside))
    sizes = report.sizes
    found.append(("weights", format_amount(Resource.SIZE, sizes.plan_bytes), f"float {format_amount(Resource.SIZE, sizes.float_bytes)}"))
    if report.verdict and report.verdict.loses:
        loss = report.verdict.loses[0]
        value = "exact" if loss.value is None else f"{loss.value:.4g} {loss.unit}".strip()
        beside = f"on {report.verdict.samples} samples" + ("" if loss.float_value is None else f"; float {loss.float_value:.4g} {loss.unit}".rstrip())
        found.append((loss.metric, value, beside))
    if report.accuracy:
        accuracy = report.accuracy
        found.append(("accuracy", f"{accuracy.integer_percent:.2f} %", f"float {accuracy.float_percent:.2f} %, {accuracy.samples} samples"))
    return found


def _picture(report: Report) -> str:
    """The picture, where it is one: what a file calls base64 is looked at before it is part of an address."""
    kept = "" if report.fed is None else report.fed.picture
    try:
        return kept if base64.b64decode(kept, validate=True).startswith(b"\x89PNG") else ""
    except ValueError:
        return ""


def _known(report: Report) -> str:
    """What the script shows on a click, as JSON that no name in it can end: `<`, `>` and `&` are escaped."""
    sites = [_plain(asdict(site)) for site in report.sites]
    layers = [{"weight": printable(row.weight), "output": printable(row.output)} for row in report.layers]
    text = json.dumps({"sites": sites, "layers": layers}, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: object) -> object:
    """`value` with all its text as it may be shown."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
