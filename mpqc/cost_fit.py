"""Cycles of kernels at any shape, from cost rows at some: a sum of physical quantities with fitted, never negative, prices.

For each kernel and pair of widths the rows are fitted by least squares of the relative errors over non-negative prices
(Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23). Every quantity grows with the shape, so the
prediction is positive, deterministic, and never falls when a layer grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from mpqc.targets import RUNTIME_KERNELS, CostRow, OpKind, Shape
from mpqc.targets.schema import Caches

ROW_TILE, COLUMN_TILE, DEPTH_TILE = 8, 8, 16
"""Output pixels, output channels and products that the kernels compute together; partly filled tiles cost as full ones."""

Widths = tuple[int | None, int]
"""Containers of weights and activations, in bits."""


@dataclass(frozen=True)
class Context:
    """What a kernel run shares the caches with: bytes of weights of the whole network, read once between two runs of the kernel."""

    network_weight_bytes: float = 0.0


@dataclass(frozen=True)
class Run:
    """One kernel run: what the quantities are computed from."""

    shape: Shape
    widths: Widths
    caches: Caches
    context: Context = Context()

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights as stored."""
        return 0.0 if self.widths[0] is None else self.shape.out_c * self.shape.taps * self.widths[0] / 8

    @property
    def activation_bytes(self) -> float:
        """Bytes of inputs and outputs."""
        return (self.shape.inputs + self.shape.outputs) * self.widths[1] / 8

    def beyond(self, cache_bytes: int) -> float:
        """Bytes that this run fetches from beyond a cache of `cache_bytes`.

        Nothing while all that is read between two runs takes up to half the cache, everything once it fills it
        (least recently used lines go first), linear between.
        """
        own = self.weight_bytes + self.activation_bytes
        held = max(own, self.context.network_weight_bytes + self.activation_bytes)
        return self.weight_bytes * _overflow(held, cache_bytes) + self.activation_bytes * _overflow(own, cache_bytes)


def _overflow(used: float, cache_bytes: int) -> float:
    return min(max(2 * used / cache_bytes - 1, 0.0), 1.0) if cache_bytes else 0.0


Quantity = Callable[[Run], float]


def _tiles(extent: int, tile: int) -> int:
    return ceil(extent / tile)


def _tile_macs(run: Run) -> float:
    shape = run.shape
    columns = _tiles(shape.out_c // shape.groups, COLUMN_TILE) * shape.groups
    return _tiles(shape.pixels, ROW_TILE) * ROW_TILE * columns * COLUMN_TILE * _tiles(shape.taps, DEPTH_TILE) * DEPTH_TILE


def _tile_outputs(run: Run) -> float:
    return _tiles(run.shape.pixels, ROW_TILE) * ROW_TILE * _tiles(run.shape.out_c, COLUMN_TILE) * COLUMN_TILE


_ALWAYS: dict[str, Quantity] = {
    "call": lambda run: 1.0,
    "bytes beyond L2": lambda run: run.beyond(run.caches.l2_bytes),
    "bytes beyond L3": lambda run: run.beyond(run.caches.l3_bytes),
}
_MATRIX: dict[str, Quantity] = {
    **_ALWAYS,
    "MACs in whole tiles": _tile_macs,
    "outputs requantized": _tile_outputs,
    "patch values packed": lambda run: run.shape.pixels * run.shape.taps * run.shape.groups,
    "weight values unpacked": lambda run: run.shape.out_c * run.shape.taps,
}
_WINDOW: dict[str, Quantity] = {
    **_ALWAYS,
    "window values": lambda run: run.shape.outputs * run.shape.kernel_h * run.shape.kernel_w,
    "outputs": lambda run: run.shape.outputs,
    "output rows": lambda run: run.shape.pixels,
    "inputs": lambda run: run.shape.inputs,
}
_ELEMENTS: dict[str, Quantity] = {
    **_ALWAYS,
    "outputs": lambda run: run.shape.outputs,
    "inputs": lambda run: run.shape.inputs,
    "output rows": lambda run: run.shape.pixels,
}
_QUANTITIES: dict[OpKind, dict[str, Quantity]] = {
    OpKind.CONV: _MATRIX,
    OpKind.GEMM: _MATRIX,
    OpKind.MATMUL: _MATRIX,
    OpKind.DEPTHWISE: _WINDOW,
    OpKind.MAX_POOL: _WINDOW,
    OpKind.AVERAGE_POOL: _WINDOW,
}


def quantities(kind: OpKind) -> Mapping[str, Quantity]:
    """Name -> quantity that kernels of `kind` are priced by."""
    return _QUANTITIES.get(kind, _ELEMENTS)


@dataclass(frozen=True)
class Fit:
    """Prices of the quantities of one kernel at one pair of widths, in cycles a unit, and how well they explain the rows."""

    kind: OpKind
    widths: Widths
    prices: Mapping[str, float]
    rows: int
    mean_error: float
    """Mean of |predicted / row - 1| over the rows"""
    worst_error: float

    def cycles(self, run: Run) -> float:
        """Predicted cycles of `run`."""
        return sum(price * quantities(self.kind)[name](run) for name, price in self.prices.items())


def fit_rows(rows: Iterable[CostRow], caches: Caches) -> Mapping[tuple[OpKind, Widths], Fit]:
    """One fit for each kernel and pair of widths that has rows."""
    grouped: dict[tuple[OpKind, Widths], list[CostRow]] = {}
    for row in rows:
        if row.kernel not in RUNTIME_KERNELS:
            grouped.setdefault((OpKind(row.kernel), (row.weight_bits, row.activation_bits)), []).append(row)
    return {key: _fit(key, group, caches) for key, group in grouped.items()}


def _fit(key: tuple[OpKind, Widths], rows: list[CostRow], caches: Caches) -> Fit:
    import numpy as np
    from scipy.optimize import nnls

    kind, widths = key
    names = list(quantities(kind))
    runs = [Run(row.shape, widths, caches) for row in rows]
    cycles = np.array([row.cycles for row in rows])
    relative = np.array([[quantities(kind)[name](run) for name in names] for run in runs]) / cycles[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-300)
    prices = nnls(relative / scale, np.ones(len(rows)))[0] / scale
    errors = np.abs(relative @ prices - 1)
    found = {name: float(price) for name, price in zip(names, prices, strict=True) if price > 0}
    return Fit(kind, widths, found, len(rows), float(errors.mean()), float(errors.max()))
