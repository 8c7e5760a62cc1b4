"""Why one layer runs as it does, for a terminal: its row, its tensors, and what their other widths would cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from difflib import get_close_matches

from mpqc.errors import UsageError
from mpqc.facts.amounts import format_amount
from mpqc.report.bench_text import times_by_layer
from mpqc.report.model import Alternative, FloatRow, LayerRow, Report, SiteRow
from mpqc.values.budget import Resource
from mpqc.values.site import SiteKind

NEAREST = 5
"""Names that a message offers"""
BLOCKS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
"""Heights of a histogram in text"""


def explain_lines(report: Report, name: str) -> list[str]:
    """What there is to say of the layer or tensor `name`, or of the only one that ends or begins so. Raises UsageError with the names that are
    near, where there is none, or more than one."""
    layer = _meant(report, name)
    sites = {site.name: site for site in report.sites}
    if isinstance(layer, FloatRow):
        return [f"{layer.name}: {layer.ops}", "runs as: float", f"why: {layer.reason}"]
    if isinstance(layer, SiteRow):
        return [*_tensor("input", layer)]
    lines = [*_head(layer, report)]
    for title, site in (("weights", layer.weight), ("output", layer.output)):
        if site in sites:
            lines += ["", *_tensor(title, sites[site])]
    return lines


def explained(report: Report, name: str) -> dict[str, object]:
    """The same as values. Raises as explain_lines does."""
    layer = _meant(report, name)
    if isinstance(layer, FloatRow):
        return {"layer": None, "float": asdict(layer), "sites": []}
    if isinstance(layer, SiteRow):
        return {"layer": None, "sites": [asdict(layer)]}
    sites = [asdict(site) for site in report.sites if site.name in (layer.weight, layer.output)]
    return {"layer": asdict(layer), "sites": sites}


def _meant(report: Report, name: str) -> LayerRow | FloatRow | SiteRow:
    """A layer, a stretch that stays float, or a tensor that no layer makes (an input)."""
    known: dict[str, LayerRow | FloatRow | SiteRow] = {site.name: site for site in report.sites}
    known |= {stretch.name: stretch for stretch in report.floats}
    known |= {tensor: row for row in report.layers for tensor in (row.weight, row.output) if tensor}
    known |= {row.name: row for row in report.layers}
    if name in known:
        return known[name]
    partly = {row.name: row for tensor, row in known.items() if name and name.lower() in tensor.lower()}
    if len(partly) == 1:
        return next(iter(partly.values()))
    near = list(partly)[:NEAREST] or get_close_matches(name, known, n=NEAREST, cutoff=0.3)
    what = f"{len(partly)} layers have {name!r} in their names" if partly else f"no layer or tensor is called {name!r}"
    raise UsageError(what, where="mpqc explain", hint=f"nearest: {', '.join(near)}" if near else "mpqc report lists them")


def _head(layer: LayerRow, report: Report) -> Iterator[str]:
    yield f"{layer.name}: {layer.op}, output {'x'.join(map(str, layer.output_shape))}" + (f", {layer.macs:,} MACs" if layer.macs else "")
    yield f"runs as: {layer.runs_as}"
    total = sum(row.predicted_us or 0.0 for row in report.layers)
    if layer.predicted_us is not None and total:
        yield f"time: {format_amount(Resource.LATENCY, layer.predicted_us)} predicted, {100 * layer.predicted_us / total:.1f} % of all layers"
    timed = times_by_layer(report.bench).get(layer.name)
    if report.bench is not None and timed is not None:
        yield f"time: {format_amount(Resource.LATENCY, timed)} {report.bench.how} on {report.bench.device}"
    if layer.sensitivity is not None:
        losses = sum(row.sensitivity or 0.0 for row in report.layers)
        part = f", {100 * layer.sensitivity / losses:.1f} % of all layers" if losses else ""
        yield f"expected loss: {layer.sensitivity:.3g}{part}"
    accumulator = next((row for row in report.accumulators if row.name == layer.name), None)
    if accumulator is not None:
        yield f"accumulator: at most {accumulator.peak:,} of {accumulator.limit:,}, whatever goes in"


def _tensor(title: str, site: SiteRow) -> Iterator[str]:
    width = "float" if site.bits is None else f"{site.bits} bits"
    yield f"{title} {site.name} ({'x'.join(map(str, site.shape))}): {width}"
    if site.reason:
        yield f"  {site.reason}"
    yield from _spread(site)
    if site.alternatives:
        stored = "weight bytes" if site.kind is SiteKind.WEIGHT else "bytes"
        yield f"  {'bits':>6}  {'expected loss':>13}  {'us of its nodes':>15}  {stored:>12}"
        yield from (_row(item, site) for item in site.alternatives)


def _spread(site: SiteRow) -> Iterator[str]:
    spread = site.spread
    if spread is None:
        return
    grid = "" if spread.grid is None else f"; codes reach {spread.grid[0]:.4g} to {spread.grid[1]:.4g}, step {spread.scale:.3g}"
    yield f"  values {spread.low:.4g} to {spread.high:.4g}, {100 * spread.zeros:.1f} % zeros{grid}"
    if spread.histogram:
        yield f"  {spread.low:.3g} |{''.join(BLOCKS[-(-count * (len(BLOCKS) - 1) // 1000)] for count in spread.histogram)}| {spread.high:.3g}"


def _row(item: Alternative, site: SiteRow) -> str:
    loss = "" if item.loss is None else f"{item.loss:.3g}"
    time = "" if item.time_us is None else f"{item.time_us:.1f}"
    stored = "" if item.stored is None else f"{item.stored:,}"
    return f"  {item.bits:>6}  {loss:>13}  {time:>15}  {stored:>12}{'  <- chosen' if item.bits == site.bits else ''}"
