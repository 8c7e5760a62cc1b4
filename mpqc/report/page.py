"""Cells of the page's tables: what the template only writes down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from mpqc.report.bench_text import times_by_layer
from mpqc.report.model import LayerRow, SiteRow
from mpqc.values.bench import Bench

SHADES = 9
"""Of the heat map, beside that of no loss at all"""
DECADES = 6.0
"""Below the largest loss that have shades of their own: what is less is as good as none"""
COSTLY = 0.05
"""Part of the expected loss from which a layer is called costly"""
WIDE = 40
"""Pixels of the bar of the slowest layer"""


@dataclass(frozen=True)
class LayerCells:
    """A layer and what is worked out for its row."""

    row: LayerRow
    elements: int
    """Of the output"""
    share: float
    """Of the predicted time"""
    width: int
    """Pixels of the share's bar"""
    kinds: str
    """Words that the list above the table filters by"""
    timed_us: float | None
    """In a benchmark; None where there is none, or the layer has no kernel of its own"""


@dataclass(frozen=True)
class HeatCell:
    """The expected loss of one tensor at one width."""

    shown: str
    level: int
    """0: none, or not measured; SHADES: the largest of all"""
    chosen: bool


@dataclass(frozen=True)
class HeatRow:
    """One sharing group."""

    name: str
    """Of its first tensor"""
    shared: int
    """How many others it has"""
    kind: str
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class HeatMap:
    """All groups that were scored at all widths."""

    widths: tuple[int, ...]
    rows: tuple[HeatRow, ...]


def layer_cells(layers: Sequence[LayerRow], bench: Bench | None = None) -> list[LayerCells]:
    """The rows of the table of layers, in order; a share is of the predicted time."""
    times = [row.predicted_us or 0.0 for row in layers]
    total, most = sum(times) or 1.0, max(times, default=0.0) or 1.0
    loss = sum(row.sensitivity or 0.0 for row in layers)
    timed, cells = times_by_layer(bench), []
    for row, time in zip(layers, times, strict=True):
        width = round(WIDE * min(max(time / most, 0.0), 1.0))
        cells.append(LayerCells(row, prod(row.output_shape), time / total, width, _kinds(row, loss), timed.get(row.name)))
    return cells


def _kinds(row: LayerRow, loss: float) -> str:
    narrow = any(bits is not None and bits < 8 for bits in (row.weight_bits, row.activation_bits))
    costly = loss > 0 and (row.sensitivity or 0.0) >= COSTLY * loss
    found = (("narrow", narrow), ("form", bool(row.form)), ("float", row.activation_bits is None), ("costly", costly))
    return " ".join(word for word, holds in found if holds)


def heat_map(sites: Sequence[SiteRow]) -> HeatMap:
    """The expected loss of every sharing group at every width that was scored."""
    groups: dict[str, list[SiteRow]] = {}
    for site in sites:
        groups.setdefault(site.group, []).append(site)
    losses = {name: {item.bits: item.loss for item in members[0].alternatives if item.loss is not None} for name, members in groups.items()}
    widths = tuple(sorted({bits for row in losses.values() for bits in row}))
    above = [math.log10(loss) for row in losses.values() for loss in row.values() if loss > 0]
    most = max(above, default=0.0)
    ends = (max(min(above, default=0.0), most - DECADES), most)
    rows = tuple(_heat_row(groups[name], losses[name], widths, ends) for name in groups if losses[name])
    return HeatMap(widths, rows)


def _heat_row(members: Sequence[SiteRow], losses: dict[int, float], widths: Sequence[int], ends: tuple[float, float]) -> HeatRow:
    first = members[0]
    cells = tuple(_heat_cell(losses.get(bits), first.bits == bits, ends) for bits in widths)
    return HeatRow(first.name, len(members) - 1, first.kind.value, cells)


def _heat_cell(loss: float | None, chosen: bool, ends: tuple[float, float]) -> HeatCell:
    if loss is None or loss <= 0:
        return HeatCell("" if loss is None else f"{loss:.1g}", 0, chosen)
    part = max(math.log10(loss) - ends[0], 0.0) / ((ends[1] - ends[0]) or 1.0)
    return HeatCell(f"{loss:.1e}".replace("e-0", "e-").replace("e+0", "e"), 1 + round(part * (SHADES - 1)), chosen)
