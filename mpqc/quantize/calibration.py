"""Calibration: ranges of the activations over data, and from them the qparams of every site at any width."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.data.sources import load_arrays
from mpqc.errors import DataError, PlanError, UsageError
from mpqc.facts.kernels import stores_odd
from mpqc.facts.ops import carries
from mpqc.numerics.ranges import BIAS_LIMIT, BINS, Histogram, affine_qparams, mse_range, percentile_range, weight_qparams
from mpqc.values.network import Network
from mpqc.values.preprocessing import PIXEL_RANGE
from mpqc.values.qtype import QParams
from mpqc.values.site import FILL, OpNode, SiteKind, SiteTable
from mpqc.workspace.partial import Part, part
from mpqc.workspace.progress import steps

if TYPE_CHECKING:
    import torch

    from mpqc.data.batches import Batches

METHODS = ("mse", "minmax", "percentile")
PERCENTILE = 99.99
SCHEMA_VERSION = 1
_SAMPLED = 1 << 16
"""Values of one tensor and batch that a histogram counts, about."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was observed, and the qparams that follow from it.

    `qparams` is a pure function of the fields; its results are kept. The sites of a sharing group get one and the same object.
    """

    method: str
    """mse: least squared error · minmax: everything seen · percentile: all but 0.01 % on each side (weights: largest value)"""
    table: SiteTable
    histograms: Mapping[str, Histogram]
    """Sharing group -> pooled values of its activations"""
    weights: Mapping[str, np.ndarray]
    """Weight site -> float32 values"""
    floors: Mapping[str, np.ndarray]
    """Weight site -> smallest scale of each output channel, so that biases fit int32"""
    data: str = ""
    samples: int = 0
    digest: str = ""
    """Of the network that was observed"""
    notes: tuple[str, ...] = ()
    half: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Weight site -> widths that may lie on the half-integer grid: they do where its squared error is less"""
    chosen: Mapping[str, str] = field(default_factory=dict)
    """Sharing group -> the method for its activations, where it is another"""
    pinned: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Sharing group -> the range of its activations, whatever was seen: bytes"""
    _known: dict[tuple[str, int], QParams] = field(default_factory=dict, repr=False)

    def qparams(self, site: str, bits: int) -> QParams:
        """Scale and zero point of `site` at `bits`. Raises PlanError for a site that the network does not have."""
        if site not in self.table.by_name:
            raise PlanError("the network has no such site", where=site)
        group = self.table.by_name[site].group_name
        if (group, bits) not in self._known:
            self._known[group, bits] = self._activation(group, bits) if group in self.histograms else self._weight(site, bits)
        return self._known[group, bits]

    def _activation(self, group: str, bits: int) -> QParams:
        if group in self.pinned:
            return affine_qparams(*self.pinned[group], bits)
        low, high = _range(self.histograms[group], bits, self.chosen.get(group, self.method))
        return affine_qparams(low, high, bits)

    def _weight(self, site: str, bits: int) -> QParams:
        axis = self.table.by_name[site].axis
        return weight_qparams(
            self.weights[site], axis, bits, search=self.method == "mse", floor=self.floors.get(site), half=self.allows_half(site, bits)
        )

    def with_methods(self, chosen: Mapping[str, str]) -> Calibration:
        """The same observations with a method of its own for the activations of some sharing groups."""
        return replace(self, chosen={**self.chosen, **chosen}, _known={})

    def with_bytes(self, sites: Collection[str]) -> Calibration:
        """The same observations where the activations `sites` are bytes: at 8 bits their codes are these, without rounding."""
        return replace(self, pinned={self.table.by_name[name].group_name: PIXEL_RANGE for name in sites}, _known={})

    def with_half(self, widths: Collection[int]) -> Calibration:
        """The same observations with weights of `widths` on the half-integer grid where that loses less and kernels store it in 2 bits."""
        depths: dict[str, list[int]] = {site: [] for site in self.weights}
        for node in self.table.nodes:
            if node.weight in depths:
                depths[node.weight].append(_depth(node, self.table.by_name[node.weight].axis))
        half = {site: tuple(bits for bits in widths if bits != 2 or all(map(stores_odd, found))) for site, found in depths.items()}
        return replace(self, half=half, _known={})

    def allows_half(self, site: str, bits: int) -> bool:
        """Whether the weight `site` may lie on the half-integer grid at `bits`."""
        return bits in self.half.get(site, ())

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> Calibration:
        """The same ranges with other (trained) weights; those that are missing stay."""
        return replace(self, weights={**self.weights, **weights}, _known={})

    def save(self, path: Path) -> None:
        """Write the observations to a .npz file: read_calibration reads it back for the same network."""
        arrays: dict[str, Any] = {f"counts_{index}": item.counts for index, item in enumerate(self.histograms.values())}
        groups = [[name, item.low, item.high, item.zeros] for name, item in self.histograms.items()]
        head = {"schema_version": SCHEMA_VERSION, "method": self.method, "data": self.data, "samples": self.samples}
        text = json.dumps({**head, "digest": self.digest, "notes": list(self.notes), "groups": groups})
        with path.open("wb") as file:
            np.savez_compressed(file, head=np.asarray(text), **arrays)


def _depth(node: OpNode, axis: int | None) -> int:
    """Values of a weight that one output is made of, those of a window counted once."""
    if node.op_type == "Conv":
        return node.weight_shape[1]
    return prod(node.weight_shape) // (1 if axis is None else node.weight_shape[axis])


def _range(histogram: Histogram, bits: int, method: str) -> tuple[float, float]:
    if method == "mse":
        return mse_range(histogram, bits)
    return percentile_range(histogram, PERCENTILE) if method == "percentile" else (histogram.low, histogram.high)


def read_calibration(path: Path, network: Network, table: SiteTable) -> Calibration:
    """The calibration in `path`. Raises PlanError if it is not one, or one of another network."""
    try:
        archive = load_arrays(path)
        if not isinstance(archive, dict):
            raise PlanError("one array is no calibration", where=str(path))
        head = json.loads(str(archive["head"]))
        counts = [archive[f"counts_{index}"] for index in range(len(head["groups"]))]
        if head["schema_version"] != SCHEMA_VERSION:
            raise PlanError(f"schema_version is not {SCHEMA_VERSION}", where=str(path))
        groups = zip(head["groups"], counts, strict=True)
        histograms = {str(name): Histogram(low, high, count, zeros) for (name, low, high, zeros), count in groups}
        fields = {key: head[key] for key in ("method", "data", "samples", "digest")}
    except (DataError, ValueError, KeyError, TypeError) as error:
        raise PlanError("cannot read the calibration", where=str(path), why=f"{type(error).__name__}: {error}") from error
    if fields["digest"] != network.digest:
        raise PlanError("the calibration is of another network", where=str(path), hint="calibrate again")
    return _with_constants(network, table, histograms, notes=tuple(head["notes"]), **fields)


def calibrate(network: Network, table: SiteTable, batches: Batches, method: str = "mse") -> Calibration:
    """Run `network` over `batches` and collect the range of every activation site (twice for mse and percentile: the
    range, then the histogram), one batch in memory at a time.

    Raises:
        UsageError: an unknown method.
        DataError: NaN or infinity in a tensor, which is named; no data.
    """
    if method not in METHODS:
        raise UsageError(f"{method!r} is no calibration method", where="calibration", hint=f"use one of {', '.join(METHODS)}")
    sources = _sources(table)
    ranges, samples = _observe_ranges(network, batches, sources)
    histograms = {group: Histogram(*ends, np.zeros(0)) for group, ends in ranges.items()}
    if method != "minmax":
        histograms = _observe_histograms(network, batches, sources, ranges)
    notes = (*batches.notes, *(f"{group}: always 0 in the data" for group, item in histograms.items() if item.low == item.high == 0))
    return _with_constants(network, table, histograms, method=method, data=batches.origin, samples=samples, digest=network.digest, notes=notes)


def moved_sites(table: SiteTable) -> frozenset[str]:
    """The activation sites that only repeat values of another site of their group."""
    moving = [node for node in table.nodes if carries(node.op_type) and node.mode != FILL and _keeps_qparams(node, table)]
    return frozenset(name for node in moving for name in (node.output, *node.extra_outputs))


def _keeps_qparams(node: OpNode, table: SiteTable) -> bool:
    """Whether all that a node reads has the qparams of what it writes: a Concat may requantize its operands."""
    group = table.by_name[node.output].group_name
    return all(table.by_name[name].group_name == group for name in node.inputs)


def _sources(table: SiteTable) -> dict[str, str]:
    """Activation site -> its group, without moved sites."""
    moved = moved_sites(table)
    return {site.name: site.group_name for site in table.sites if site.kind is SiteKind.ACTIVATION and site.name not in moved}


def _observe_ranges(network: Network, batches: Batches, sources: Mapping[str, str]) -> tuple[dict[str, tuple[float, float]], int]:
    import torch

    ranges = dict.fromkeys(sources.values(), (0.0, 0.0))

    def watch(name: str, value: torch.Tensor) -> torch.Tensor:
        low, high = (float(end) for end in torch.aminmax(value))
        if not (np.isfinite(low) and np.isfinite(high)):
            fault = "NaN" if np.isnan(low) or np.isnan(high) else "an infinite value"
            raise DataError(f"{fault} in this tensor during calibration", where=name, hint="check the data and the layer before it for overflow")
        seen = ranges[sources[name]]
        ranges[sources[name]] = (min(seen[0], low), max(seen[1], high))
        return value

    def state() -> dict[str, np.ndarray]:
        return {"ends": np.array(list(ranges.values()), np.float64).reshape(-1, 2)}

    kept = part("ranges")
    if (found := kept.load()) is not None:
        ranges.update(zip(ranges, map(tuple, found["ends"].tolist()), strict=True))
    return ranges, _replay(network, batches, sources, _Watched(watch, kept, state, found))


def _observe_histograms(
    network: Network, batches: Batches, sources: Mapping[str, str], ranges: Mapping[str, tuple[float, float]]
) -> dict[str, Histogram]:
    import torch

    counts = {group: torch.zeros(BINS, dtype=torch.float64) for group in ranges}
    zeros = dict.fromkeys(ranges, 0.0)

    def watch(name: str, value: torch.Tensor) -> torch.Tensor:
        group = sources[name]
        low, high = ranges[group]
        if low < high:
            stride = _stride(value.numel())
            part = value.reshape(-1)[::stride]
            zero_count = int(part.numel() - torch.count_nonzero(part))
            # histc of one zero finds the bin of all zeros by the same arithmetic
            zero_bin = torch.histc(torch.zeros(1), BINS, low, high)
            counts[group] += (torch.histc(part, BINS, low, high) - zero_bin * zero_count) * stride
            zeros[group] += zero_count * stride
        return value

    def state() -> dict[str, np.ndarray]:
        rows = [item.numpy() for item in counts.values()]
        return {"counts": np.stack(rows) if rows else np.zeros((0, BINS)), "zeros": np.array(list(zeros.values()), np.float64)}

    kept = part("histograms")
    if (found := kept.load()) is not None:
        counts.update(zip(counts, map(torch.from_numpy, found["counts"]), strict=True))
        zeros.update(zip(zeros, found["zeros"].tolist(), strict=True))
    _replay(network, batches, sources, _Watched(watch, kept, state, found))
    return {group: Histogram(*ends, counts[group].numpy().clip(min=0), zeros[group]) for group, ends in ranges.items()}


def _stride(elements: int) -> int:
    """Large tensors are sampled; an odd step does not keep to the same columns of a picture of even width."""
    return 1 if elements <= _SAMPLED else (elements // _SAMPLED) | 1


@dataclass(frozen=True)
class _Watched:
    """What is done with values, and where it is kept what came of them so far."""

    watch: Any
    kept: Part
    state: Callable[[], dict[str, np.ndarray]]
    found: Mapping[str, np.ndarray] | None
    """What a run before kept"""


def _replay(network: Network, batches: Batches, sources: Mapping[str, str], watched: _Watched) -> int:
    """Runs all batches, those left out that a run before has done; how many samples there are."""
    import torch

    from mpqc.quantize.replay import Replay, arguments

    replay, samples = Replay(network.module, watched.watch, frozenset(sources)), 0
    done = 0 if watched.found is None else int(watched.found["samples"])
    with torch.no_grad():
        for batch in steps(batches, batches.expected):
            samples += batches.batch_size or 1
            if samples > done:
                replay.run(*arguments(network.module, batch))
                watched.kept.save(partial(_counted, watched.state, samples))
    return samples


def _counted(state: Callable[[], dict[str, np.ndarray]], samples: int) -> dict[str, np.ndarray]:
    return {"samples": np.asarray(samples), **state()}


def _with_constants(network: Network, table: SiteTable, histograms: Mapping[str, Histogram], **fields: Any) -> Calibration:
    from mpqc.frontend.view import view

    constants = view(network.model).constants
    weights = {site.name: constants[site.name].copy() for site in table.sites if site.kind is SiteKind.WEIGHT}
    return Calibration(table=table, histograms=histograms, weights=weights, floors=_floors(table, histograms, network), **fields)


def _floors(table: SiteTable, histograms: Mapping[str, Histogram], network: Network) -> dict[str, np.ndarray]:
    """Smallest weight scales at which each bias, in steps of input scale (at 8 bits) x weight scale, stays below BIAS_LIMIT."""
    from mpqc.frontend.view import view

    graph = view(network.model)
    by_name = {node.name: node for node in graph.nodes}
    floors: dict[str, np.ndarray] = {}
    for node in table.nodes:
        bias = graph.constants.get(by_name[node.name].input(2)) if node.weight and node.bias_elements else None
        if bias is None or node.weight is None:
            continue
        seen = histograms[table.by_name[node.inputs[0]].group_name]
        step = affine_qparams(seen.low, seen.high, 8).scale
        floor = np.abs(bias.reshape(-1)) / (step * BIAS_LIMIT)
        floor = floor if table.by_name[node.weight].axis is not None else floor.max()
        floors[node.weight] = np.maximum(floor, floors.get(node.weight, np.float32(0.0))).astype(np.float32)
    return floors
