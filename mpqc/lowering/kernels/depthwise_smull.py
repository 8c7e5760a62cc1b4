"""Depthwise convolution on cores without SDOT: SMULL and SMLAL along channels, SADDW to int32, eight channels at a time.

Products of a few taps are added in int16 before they are widened: as many as fit for every channel, read from the weights when they
are packed and from the codes that the input can hold (two of 8 bits, often more; all nine of 4 bits). The input of a patch of outputs is
copied to scratch with its padding, block of channels by block, so that every output has all its taps at known places. All blocks whose
outputs share cache lines are done before the next patch: on these cores a store that misses L1 is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpqc.lowering.kernels import requant as requantization
from mpqc.lowering.kernels.depthwise_patch import LANES, Patch, patch_of
from mpqc.lowering.kernels.depthwise_weights import packed, unpacked
from mpqc.lowering.kernels.emit import scratch
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.kernels.layout import physical_shape
from mpqc.lowering.kernels.requant import INT8, Requant
from mpqc.lowering.kernels.tir import Expr, Param, T, bind, cast, function, load, loop, param, store, symbol
from mpqc.values.program import Conv, Tensor

KEPT = 9
"""Taps whose weights stay in registers"""


@dataclass(frozen=True)
class Plan:
    """How one shape is cut up."""

    batch: int
    channels: int
    patch: Patch
    kernel: tuple[int, int]
    dilations: tuple[int, int]
    weight_bits: int
    sums: tuple[int, ...]
    """Taps that are added in int16, run by run"""

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


def plan(op: Conv, x: Tensor, y: Tensor, codes: tuple[int, int] = INT8) -> Plan | None:
    """The plan for inputs within `codes`, padding included.

    None where this form does not apply (several outputs a channel, fewer than 8 channels, not rank 4).
    """
    if len(x.shape) != 4 or x.shape[1] != op.weight.shape[0] or x.shape[1] < LANES:
        return None
    channels, taps = x.shape[1], (op.weight.shape[2], op.weight.shape[3])
    sums = together(op.weight.reshape(channels, -1), codes)
    return Plan(x.shape[0], channels, patch_of(op, x, y), taps, op.dilations, op.weight_bits, sums)


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
    chosen = (p.starts[:, None] + np.arange(LANES)).reshape(-1)
    matrix = op.weight.reshape(p.channels, -1)
    requant, _ = requantization.choose(matrix, op, y.zero_point, True)
    channels = requantization.channels(matrix, op.bias, op.multiplier, requant)
    arrays = (
        packed(matrix.astype(np.int64)[chosen].T, LANES, op.weight_bits),
        channels.start[chosen],
        channels.scale[chosen],
        channels.base[chosen].view(np.int32),
        requantization.scalars(y.zero_point, op.low, op.high, x.zero_point),
    )
    name = symbol("depthwise_smull", f"w{op.weight_bits}", physical_shape(x), physical_shape(y), p.kernel, op.strides, op.pads, p.dilations, p.sums)

    def body(a: Expr, w: Expr, start: Expr, scale: Expr, base: Expr, scalars: Expr, out: Expr) -> None:
        patch = p.patch
        with loop(p.batch * patch.count * patch.shares, LANES * patch.blocks * patch.rows * patch.columns * len(p.taps)) as task:
            n, rest = T.floordiv(task, patch.count * patch.shares), T.floormod(task, patch.count * patch.shares)
            at, first = patch.place(T.floordiv(rest, patch.shares)), patch.share(T.floormod(rest, patch.shares))
            copied = patch.copied(a, scalars[0], n, at, lambda block: p.start(first + block))
            with T.serial(0, patch.blocks) as block:
                constants = _Constants.read(requant, bind(first + block), (start, scale, base, scalars))
                _Block(p, constants, copied, w, out).emit(n, at, block, first)

    names = ("weights", "start", "scale", "base", "scalars")
    params = [Param("x", physical_shape(x), "int8"), *map(param, names, arrays), Param("y", physical_shape(y), "int8")]
    return Kernel(f"{name}_{requant.key}", function(f"{name}_{requant.key}", params, body), arrays, physical_shape(y), "int8", _macs(p, y))


def _macs(p: Plan, y: Tensor) -> int:
    return int(np.prod(y.shape)) * len(p.taps)


@dataclass(frozen=True)
class _Constants:
    """What a block's outputs are requantized with, in registers."""

    requant: Requant
    start: list[Expr]
    """int32x4 [2]"""
    place: requantization.Place
    scalars: Expr

    @classmethod
    def read(cls, requant: Requant, block: Expr, arrays: tuple[Expr, Expr, Expr, Expr]) -> _Constants:
        """Those of `block`. arrays: start values, multipliers, bases, scalars."""
        start, scale, base, scalars = arrays
        scales, bases, own = scratch(LANES, "float32"), scratch(LANES, "int32"), scratch(LANES, "int32")
        for at in range(0, LANES, 4):
            store(scales, at, load(scale, block * LANES + at, 4), 4)
            store(bases, at, load(base, block * LANES + at, 4), 4)
            store(own, at, load(scalars, at, 4), 4)
        starts = [bind(load(start, block * LANES + at, 4)) for at in range(0, LANES, 4)]
        return cls(requant, starts, requantization.Place(scales, 0, bases, 0), own)

    def codes(self, sums: list[Expr]) -> Expr:
        """int8x8 of int32x4 [2]."""
        acc = scratch(LANES, "int32")
        for i, total in enumerate(sums):
            store(acc, 4 * i, total, 4)
        return requantization.emit(self.requant, acc, 0, LANES, self.place, self.scalars)


