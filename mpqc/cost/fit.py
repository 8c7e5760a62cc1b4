"""Cycles of kernels at any shape, from cost rows at some: a sum of physical quantities with fitted, never negative, prices.

For each kernel and pair of widths the rows are fitted by least squares of the relative errors over non-negative prices
(Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23). Every quantity grows with the shape, so the
prediction is positive, deterministic, and never falls when a layer grows, but where it grows into a faster kernel (windows that fill a
quad, depthwise channels that fill half a vector).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from mpqc.cost import chains
from mpqc.cost.large_tiles import LargeTiles
from mpqc.cost.run import Run, Widths, overflow
from mpqc.facts.kernels import (
    BLOCK_BYTES,
    CHANNEL_TILE,
    LARGE_BLOCK_BYTES,
    LARGE_WEIGHT_BYTES,
    POSITIONS,
    PRODUCT_ROWS,
    QUAD,
    SHORT_WINDOW,
    VECTOR,
    patch_rows,
)
from mpqc.facts.kinds import FLOATS
from mpqc.targets import RUNTIME_KERNELS, CostRow, OpKind, Shape
from mpqc.targets.schema import Caches

Quantity = Callable[[Run], float]


def _tiles(extent: int, tile: int) -> int:
    return ceil(extent / tile)


def _channels(shape: Shape) -> int:
    """Output channels, each group's rounded up to whole tiles."""
    return _tiles(shape.out_c // shape.groups, CHANNEL_TILE) * CHANNEL_TILE * shape.groups


def _depth(shape: Shape) -> int:
    """Products summed for one output, each row of the window rounded up to whole quads."""
    return shape.kernel_h * _tiles(shape.kernel_w * shape.in_c // shape.groups, QUAD) * QUAD


def _tile_count(run: Run) -> float:
    return _tiles(run.shape.pixels, run.pixel_tile) * _channels(run.shape) / CHANNEL_TILE


def _unpacked(run: Run) -> float:
    shape = run.shape
    blocks, large_blocks = (max(shape.inputs / size, 1.0) for size in (BLOCK_BYTES, LARGE_BLOCK_BYTES))
    first = min(run.weight_bytes, LARGE_WEIGHT_BYTES) / max(run.weight_bytes, 1.0)
    return _channels(shape) * _depth(shape) * (first * blocks + (1 - first) * large_blocks)


def _narrow_rows(shape: Shape) -> int:
    narrow = shape.kernel_w * shape.in_c // shape.groups < QUAD
    return shape.pixels * _channels(shape) * shape.kernel_h if narrow else 0


def _padded(shape: Shape) -> bool:
    """Whether windows reach over the edge of the input."""
    reach = [(out - 1) * stride + kernel for out, stride, kernel in _axes(shape)]
    return reach[0] > shape.in_h or reach[1] > shape.in_w


def _reordered(shape: Shape) -> bool:
    """Whether channels first and channels last are different orders."""
    return shape.out_c > 1 and shape.pixels > 1


def _window_values(shape: Shape) -> int:
    return shape.outputs * shape.kernel_h * shape.kernel_w


def _pooled_values(shape: Shape) -> int:
    """Window values with channels in whole vectors."""
    return shape.pixels * _tiles(shape.out_c, VECTOR) * VECTOR * shape.kernel_h * shape.kernel_w


def _axes(shape: Shape) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    return (shape.out_h, shape.stride_h, shape.kernel_h), (shape.out_w, shape.stride_w, shape.kernel_w)


def _vectors(shape: Shape) -> int:
    return _tiles(shape.in_c, VECTOR)


DEALT_CHANNELS = 2 * VECTOR
"""Two groups of a whole vector each: with fewer channels a shuffle moves value by value."""
_ALWAYS: dict[str, Quantity] = {
    "call": lambda run: 1.0,
    "bytes beyond L2": lambda run: run.beyond(run.caches.l2_bytes),
    "bytes beyond L3": lambda run: run.beyond(run.caches.l3_bytes),
}
_MATRIX: dict[str, Quantity] = {
    **_ALWAYS,
    "MACs": lambda run: run.shape.pixels * _channels(run.shape) * _depth(run.shape),
    "outputs": lambda run: run.shape.pixels * _channels(run.shape),
    "tiles": _tile_count,
    "rows of tiles": lambda run: _tile_count(run) * run.shape.kernel_h,
    "weight values unpacked": _unpacked,
    "rows of windows narrower than a quad": lambda run: _narrow_rows(run.shape),
    "input values padded": lambda run: run.shape.inputs if _padded(run.shape) else 0,
}


@dataclass(frozen=True)
class _Patches:
    """A convolution as Winograd's algorithm does it: four products along each row of a tile of `lines` x 2 outputs."""

    run: Run
    lines: int

    @property
    def shape(self) -> Shape:
        """The convolution."""
        return self.run.shape

    @property
    def width(self) -> int:
        """Tiles of a row."""
        return _tiles(self.shape.out_w, 2)

    @property
    def tiles(self) -> int:
        """Tiles, in pairs."""
        return _tiles(_tiles(self.shape.out_h, self.lines) * self.width, 2) * 2

    @property
    def depth(self) -> int:
        """Input channels of a group in whole pairs of quads."""
        return _tiles(self.shape.in_c // self.shape.groups, 2 * QUAD) * 2 * QUAD

    @property
    def products(self) -> int:
        """Multiply-accumulates: four positions in each of three kernel rows, or in four rows of positions, the last one for whole tiles alone."""
        rows = 3 * self.tiles
        if self.lines == 2:
            rows += _tiles(self.shape.out_h // 2 * self.width, 2) * 2
        return rows * 4 * _channels(self.shape) * self.depth

    @property
    def row_bytes(self) -> int:
        """Transformed inputs of a row of tiles, of a group."""
        rows = POSITIONS if self.lines == 2 else 1
        return self.width * _vectors(self.shape) * VECTOR * POSITIONS * rows // self.shape.groups

    @property
    def blocks(self) -> int:
        """How often the weights are read and transformed."""
        height = _tiles(self.shape.out_h, self.lines)
        return _tiles(height, patch_rows(height, self.row_bytes, self.shape.out_c * self.shape.taps, self.run.cores))

    def beyond(self, cache_bytes: int) -> float:
        """Bytes fetched from beyond a cache: with the weights once more for each further block, where they do not stay beside it."""
        block = self.run.weight_bytes + self.row_bytes * _tiles(self.shape.out_h, self.lines) / self.blocks
        return self.run.beyond(cache_bytes) + (self.blocks - 1) * self.run.weight_bytes * overflow(block, cache_bytes)


TRANSFORMED = "weight values transformed"


def _winograd(lines: int) -> dict[str, Quantity]:
    def of(take: Callable[[_Patches], float]) -> Quantity:
        return lambda run: take(_Patches(run, lines))

    return {
        "call": lambda run: 1.0,
        "bytes beyond L2": of(lambda patches: patches.beyond(patches.run.caches.l2_bytes)),
        "bytes beyond L3": of(lambda patches: patches.beyond(patches.run.caches.l3_bytes)),
        "products": of(lambda patches: patches.products),
        "outputs": of(lambda patches: patches.tiles * 2 * lines * _channels(patches.shape)),
        "vectors transformed": of(lambda patches: patches.tiles * _vectors(patches.shape)),
        TRANSFORMED: of(lambda patches: patches.blocks * _channels(patches.shape) * patches.depth),
        "input values padded": lambda run: run.shape.inputs,
    }


def _large_tiles() -> dict[str, Quantity]:
    def of(take: Callable[[LargeTiles], float]) -> Quantity:
        return lambda run: take(LargeTiles(run.shape, run.cores))

    return {
        **_ALWAYS,
        "products": of(lambda tiles: tiles.products),
        "sums": of(lambda tiles: tiles.sums),
        "outputs": of(lambda tiles: tiles.outputs),
        "vectors transformed": of(lambda tiles: tiles.vectors),
        TRANSFORMED: of(lambda tiles: tiles.widened),
        "input values padded": lambda run: run.shape.inputs,
    }


_PRODUCT: dict[str, Quantity] = {
    **_ALWAYS,
    "MACs": lambda run: run.shape.pixels * _channels(run.shape) * _vectors(run.shape) * VECTOR,
    "outputs": lambda run: run.shape.pixels * _channels(run.shape),
    "rows of tiles": lambda run: run.shape.pixels,
    "values packed": lambda run: _tiles(run.shape.pixels, PRODUCT_ROWS) * run.shape.in_c * _channels(run.shape),
    "panels": lambda run: _tiles(run.shape.pixels, PRODUCT_ROWS) * _channels(run.shape) / CHANNEL_TILE,
    "vectors of rows": lambda run: run.shape.pixels * _vectors(run.shape),
    "vectors of rows copied": lambda run: run.shape.pixels * _vectors(run.shape) if run.shape.in_c % VECTOR else 0,
}
_WINDOW: dict[str, Quantity] = {
    **_ALWAYS,
    "window values": lambda run: _window_values(run.shape),
    "window values of channels that fill no vector": lambda run: _window_values(run.shape) if run.shape.out_c < CHANNEL_TILE else 0,
    "window values where windows reach over the edge": lambda run: _window_values(run.shape) if _padded(run.shape) else 0,
    "outputs": lambda run: run.shape.outputs,
    "output pixels": lambda run: run.shape.pixels,
    "inputs": lambda run: run.shape.inputs,
    "channels": lambda run: run.shape.out_c,
    "channels, all taps": lambda run: run.shape.out_c * run.shape.kernel_h * run.shape.kernel_w,
}
_POOL: dict[str, Quantity] = {
    **_ALWAYS,
    "window values": lambda run: _pooled_values(run.shape),
    "window values where windows reach over the edge": lambda run: _pooled_values(run.shape) if _padded(run.shape) else 0,
    "window values of long windows": lambda run: _pooled_values(run.shape) if run.shape.kernel_h * run.shape.kernel_w > SHORT_WINDOW else 0,
    "outputs": lambda run: run.shape.outputs,
    "output pixels": lambda run: run.shape.pixels,
    "inputs": lambda run: run.shape.inputs,
    "channels": lambda run: run.shape.out_c,
}
_ELEMENTS: dict[str, Quantity] = {
    **_ALWAYS,
    "outputs": lambda run: run.shape.outputs,
    "inputs": lambda run: run.shape.inputs,
    "output pixels": lambda run: run.shape.pixels,
}
_CONVERSION: dict[str, Quantity] = {
    **_ALWAYS,
    "outputs": lambda run: run.shape.outputs,
    "values reordered": lambda run: run.shape.outputs if _reordered(run.shape) else 0,
    "pixels reordered": lambda run: run.shape.pixels if _reordered(run.shape) else 0,
}
SHORT_ROW = 16
"""Values: shorter rows are loops of their own to LLVM"""
_FLOAT: dict[str, Quantity] = {
    **_ALWAYS,
    "outputs in long rows": lambda run: run.shape.outputs if run.shape.out_c >= SHORT_ROW else 0,
    "outputs in short rows": lambda run: run.shape.outputs if run.shape.out_c < SHORT_ROW else 0,
    "inputs": lambda run: run.shape.inputs,
    "rows": lambda run: run.shape.out_h,
}
_FLOAT_PRODUCT: dict[str, Quantity] = {
    **_ALWAYS,
    "MACs": lambda run: run.shape.outputs * run.shape.in_c,
    "outputs": lambda run: run.shape.outputs,
}
_SHUFFLE: dict[str, Quantity] = {
    **_ELEMENTS,
    "outputs, too few channels for vectors": lambda run: run.shape.outputs if run.shape.out_c < DEALT_CHANNELS else 0,
    "outputs, several vectors a group": lambda run: run.shape.outputs if run.shape.out_c > DEALT_CHANNELS else 0,
}
_QUANTITIES: dict[OpKind, dict[str, Quantity]] = {
    OpKind.CONV: _MATRIX,
    OpKind.WINOGRAD_TILE: _winograd(2),
    OpKind.WINOGRAD_ROW: _winograd(1),
    OpKind.WINOGRAD_TILE4: _large_tiles(),
    OpKind.GEMM: _MATRIX,
    OpKind.MATMUL: _PRODUCT,
    OpKind.DEPTHWISE: _WINDOW,
    OpKind.MAX_POOL: _POOL,
    OpKind.AVERAGE_POOL: _POOL,
    OpKind.SHUFFLE: _SHUFFLE,
    OpKind.QUANTIZE: _CONVERSION,
    OpKind.DEQUANTIZE: _CONVERSION,
    **dict.fromkeys(FLOATS, _FLOAT),
    OpKind.FLOAT_PRODUCT: _FLOAT_PRODUCT,
}


_CHAINED: dict[OpKind, dict[str, Quantity]] = {
    OpKind.CONV: {**_ALWAYS, **chains.MATRIX},
    OpKind.GEMM: {**_ALWAYS, **chains.MATRIX},
    OpKind.DEPTHWISE: {**_WINDOW, **chains.WINDOW},
}
"""Of the form of the product without SDOT"""
ALL_WIDTHS: Widths = (None, 0)
"""Stands for any widths, where prices are the same for all"""


def quantities(kind: OpKind, form: str = "dotprod") -> Mapping[str, Quantity]:
    """Name -> quantity that kernels of `kind` are priced by, on cores with this form of the product."""
    known = _QUANTITIES.get(kind, _ELEMENTS)
    return known if form != "neon" else _CHAINED.get(kind) or {**known, **chains.STORES}


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
        known = quantities(self.kind, run.form)
        return sum(price * known[name](run) for name, price in self.prices.items())


APART: Mapping[OpKind, frozenset[str]] = {
    kind: frozenset({TRANSFORMED}) for kind in (OpKind.WINOGRAD_TILE, OpKind.WINOGRAD_ROW, OpKind.WINOGRAD_TILE4)
}
"""Kinds whose widths differ in the prices of these quantities alone: the others are found from the rows of all widths together"""


@dataclass(frozen=True)
class _Sample:
    run: Run
    cycles: float


def fit_rows(rows: Iterable[CostRow], caches: Caches, form: str, cores: int = 1) -> Mapping[tuple[OpKind, Widths], Fit]:
    """One fit for each kernel and pair of widths that has rows, and one at ALL_WIDTHS where prices are the same for all.

    form: of the target's product.
    """
    grouped: dict[OpKind, dict[Widths, list[_Sample]]] = {}
    for row in rows:
        if row.kernel not in RUNTIME_KERNELS:
            widths = (row.weight_bits, row.activation_bits)
            sample = _Sample(Run(row.shape, widths, caches, form=form, cores=cores), row.cycles)
            grouped.setdefault(OpKind(row.kernel), {}).setdefault(widths, []).append(sample)
    fits = (fit for kind, samples in grouped.items() for fit in _fits(kind, samples, form))
    return {(fit.kind, fit.widths): fit for fit in fits}


def _fits(kind: OpKind, samples: Mapping[Widths, list[_Sample]], form: str) -> Iterator[Fit]:
    chained, known = form == "neon" and kind in _CHAINED, quantities(kind, form)
    groups = [samples] if kind in APART or chained else [{widths: own} for widths, own in samples.items()]
    for group in groups:
        columns = [(name, widths) for name in known for widths in (group if name in APART.get(kind, ()) else (None,))]
        everything = [sample for own in group.values() for sample in own]
        prices = _prices(known, columns, everything)
        for widths, own in (*group.items(), *([(ALL_WIDTHS, everything)] if chained else ())):
            priced = zip(columns, prices, strict=True)
            yield _judged(kind, widths, {name: price for (name, at), price in priced if price > 0 and at in (None, widths)}, own)


def _prices(known: Mapping[str, Quantity], columns: Sequence[tuple[str, Widths | None]], samples: Sequence[_Sample]) -> list[float]:
    """Of a unit of each column: a quantity, of runs of some widths or of all."""
    import numpy as np
    from scipy.optimize import nnls

    values = [[known[name](one.run) / one.cycles if at in (None, one.run.widths) else 0.0 for name, at in columns] for one in samples]
    relative = np.array(values)
    scale = np.maximum(relative.max(axis=0), 1e-300)
    return [float(price) for price in nnls(relative / scale, np.ones(len(samples)))[0] / scale]


def _judged(kind: OpKind, widths: Widths, prices: Mapping[str, float], samples: Sequence[_Sample]) -> Fit:
    fit = Fit(kind, widths, prices, len(samples), 0.0, 0.0)
    errors = [abs(fit.cycles(one.run) / one.cycles - 1) for one in samples]
    return replace(fit, mean_error=sum(errors) / len(errors), worst_error=max(errors))
