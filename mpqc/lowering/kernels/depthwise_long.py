"""Depthwise convolution where codes of more than 8 bits are read or written: SMLAL along channels, in int32.

The input rows of a group of output rows are copied to scratch as int16 with their padding, and weights are widened to int16 once, so that a
tap of eight channels is two loads and two multiplications.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpqc.lowering.kernels.depthwise_weights import packed, unpacked
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.kernels.layout import physical_shape, types
from mpqc.lowering.kernels.narrow import part
from mpqc.lowering.kernels.tir import (
    Expr,
    Param,
    T,
    bind,
    cast,
    codes,
    function,
    load,
    loop,
    output_bounds,
    param,
    pieces,
    splat,
    store,
    symbol,
)
from mpqc.values.program import Conv, Tensor

LANES = 8
"""Channels of a block"""
ROWS = 4
"""Output rows of a group at most"""
STRIP_BYTES = 48 * 1024
"""Copied input rows of a group of output rows, where more than one output row is in it"""
MOST_TAPS = 25
"""Taps up to which two columns are computed together"""


def kernel(op: Conv, x: Tensor, y: Tensor) -> Kernel | None:
    """`op` on codes of `x`; None where its sums may not fit int32, or for shapes that it has no code for."""
    p = _plan(op, x, y)
    if p is None or not _fits(op, x):
        return None
    chosen = (p.starts[:, None] + np.arange(LANES)).reshape(-1)
    arrays = (
        packed(op.weight.astype(np.int64)[chosen].reshape(len(chosen), -1).T, LANES, op.weight_bits),
        op.bias.astype(np.int32)[chosen],
        op.multiplier.astype(np.float32).reshape(-1)[chosen],
        np.array(output_bounds(y.zero_point, op.low, op.high), np.float32),
        np.array([x.zero_point], np.int16),
        np.array([y.zero_point], y.dtype),
    )

    def body(a: Expr, w: Expr, b: Expr, m: Expr, bounds: Expr, zx: Expr, zy: Expr, out: Expr) -> None:
        groups, wide = -(-p.out_height // p.rows), _widened(p, w)
        with loop(p.batch * groups, 16 * p.rows * p.out_width * p.channels) as i:
            n, group = T.floordiv(i, groups), T.floormod(i, groups)
            row = bind(group * p.rows if p.out_height % p.rows == 0 else T.min(group * p.rows, p.out_height - p.rows))
            strip = _strip(p, a, zx[0], n, row)
            with T.serial(0, p.blocks) as block:
                _Block(p, strip, wide, b, m, (bounds[0], bounds[1], zy[0]), out, y.dtype).emit(n, row, block)

    names = ("weights", "bias", "multiplier", "bounds", "zero_x", "zero_y")
    params = [Param("x", physical_shape(x), x.dtype), *map(param, names, arrays), Param("y", physical_shape(y), y.dtype)]
    shapes = (physical_shape(x), physical_shape(y), p.kernel, p.strides, p.pads, p.dilations)
    name = symbol("depthwise_long", *types(x, y), f"w{op.weight_bits}", *shapes)
    return Kernel(name, function(name, params, body), arrays, physical_shape(y), y.dtype, int(np.prod(y.shape)) * len(p.taps))


def _fits(op: Conv, x: Tensor) -> bool:
    """Whether int32 holds every partial sum."""
    largest = -int(np.iinfo(x.dtype).min)
    weights = np.abs(op.weight.astype(np.int64)).sum(axis=(1, 2, 3))
    return int((np.abs(op.bias.astype(np.int64)) + largest * weights).max(initial=0)) < 2**31


@dataclass(frozen=True)
class Plan:
    """How one shape is cut up."""

    batch: int
    channels: int
    height: int
    width: int
    out_height: int
    out_width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    """Top, left"""
    dilations: tuple[int, int]
    weight_bits: int

    @property
    def blocks(self) -> int:
        """Blocks of channels; the last one overlaps its neighbour where channels do not divide."""
        return -(-self.channels // LANES)

    @property
    def starts(self) -> np.ndarray:
        """First channel of every block."""
        return np.minimum(np.arange(self.blocks) * LANES, self.channels - LANES)

    def start(self, block: Expr) -> Expr:
        """`starts[block]` in the kernel."""
        return block * LANES if self.channels % LANES == 0 else T.min(block * LANES, self.channels - LANES)

    @property
    def taps(self) -> list[tuple[int, int]]:
        """Kernel positions in the order of their weights."""
        return [(ky, kx) for ky in range(self.kernel[0]) for kx in range(self.kernel[1])]

    @property
    def strip_width(self) -> int:
        """Columns of the copied rows, padding included."""
        return (self.out_width - 1) * self.strides[1] + (self.kernel[1] - 1) * self.dilations[1] + 1

    @property
    def pitch(self) -> int:
        """Codes of a copied row."""
        return self.strip_width * self.channels

    def reach(self, rows: int) -> int:
        """Input rows that `rows` output rows read."""
        return (rows - 1) * self.strides[0] + (self.kernel[0] - 1) * self.dilations[0] + 1

    @property
    def rows(self) -> int:
        """Output rows of a group."""
        fitting = [rows for rows in range(1, ROWS + 1) if rows <= self.out_height and self.reach(rows) * self.pitch * 2 <= STRIP_BYTES]
        return max(fitting, default=1)

    @property
    def columns(self) -> int:
        """Output columns computed together; one where two would be a great deal of code."""
        return min(2, self.out_width) if len(self.taps) <= MOST_TAPS else 1


def _plan(op: Conv, x: Tensor, y: Tensor) -> Plan | None:
    """None for several outputs a channel, fewer than 8 channels, or another rank than 4."""
    if len(x.shape) != 4 or x.shape[1] != op.weight.shape[0] or x.shape[1] < LANES:
        return None
    taps = (op.weight.shape[2], op.weight.shape[3])
    return Plan(*x.shape, y.shape[2], y.shape[3], taps, op.strides, op.pads[:2], op.dilations, op.weight_bits)


def _widened(p: Plan, w: Expr) -> Expr:
    """int16 weights [block][tap][lanes]."""
    wide = T.alloc_buffer((p.blocks * len(p.taps) * LANES,), "int16")
    with T.serial(0, p.blocks) as block:
        for tap in range(len(p.taps)):
            weight = unpacked(w, tap * p.blocks + block, p.weight_bits, LANES)
            store(wide, (block * len(p.taps) + tap) * LANES, cast(weight, "int16", LANES), LANES)
    return wide


def _strip(p: Plan, a: Expr, zero: Expr, n: Expr, row: Expr) -> Expr:
    """The input rows of a group of output rows, int16, padded; rows above and below the input are the zero point."""
    strip = T.alloc_buffer((p.reach(p.rows) * p.pitch,), "int16")
    left = min(p.pads[1], p.strip_width)
    middle = max(0, min(p.width, p.strip_width - left))
    right = p.strip_width - left - middle
    with T.serial(0, p.reach(p.rows)) as r:
        y, at = row * p.strides[0] - p.pads[0] + r, r * p.pitch
        with T.If(T.And(y >= 0, y < p.height)):
            with T.Then():
                _fill(strip, at, zero, left * p.channels)
                _copy(strip, at + left * p.channels, a, (n * p.height + y) * (p.width * p.channels), middle * p.channels)
                _fill(strip, at + (left + middle) * p.channels, zero, right * p.channels)
            with T.Else():
                _fill(strip, at, zero, p.pitch)
    return strip


def _fill(target: Expr, at: Expr, value: Expr, count: int) -> None:
    for first, repeats, width in pieces(count):
        with T.serial(0, repeats) as i:
            store(target, at + first + i * width, splat(value, width), width)


def _copy(target: Expr, at: Expr, source: Expr, start: Expr, count: int) -> None:
    for first, repeats, width in pieces(count):
        with T.serial(0, repeats) as i:
            store(target, at + first + i * width, cast(load(source, start + first + i * width, width), "int16", width), width)


@dataclass(frozen=True)
class _Block:
    """The outputs of one block of channels."""

    p: Plan
    strip: Expr
    wide: Expr
    bias: Expr
    multiplier: Expr
    ends: tuple[Expr, Expr, Expr]
    """Bounds less the output's zero point, and that"""
    out: Expr
    dtype: str

    def emit(self, n: Expr, row: Expr, block: Expr) -> None:
        """All outputs of the group from `row` on."""
        p, channel = self.p, bind(self.p.start(block))
        with T.serial(0, p.rows) as r, T.serial(0, -(-p.out_width // p.columns)) as step:
            column = bind(step * p.columns if p.out_width % p.columns == 0 else T.min(step * p.columns, p.out_width - p.columns))
            sums = self._sums(r * p.strides[0] * p.pitch + column * p.strides[1] * p.channels + channel, block)
            for u in range(p.columns):
                at = ((n * p.out_height + row + r) * p.out_width + column + u) * p.channels + channel
                for g, total in enumerate(sums[u]):
                    steps = cast(total, "float32", 4) * load(self.multiplier, block * LANES + 4 * g, 4)
                    store(self.out, at + 4 * g, codes(steps, *self.ends, 4, self.dtype), 4)

    def _sums(self, at: Expr, block: Expr) -> list[list[Expr]]:
        """int32x4 sums of every column's channels, four by four. at: of the first tap of the first column."""
        p = self.p
        totals = [[load(self.bias, block * LANES + 4 * g, 4) for g in (0, 1)] for _ in range(p.columns)]
        known: dict[tuple[int, int], Expr] = {}
        for index, (ky, kx) in enumerate(p.taps):
            weight = bind(load(self.wide, (block * len(p.taps) + index) * LANES, LANES))
            for u in range(p.columns):
                place = (ky * p.dilations[0], u * p.strides[1] + kx * p.dilations[1])
                if place not in known:
                    known[place] = bind(load(self.strip, at + place[0] * p.pitch + place[1] * p.channels, LANES))
                for g in (0, 1):
                    product = _wide(known[place], g) * _wide(weight, g)
                    totals[u][g] = bind(totals[u][g] + product)
        return totals


def _wide(vector: Expr, half: int) -> Expr:
    return cast(part(vector, 4 * half, 4), "int32", 4)