@dataclass(frozen=True)
class _Block:
    """The outputs of one block of channels in a patch."""

    p: Plan
    constants: _Constants
    copied: Expr
    """The patch's input, [block][row][column][8]"""
    weights: Expr
    out: Expr

    def emit(self, n: Expr, place: tuple[Expr, Expr], block: Expr, first: Expr) -> None:
        """All outputs of the block. place: first row and column of the patch; block: within the patch's blocks from `first` on."""
        p, patch = self.p, self.p.patch
        channel, inputs = bind(p.start(first + block)), bind(block * patch.block_bytes)
        weight = self._weights(first + block)
        with T.serial(0, patch.rows) as row, T.serial(0, patch.steps) as step:
            column = bind(patch.column(step))
            sums = self._sums(inputs + row * (patch.strides[0] * patch.pitch) + column * (patch.strides[1] * LANES), weight)
            at = ((n * patch.out_height + place[0] + row) * patch.out_width + place[1] + column) * p.channels + channel
            for u in range(patch.together):
                store(self.out, at + u * p.channels, self.constants.codes(sums[u]), LANES)

    def _weights(self, block: Expr) -> list[Expr]:
        """int8x8 of each tap: in registers, or to be loaded from scratch where there are many."""
        taps = len(self.p.taps)
        found = [unpacked(self.weights, tap * self.p.blocks + block, self.p.weight_bits, LANES) for tap in range(taps)]
        if taps <= KEPT:
            return [bind(vector) for vector in found]
        kept = T.alloc_buffer((taps * LANES,), "int8")
        for tap, vector in enumerate(found):
            store(kept, tap * LANES, vector, LANES)
        return [load(kept, tap * LANES, LANES) for tap in range(taps)]

    def _sums(self, at: Expr, weights: list[Expr]) -> list[list[Expr]]:
        """int32x4 [2] of every column. at: of the first tap of the first column."""
        inputs, taps = _Inputs(self.p, self.copied, at), iter(enumerate(self.p.taps))
        totals = [list(self.constants.start) for _ in range(self.p.patch.together)]
        for run in self.p.sums:
            chosen = [next(taps) for _ in range(run)]
            for u, total in enumerate(totals):
                products = [cast(inputs.at(u, tap), "int16", LANES) * cast(weights[index], "int16", LANES) for index, tap in chosen]
                short = bind(sum(products[1:], products[0]))
                for half in (0, 1):
                    wide = T.Shuffle([short], list(range(4 * half, 4 * half + 4)))
                    total[half] = bind(total[half] + cast(wide, "int32", 4))
        return totals


class _Inputs:
    """Vectors of the copied input, each loaded once for all columns that use it."""

    def __init__(self, p: Plan, copied: Expr, at: Expr) -> None:
        self.p, self.copied, self.first = p, copied, bind(at)
        self.known: dict[tuple[int, int], Expr] = {}

    def at(self, column: int, tap: tuple[int, int]) -> Expr:
        """int8x8: the input of output column `column` at `tap`."""
        patch = self.p.patch
        place = (tap[0] * self.p.dilations[0], column * patch.strides[1] + tap[1] * self.p.dilations[1])
        if place not in self.known:
            self.known[place] = bind(load(self.copied, self.first + (place[0] * patch.pitch + place[1] * LANES), LANES))
        return self.known[place]
