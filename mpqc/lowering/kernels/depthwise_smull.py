"""Depthwise convolution on cores without SDOT: SMULL and SMLAL along channels, SADDW to int32.

Products of a few taps are added in int16 before they are widened: as many as fit for every channel, read from the weights when they
are packed and from the codes that the input can hold (two of 8 bits, often more; all nine of 4 bits). The input rows of a group of output
rows are copied to scratch with their padding, so that every output has all its taps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpqc.lowering.kernels.depthwise_weights import packed, unpacked
from mpqc.lowering.kernels.emit import copy, fill
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.kernels.layout import physical_shape
from mpqc.lowering.kernels.narrow import Narrower, Narrowing, part, real
from mpqc.lowering.kernels.requant import INT8
from mpqc.lowering.kernels.tir import MAGIC_BITS, Expr, Param, T, bind, cast, function, load, loop, param, store, symbol
from mpqc.values.program import Conv, Tensor

STRIP_BYTES = 24 * 1024
"""Copied input rows of a group of output rows, where more than one output row is in it: what stays in L1"""
ROWS = 4


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
    sums: tuple[int, ...]
    """Taps that are added in int16, run by run"""

    @property
    def lanes(self) -> int:
        """Channels of a block."""
        return 16 if self.channels >= 16 else 8

    @property
    def blocks(self) -> int:
        """Blocks of channels; the last one overlaps its neighbour where channels do not divide."""
        return -(-self.channels // self.lanes)

    @property
    def starts(self) -> np.ndarray:
        """First channel of every block."""
        return np.minimum(np.arange(self.blocks) * self.lanes, self.channels - self.lanes)

    def start(self, block: Expr) -> Expr:
        """`starts[block]` in the kernel."""
        return block * self.lanes if self.channels % self.lanes == 0 else T.min(block * self.lanes, self.channels - self.lanes)

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
        """Bytes of a copied row."""
        return self.strip_width * self.channels

    def reach(self, rows: int) -> int:
        """Input rows that `rows` output rows read."""
        return (rows - 1) * self.strides[0] + (self.kernel[0] - 1) * self.dilations[0] + 1

    @property
    def rows(self) -> int:
        """Output rows of a group."""
        fitting = [rows for rows in range(1, ROWS + 1) if rows <= self.out_height and self.reach(rows) * self.pitch <= STRIP_BYTES]
        return max(fitting, default=1)

    @property
    def columns(self) -> int:
        """Output columns computed together; one where two would be a great deal of code."""
        return min(2, self.out_width) if len(self.taps) <= 25 else 1


def plan(op: Conv, x: Tensor, y: Tensor, codes: tuple[int, int] = INT8) -> Plan | None:
    """The plan for inputs within `codes`, padding included.

    None where this form does not apply (several outputs a channel, fewer than 8 channels, not rank 4).
    """
    if len(x.shape) != 4 or x.shape[1] != op.weight.shape[0] or x.shape[1] < 8:
        return None
    n, channels, height, width = x.shape
    taps = (op.weight.shape[2], op.weight.shape[3])
    sums = together(op.weight.reshape(channels, -1), codes)
    return Plan(n, channels, height, width, y.shape[2], y.shape[3], taps, op.strides, op.pads[:2], op.dilations, op.weight_bits, sums)


def together(weight: np.ndarray, codes: tuple[int, int] = INT8) -> tuple[int, ...]:
    """Lengths of runs of taps whose products surely fit int16 when summed, whatever the inputs. weight: int8 [channels, taps]; codes: of inputs."""
    runs: list[int] = []
    low, high = min(codes[0], 0), max(codes[1], 0)
    positive, negative = np.maximum(weight, 0).astype(np.int64), np.minimum(weight, 0).astype(np.int64)
    first = 0
    while first < weight.shape[1]:
        most = np.cumsum(high * positive[:, first:] + low * negative[:, first:], axis=1).max(axis=0)
        least = np.cumsum(low * positive[:, first:] + high * negative[:, first:], axis=1).min(axis=0)
        fitting = (most < 2**15) & (least >= -(2**15))
        runs.append(max(1, int(np.argmin(np.append(fitting, False)))))
        first += runs[-1]
    return tuple(runs)


def kernel(op: Conv, p: Plan, x: Tensor, y: Tensor) -> Kernel:
    """`op` by plan `p`."""
    chosen = (p.starts[:, None] + np.arange(p.lanes)).reshape(-1)
    weight, bias, m = op.weight.astype(np.int64)[chosen], op.bias.astype(np.int64)[chosen], op.multiplier.astype(np.float32).reshape(-1)[chosen]
    largest = np.maximum(*(np.abs(bias + edge(weight * 127, weight * -128).sum(axis=(1, 2, 3))) for edge in (np.minimum, np.maximum)))
    magic = bool(largest.max() < 2**22)
    narrowing = Narrowing.of(y.zero_point, op.low, op.high, float((largest * np.abs(m)).max()))
    arrays = (
        packed(weight.reshape(len(chosen), -1).T, p.lanes, op.weight_bits),
        (bias + (MAGIC_BITS if magic else 0)).astype(np.int32),
        m,
        np.array([x.zero_point], np.int8),
        *narrowing.constants(y.zero_point, op.low, op.high),
    )
    name = symbol("depthwise_smull", f"w{op.weight_bits}", physical_shape(x), physical_shape(y), p.kernel, p.strides, p.pads, p.dilations, p.sums)
    name += ("_magic" if magic else "") + narrowing.suffix

    def body(a: Expr, w: Expr, b: Expr, m: Expr, z: Expr, *rest: Expr) -> None:
        groups = -(-p.out_height // p.rows)
        wide = _widened(p, w)
        with loop(p.batch * groups, 16 * p.rows * p.out_width * p.channels) as i:
            n, group = T.floordiv(i, groups), T.floormod(i, groups)
            row = bind(group * p.rows if p.out_height % p.rows == 0 else T.min(group * p.rows, p.out_height - p.rows))
            strip = _strip(p, a, z[0], n, row)
            with T.serial(0, p.blocks) as block:
                _Block(p, magic, narrowing, strip, wide, b, m, rest).emit(n, row, block)

    names = ("weights", "bias", "multiplier", "zero_x", "floats", "zero_y", "limits")
    params = [Param("x", physical_shape(x), "int8"), *map(param, names, arrays), Param("y", physical_shape(y), "int8")]
    return Kernel(name, function(name, params, body), arrays, physical_shape(y), "int8", int(np.prod(y.shape)) * len(p.taps))


def _widened(p: Plan, w: Expr) -> Expr:
    """int8 weights [block][tap][lanes]."""
    wide = T.alloc_buffer((p.blocks * len(p.taps) * p.lanes,), "int8")
    with T.serial(0, p.blocks) as block:
        for tap in range(len(p.taps)):
            store(wide, (block * len(p.taps) + tap) * p.lanes, unpacked(w, tap * p.blocks + block, p.weight_bits, p.lanes), p.lanes)
    return wide


def _strip(p: Plan, a: Expr, zero: Expr, n: Expr, row: Expr) -> Expr:
    """The input rows of a group of output rows, padded; rows above and below the input are the zero point."""
    strip = T.alloc_buffer((p.reach(p.rows) * p.pitch,), "int8")
    left = min(p.pads[1], p.strip_width)
    middle = max(0, min(p.width, p.strip_width - left))
    right = p.strip_width - left - middle
    with T.serial(0, p.reach(p.rows)) as r:
        y, at = row * p.strides[0] - p.pads[0] + r, r * p.pitch
        with T.If(T.And(y >= 0, y < p.height)):
            with T.Then():
                fill(strip, at, zero, left * p.channels)
                copy(strip, at + left * p.channels, a, (n * p.height + y) * (p.width * p.channels), middle * p.channels)
                fill(strip, at + (left + middle) * p.channels, zero, right * p.channels)
            with T.Else():
                fill(strip, at, zero, p.pitch)
    return strip


@dataclass(frozen=True)
class _Block:
    """The outputs of one block of channels."""

    p: Plan
    magic: bool
    narrowing: Narrowing
    strip: Expr
    wide: Expr
    bias: Expr
    multiplier: Expr
    rest: tuple[Expr, ...]

    def emit(self, n: Expr, row: Expr, block: Expr) -> None:
        """All outputs of the group from `row` on."""
        p = self.p
        narrower = Narrower(self.narrowing, self.rest[0], self.rest[1], self.rest[2], p.lanes)
        steps = -(-p.out_width // p.columns)
        channel = bind(p.start(block))
        with T.serial(0, p.rows) as r, T.serial(0, steps) as step:
            column = bind(step * p.columns if p.out_width % p.columns == 0 else T.min(step * p.columns, p.out_width - p.columns))
            sums = self._sums(r * p.strides[0] * p.pitch + column * p.strides[1] * p.channels + channel, block)
            for u in range(p.columns):
                values = [self._real(total) * load(self.multiplier, block * p.lanes + 4 * g, 4) for g, total in enumerate(sums[u])]
                at = ((n * p.out_height + row + r) * p.out_width + column + u) * p.channels + channel
                store(self.rest[-1], at, narrower.codes(values), p.lanes)

    def _sums(self, at: Expr, block: Expr) -> list[list[Expr]]:
        """int32x4 sums of every column's channels, four by four. at: of the first tap of the first column."""
        p, inputs, taps = self.p, _Inputs(self.p, self.strip, at), iter(enumerate(self.p.taps))
        totals = [[load(self.bias, block * p.lanes + 4 * g, 4) for g in range(p.lanes // 4)] for _ in range(p.columns)]
        for run in p.sums:
            chosen = [next(taps) for _ in range(run)]
            weights = [_halves(load(self.wide, (block * len(p.taps) + index) * p.lanes, p.lanes), p.lanes) for index, _ in chosen]
            for u in range(p.columns):
                for half in range(p.lanes // 8):
                    products = [_product(inputs.at(u, tap)[half], weight[half]) for (_, tap), weight in zip(chosen, weights, strict=True)]
                    short = bind(sum(products[1:], products[0]))
                    for g in (0, 1):
                        totals[u][2 * half + g] = bind(totals[u][2 * half + g] + cast(part(short, 4 * g, 4), "int32", 4))
        return totals

    def _real(self, total: Expr) -> Expr:
        return real(total) if self.magic else cast(total, "float32", 4)


class _Inputs:
    """Vectors of the strip, each loaded once for all columns that use it."""

    def __init__(self, p: Plan, strip: Expr, at: Expr) -> None:
        self.p, self.strip, self.first = p, strip, at
        self.known: dict[tuple[int, int], list[Expr]] = {}

    def at(self, column: int, tap: tuple[int, int]) -> list[Expr]:
        """The input of output column `column` at `tap`, in vectors of eight."""
        place = (tap[0] * self.p.dilations[0], column * self.p.strides[1] + tap[1] * self.p.dilations[1])
        if place not in self.known:
            offset = place[0] * self.p.pitch + place[1] * self.p.channels
            self.known[place] = _halves(load(self.strip, self.first + offset, self.p.lanes), self.p.lanes)
        return self.known[place]


def _halves(vector: Expr, lanes: int) -> list[Expr]:
    bound = bind(vector)
    return [bound] if lanes == 8 else [part(bound, 0, 8), part(bound, 8, 8)]


def _product(a: Expr, b: Expr) -> Expr:
    return cast(a, "int16", 8) * cast(b, "int16", 8)
