"""Depthwise convolution with SDOT: four vertical taps of four channels an instruction.

For a group of output rows the input rows that they need are transposed, four at a time, into a scratch strip in L1:
[column][quad of rows][16 channels][4 rows]. An SDOT of such a vector with weights in the same order adds four taps of four
channels; output rows of a group share the strip, each with its own weights (zero where a row is not its own). For 3x3 with stride 1
two rows share one quad: 8 ZIP and 24 SDOT for 288 multiply-accumulates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mpqc.lowering.kernels.affine import emit
from mpqc.lowering.kernels.depthwise_constants import Constants, constants
from mpqc.lowering.kernels.depthwise_weights import unpacked
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.kernels.layout import physical_shape
from mpqc.lowering.kernels.narrow import Narrower
from mpqc.lowering.kernels.tir import (
    Expr,
    Param,
    T,
    bind,
    function,
    intrinsic,
    load,
    loop,
    param,
    registers,
    splat,
    store,
    symbol,
)
from mpqc.values.program import Conv, Tensor

ACCUMULATORS = 16
"""Registers for sums; the others hold operands"""


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
    rows: int
    """Output rows of a group"""

    @property
    def lanes(self) -> int:
        """Channels of a block."""
        return 16 if self.channels % 16 == 0 or self.channels >= 48 else 8

    @property
    def vectors(self) -> int:
        """Vectors of four int32 in a block."""
        return self.lanes // 4

    @property
    def blocks(self) -> int:
        return -(-self.channels // self.lanes)

    def start(self, block: Expr) -> Expr:
        """First channel of `block`; see block_starts."""
        return block * self.lanes if self.channels % self.lanes == 0 else T.min(block * self.lanes, self.channels - self.lanes)

    @cached_property
    def offsets(self) -> list[int]:
        """Input rows that a group reads, from its first, a multiple of four of them (the last one repeated)."""
        found = sorted({r * self.strides[0] + k * self.dilations[0] for r in range(self.rows) for k in range(self.kernel[0])})
        return found + [found[-1]] * (-len(found) % 4)

    @property
    def quads(self) -> int:
        return len(self.offsets) // 4

    def tap(self, row: int, position: int) -> int | None:
        """The kernel row with which output row `row` uses `offsets[position]`, None where it does not."""
        offset = self.offsets[position]
        if self.offsets.index(offset) != position:
            return None
        tap, rest = divmod(offset - row * self.strides[0], self.dilations[0])
        return tap if rest == 0 and 0 <= tap < self.kernel[0] else None

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """(output row, quad) that have at least one tap in common."""
        return [(r, q) for r in range(self.rows) for q in range(self.quads) if any(self.tap(r, 4 * q + j) is not None for j in range(4))]

    @property
    def columns(self) -> int:
        """Output columns computed together."""
        return max(1, min(self.out_width, ACCUMULATORS // (self.rows * self.vectors)))

    @property
    def strip(self) -> int:
        """Columns of the strip, padding included."""
        return (self.out_width - 1) * self.strides[1] + (self.kernel[1] - 1) * self.dilations[1] + 1

    @property
    def cost(self) -> float:
        """Vector instructions for an output row and column, without requantization."""
        return (2 * self.vectors * self.quads * self.strides[1] + len(self.pairs) * self.kernel[1] * self.vectors) / self.rows


def plan(op: Conv, x: Tensor, y: Tensor) -> Plan | None:
    """The cheapest plan, None where this form does not apply (several outputs a channel, fewer than 8 channels, not rank 4)."""
    if len(x.shape) != 4 or x.shape[1] != op.weight.shape[0] or x.shape[1] < 8:
        return None
    n, channels, height, width = x.shape
    taps = (op.weight.shape[2], op.weight.shape[3])
    shape = (n, channels, height, width, y.shape[2], y.shape[3], taps, op.strides, op.pads[:2], op.dilations, op.weight_bits)
    plans = [Plan(*shape, rows) for rows in range(1, min(4, y.shape[2]) + 1)]
    return min((p for p in plans if p.rows * p.vectors <= ACCUMULATORS), key=lambda p: p.cost)


def kernel(op: Conv, p: Plan, x: Tensor, y: Tensor) -> Kernel:
    """`op` by plan `p`."""
    c = constants(op, p.lanes, y)
    arrays: tuple[np.ndarray, ...] = (
        c.weights,
        c.start,
        c.scale,
        np.array([x.zero_point, 0], np.int8),
        *c.narrowing.constants(y.zero_point, op.low, op.high),
    )
    if len(c.fused):
        arrays += (c.offset, c.fused)
    name = symbol("depthwise_sdot", f"w{op.weight_bits}", physical_shape(x), physical_shape(y), p.kernel, p.strides, p.pads, p.dilations)

    def body(a: Expr, w: Expr, b: Expr, m: Expr, z: Expr, *rest: Expr) -> None:
        sums = T.alloc_buffer((p.blocks * p.lanes * p.rows * p.columns,), "int32")
        _repeat_bias(p, b, sums)
        wide = T.alloc_buffer((p.blocks * len(p.pairs) * p.kernel[1] * 4 * p.lanes,), "int8")
        _arrange_weights(p, w, wide)
        groups = -(-p.out_height // p.rows)
        with loop(p.batch * groups, 16 * p.rows * p.out_width * p.channels) as i:
            n, group = T.floordiv(i, groups), T.floormod(i, groups)
            row = bind(group * p.rows if p.out_height % p.rows == 0 else T.min(group * p.rows, p.out_height - p.rows))
            strip = T.alloc_buffer((p.strip * p.quads * 4 * p.lanes,), "int8")
            _fill_sides(p, strip, z[0])
            with T.serial(0, p.blocks) as block:
                _fill_strip(p, a, strip, z[0], n, row, p.start(block))
                _convolve(p, c, strip, wide, sums, m, (*rest, z), n, row, block)

    names = ("weights", "start", "scale", "zero_x", "floats", "zero_y", "limits", "offset", "fused")
    params = [Param("x", physical_shape(x), "int8"), *map(param, names, arrays), Param("y", physical_shape(y), "int8")]
    macs = int(np.prod(y.shape)) * p.kernel[0] * p.kernel[1]
    return Kernel(name + c.suffix, function(name + c.suffix, params, body), arrays, physical_shape(y), "int8", macs)


def _interleaved(rows: list[Expr], lanes: int) -> list[Expr]:
    """Four int8 vectors a, b, c, d as vectors of 16: a0 b0 c0 d0 a1 b1 ..."""
    if lanes == 8:
        first, second = zipped(rows[0], rows[1], 8), zipped(rows[2], rows[3], 8)
        return [halves(first, second, half) for half in (0, 1)]
    low, high = ([_half_zipped(rows[i], rows[i + 1], half) for i in (0, 2)] for half in (0, 1))
    return [halves(pair[0], pair[1], half) for pair in (low, high) for half in (0, 1)]


def zipped(a: Expr, b: Expr, lanes: int) -> Expr:
    return bind(T.Shuffle([a, b], [i for k in range(lanes) for i in (k, lanes + k)]))


def _half_zipped(a: Expr, b: Expr, half: int) -> Expr:
    """ZIP1 or ZIP2 of bytes."""
    return bind(T.Shuffle([a, b], [i for k in range(8 * half, 8 * half + 8) for i in (k, 16 + k)]))


def halves(a: Expr, b: Expr, half: int) -> Expr:
    """ZIP1 or ZIP2 of 16-bit lanes, as int8x16."""
    return bind(T.Shuffle([a, b], [i for k in range(4 * half, 4 * half + 4) for i in (2 * k, 2 * k + 1, 16 + 2 * k, 17 + 2 * k)]))


def _arrange_weights(p: Plan, w: Expr, wide: Expr) -> None:
    """Packed codes to [block][kernel column][pair][channel][4 rows]."""
    zero = splat(T.int8(0), p.lanes)
    with T.serial(0, p.blocks) as block, T.serial(0, p.kernel[1]) as kx:
        taps = [bind(unpacked(w, (ky * p.kernel[1] + kx) * p.blocks + block, p.weight_bits, p.lanes)) for ky in range(p.kernel[0])]
        for index, (r, q) in enumerate(p.pairs):
            chosen = [p.tap(r, 4 * q + j) for j in range(4)]
            rows = [zero if tap is None else taps[tap] for tap in chosen]
            at = ((block * p.kernel[1] + kx) * len(p.pairs) + index) * 4 * p.lanes
            for g, vector in enumerate(_interleaved(rows, p.lanes)):
                store(wide, at + 16 * g, vector, 16)


def _fill_sides(p: Plan, strip: Expr, zero: Expr) -> None:
    """Writes the zero point to the strip's columns that lie left and right of the input."""
    column = p.quads * 4 * p.lanes
    for first, last in ((0, min(p.pads[1], p.strip)), (min(p.pads[1] + p.width, p.strip), p.strip)):
        if first < last:
            with T.serial(first * column // 16, last * column // 16) as i:
                store(strip, i * 16, splat(zero, 16), 16)


def _fill_strip(p: Plan, a: Expr, strip: Expr, zero: Expr, n: Expr, row: Expr, channel: Expr) -> None:
    """Transposes the input rows of one block of channels into the strip; rows above and below the input are the zero point."""
    top = bind(row * p.strides[0] - p.pads[0])
    reach = (p.out_height - p.rows) * p.strides[0] - p.pads[0] + p.offsets[-1]
    if p.pads[0] == 0 and reach < p.height:
        _transpose(p, a, strip, zero, n, top, channel, False)
        return
    with T.If(T.And(top >= 0, top + p.offsets[-1] < p.height)):
        with T.Then():
            _transpose(p, a, strip, zero, n, top, channel, False)
        with T.Else():
            _transpose(p, a, strip, zero, n, top, channel, True)


def _transpose(p: Plan, a: Expr, strip: Expr, zero: Expr, n: Expr, top: Expr, channel: Expr, border: bool) -> None:
    last = min(p.width, p.strip - p.pads[1])
    with T.serial(0, last) as x:
        for q in range(p.quads):
            rows = [_row(p, a, zero, n, top + p.offsets[4 * q + j], x, channel, border) for j in range(4)]
            at = ((x + p.pads[1]) * p.quads + q) * 4 * p.lanes
            for g, vector in enumerate(_interleaved(rows, p.lanes)):
                store(strip, at + 16 * g, vector, 16)


def _row(p: Plan, a: Expr, zero: Expr, n: Expr, y: Expr, x: Expr, channel: Expr, border: bool) -> Expr:
    """One pixel's block of channels."""
    inside = T.max(0, T.min(y, p.height - 1)) if border else y
    value = load(a, ((n * p.height + inside) * p.width + x) * p.channels + channel, p.lanes)
    return bind(T.Select(T.And(y >= 0, y < p.height), value, splat(zero, p.lanes)) if border else value)


def _convolve(p: Plan, c: Constants, strip: Expr, wide: Expr, b: Expr, m: Expr, rest: tuple[Expr, ...], n: Expr, row: Expr, block: Expr) -> None:
    """All output columns of one group of rows and one block of channels."""
    narrower = Narrower(c.narrowing, rest[0], rest[1], rest[2], p.lanes)
    steps = -(-p.out_width // p.columns)
    with T.serial(0, steps) as step:
        ox = bind(step * p.columns if p.out_width % p.columns == 0 else T.min(step * p.columns, p.out_width - p.columns))
        zero = bind(step * T.cast(rest[-1][1], "int32"))
        sums = registers(p.rows * p.columns * p.lanes, "int32")
        for i in range(p.rows * p.columns * p.vectors):
            store(sums, 4 * i, load(b, zero + block * (p.rows * p.columns * p.lanes) + 4 * i, 4), 4)
        _accumulate(p, strip, wide, sums, ox, block, zero)
        for fused in c.choices(rest[4] if len(c.fused) else None, block + zero):
            multipliers = [bind(load(m, zero + block * p.lanes + 4 * g, 4)) for g in range(p.vectors)]
            for r in range(p.rows):
                for u in range(p.columns):
                    first = (r * p.columns + u) * p.lanes
                    totals = [load(sums, first + 4 * g, 4) for g in range(p.vectors)]
                    offsets = [lambda g=g: load(rest[3], zero + block * p.lanes + 4 * g, 4) for g in range(p.vectors)]
                    if fused:
                        codes = narrower.saturated([emit(totals[g], multipliers[g], offsets[g]()) for g in range(p.vectors)])
                    else:
                        codes = narrower.codes([c.product(totals[g], multipliers[g], offsets[g]) for g in range(p.vectors)])
                    at = ((n * p.out_height + row + r) * p.out_width + ox + u) * p.channels + p.start(block)
                    store(rest[-2], at, codes, p.lanes)


def _accumulate(p: Plan, strip: Expr, wide: Expr, sums: Expr, ox: Expr, block: Expr, zero: Expr) -> None:
    for kx in range(p.kernel[1]):
        for g in range(p.vectors):
            windows = {}
            for q in range(p.quads):
                for u in range(p.columns):
                    column = (ox + u) * p.strides[1] + kx * p.dilations[1]
                    windows[q, u] = bind(load(strip, (column * p.quads + q) * 4 * p.lanes + 16 * g, 16))
            for index, (r, q) in enumerate(p.pairs):
                weight = bind(load(wide, zero + ((block * p.kernel[1] + kx) * len(p.pairs) + index) * 4 * p.lanes + 16 * g, 16))
                for u in range(p.columns):
                    at = (r * p.columns + u) * p.lanes + 4 * g
                    store(sums, at, sdot(load(sums, at, 4), windows[q, u], weight), 4)


def sdot(total: Expr, a: Expr, b: Expr) -> Expr:
    return intrinsic("llvm.aarch64.neon.sdot.v4i32.v16i8", "int32x4", total, a, b)


def _repeat_bias(p: Plan, b: Expr, sums: Expr) -> None:
    """Bias of every block as often as it has sums: loading it costs less than copying it between registers."""
    with T.serial(0, p.blocks) as block:
        for g in range(p.vectors):
            value = bind(load(b, block * p.lanes + 4 * g, 4))
            for i in range(p.rows * p.columns):
                store(sums, ((block * p.rows * p.columns + i) * p.vectors + g) * 4, value, 4)
