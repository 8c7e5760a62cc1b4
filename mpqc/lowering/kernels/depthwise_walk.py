"""Emits the depthwise convolution that depthwise_slide.py plans.

A task is one block of channels of one band of rows: weights are put in order once, then groups of rows are walked one after the other.
What a sum starts at and what requantizes it are read again for each output, at an address that LLVM cannot know to be the
same (a step times a zero from memory): copies between registers would take the time of a multiply-accumulate, loads are free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from mpqc.lowering.kernels.affine import emit
from mpqc.lowering.kernels.depthwise_constants import Constants, constants
from mpqc.lowering.kernels.depthwise_sdot import halves, sdot, zipped
from mpqc.lowering.kernels.depthwise_slide import LANES, ROWS, Group, Slide, groups
from mpqc.lowering.kernels.depthwise_weights import unpacked
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.kernels.layout import physical_shape
from mpqc.lowering.kernels.narrow import Narrower
from mpqc.lowering.kernels.tir import Expr, Param, T, bind, function, load, loop, param, registers, reinterpret, splat, store, symbol
from mpqc.values.program import Conv, Tensor

Windows = dict[tuple[int, int], Expr]
"""Vectors of one input column by quad and half of the channels"""
START, OFFSET, SCALE, FUSED, RECORD = 0, 8, 16, 24, 28
"""Where a block's record has what (int32, floats by their bits), and its length"""


def kernel(op: Conv, p: Slide, x: Tensor, y: Tensor) -> Kernel:
    """`op` by plan `p`."""
    c = constants(op, LANES, y)
    zeros = np.array([x.zero_point, *[0] * ROWS], np.int8)
    arrays = (c.weights, records(c), zeros, *c.narrowing.constants(y.zero_point, op.low, op.high))
    name = symbol("depthwise_slide", f"w{op.weight_bits}", physical_shape(x), physical_shape(y), p.kernel, p.strides, p.pads, p.dilations)
    bands = -(-p.tasks // p.band)

    def body(a: Expr, w: Expr, record: Expr, z: Expr, floats: Expr, zero: Expr, limits: Expr, out: Expr) -> None:
        with loop(p.batch * bands * p.blocks, 16 * p.rows * p.band * p.out_width * LANES) as i:
            block, band = bind(T.floormod(i, p.blocks)), bind(T.floormod(T.floordiv(i, p.blocks), bands))
            narrower = Narrower(c.narrowing, floats, zero, limits, LANES)
            walk = Walk(p, c, a, w, record, z, narrower, out, T.floordiv(i, p.blocks * bands), block)
            with T.serial(0, p.band if p.tasks % p.band == 0 else T.min(p.band, p.tasks - band * p.band)) as j:
                for way in c.choices(walk.flags, walk.at + FUSED) if p.keeps_weights else [None]:
                    _choose(groups(p), 0, band * p.band + j, partial(walk.group, fused=way))

    names = ("weights", "record", "zero_x", "floats", "zero_y", "limits")
    params = [Param("x", physical_shape(x), "int8"), *map(param, names, arrays), Param("y", physical_shape(y), "int8")]
    macs = int(np.prod(y.shape)) * p.kernel[0] * p.kernel[1]
    return Kernel(name + c.suffix, function(name + c.suffix, params, body), arrays, physical_shape(y), "int8", macs)


def records(c: Constants) -> np.ndarray:
    """int32 [blocks, RECORD]: all that a block's requantization reads, side by side."""
    found = np.zeros((len(c.start) // LANES, RECORD), np.int32)
    found[:, START : START + LANES] = c.start.reshape(-1, LANES)
    found[:, SCALE : SCALE + LANES] = c.scale.astype(np.float32).view(np.int32).reshape(-1, LANES)
    if len(c.fused):
        found[:, OFFSET : OFFSET + LANES] = c.offset.view(np.int32).reshape(-1, LANES)
        found[:, FUSED] = c.fused
    return found


def _choose(rows: list[Group], before: int, task: Expr, emit_group: Callable[[Group, Expr], None]) -> None:
    """Emits the group that `task` falls into; `before` tasks belong to groups before the first."""
    group = rows[0]
    if len(rows) == 1:
        emit_group(group, task - before)
        return
    with T.If(task < before + group.count):
        with T.Then():
            emit_group(group, task - before)
        with T.Else():
            _choose(rows[1:], before + group.count, task, emit_group)


class Walk:
    """Emits one block of channels."""

    def __init__(self, p: Slide, c: Constants, a: Expr, w: Expr, record: Expr, z: Expr, narrower: Narrower, out: Expr, n: Expr, block: Expr) -> None:
        self.p, self.c, self.a, self.record, self.z, self.narrower, self.out, self.n = p, c, a, record, z, narrower, out, n
        self.at, self.channel = bind(block * RECORD), bind(p.start(block))
        self.empty, self.missing = bind(splat(z[0], 16)), bind(splat(z[0], LANES))
        self.flags = record if len(c.fused) else None
        self.nones = [bind(T.cast(z[1 + i], "int32")) for i in range(ROWS)]
        self.weights = _arranged(p, w, block)
        if not p.keeps_weights:
            kept = T.alloc_buffer((16 * len(self.weights),), "int8")
            for i, weight in enumerate(self.weights):
                store(kept, 16 * i, weight, 16)
            self.kept: Expr = kept
        self.scales = [bind(reinterpret(load(record, self.at + SCALE + 4 * v, 4), "float32", 4)) for v in (0, 1)]

    def group(self, group: Group, at: Expr, fused: bool | None) -> None:
        """One group of rows, all columns; `fused` is None where each output asks how it is requantized."""
        _Rows(self, group, bind(group.first + at * self.p.rows), fused).emit()

    def weight(self, index: int) -> Expr:
        """Vector `index` of [kernel column][pair][half of the channels]."""
        return self.weights[index] if self.p.keeps_weights else load(self.kept, 16 * index, 16)


def _arranged(p: Slide, w: Expr, block: Expr) -> list[Expr]:
    """Packed codes as vectors [kernel column][pair][half of the channels] of 4 channels x 4 rows."""
    none, found = splat(T.int8(0), LANES), []
    for kx in range(p.kernel[1]):
        taps = [bind(unpacked(w, (ky * p.kernel[1] + kx) * p.blocks + block, p.weight_bits, LANES)) for ky in range(p.kernel[0])]
        for _, _, chosen in p.pairs:
            rows = [none if tap is None else taps[tap] for tap in chosen]
            first, second = zipped(rows[0], rows[1], 8), zipped(rows[2], rows[3], 8)
            found += [halves(first, second, v) for v in (0, 1)]
    return found


@dataclass
class _Rows:
    """Emits one group of rows of one block of channels, from left to right."""

    walk: Walk
    group: Group
    row: Expr
    """First output row"""
    fused: bool | None

    def __post_init__(self) -> None:
        p = self.walk.p
        self.pairs = [(i, r, q) for i, (r, q, _) in enumerate(p.pairs) if r < self.group.rows]
        self.quads = sorted({q for _, _, q in self.pairs})
        self.names = [(j, q, v) for j in range(p.kept) for q in self.quads for v in (0, 1)]
        self.top = bind(self.row * p.strides[0] - p.pads[0])

    def emit(self) -> None:
        p = self.walk.p
        first, last = p.inner
        windows = {column: self._window(column) for column in range(p.column(0, 0), p.column(0, 0) + p.kept)}
        for ox in range(first):
            self._step(windows, ox)
        steps = (last - first) // p.unrolled
        if steps > 1:
            windows = self._loop(windows, first, steps)
            first += steps * p.unrolled
        for ox in range(first, p.out_width):
            self._step(windows, ox)

    def _loop(self, windows: dict[int, Windows], first: int, steps: int) -> dict[int, Windows]:
        """`steps` steps from output column `first` on; windows of the columns kept before and after them."""
        p = self.walk.p
        kept = registers(max(1, len(self.names)) * 16, "int8")
        self._keep(kept, windows, p.column(first, 0))
        with T.serial(0, steps) as step:
            again = [bind(step * none) for none in self.walk.nones]
            ox = bind(first + step * p.unrolled)
            local = self._kept(kept, -p.kept)
            for u in range(p.unrolled):
                fresh = p.fresh(ox + u)
                for j, column in enumerate(fresh):
                    local[u * p.strides[1] + j] = self._window(column)
                newest = u * p.strides[1] + len(fresh) - 1
                self._output({kx: local[newest - (p.kernel[1] - 1 - kx) * p.dilations[1]] for kx in range(p.kernel[1])}, ox + u, again)
            self._keep(kept, local, p.unrolled * p.strides[1] - p.kept)
        return self._kept(kept, p.column(first + steps * p.unrolled, 0))

    def _keep(self, kept: Expr, windows: dict[int, Windows], base: int) -> None:
        for i, (j, q, v) in enumerate(self.names):
            store(kept, 16 * i, windows[base + j][q, v], 16)

    def _kept(self, kept: Expr, base: int) -> dict[int, Windows]:
        found: dict[int, Windows] = {}
        for i, (j, q, v) in enumerate(self.names):
            found.setdefault(base + j, {})[q, v] = bind(load(kept, 16 * i, 16))
        return found

    def _step(self, windows: dict[int, Windows], ox: int) -> None:
        """One output column whose place is known."""
        p = self.walk.p
        for column in p.fresh(ox):
            windows[column] = self._window(column)
        self._output({kx: windows[p.column(ox, kx)] for kx in range(p.kernel[1])}, ox, [0] * ROWS)

    def _window(self, column: Expr) -> Windows:
        p = self.walk.p
        if isinstance(column, int) and not 0 <= column < p.width:
            return {(q, v): self.walk.empty for q in self.quads for v in (0, 1)}
        rows = {i: self._pixels(i, column) for i in sorted({i for q in self.quads for i in p.quads[q]})}
        pairs = {pair: zipped(rows[pair[0]], rows[pair[1]], 8) for q in self.quads for pair in (p.quads[q][:2], p.quads[q][2:])}
        return {(q, v): halves(pairs[p.quads[q][:2]], pairs[p.quads[q][2:]], v) for q in self.quads for v in (0, 1)}

    def _pixels(self, position: int, column: Expr) -> Expr:
        """Eight channels of one column in row `position` of the group's input rows."""
        p, walk = self.walk.p, self.walk
        if self.group.missing[position]:
            return walk.missing
        y = self.top + p.offsets[position]
        return bind(load(walk.a, ((walk.n * p.height + y) * p.width + column) * p.channels + walk.channel, LANES))

    def _output(self, windows: dict[int, Windows], ox: Expr, again: list[Expr]) -> None:
        """One output column."""
        p, walk = self.walk.p, self.walk
        sums = registers(self.group.rows * LANES, "int32")
        for r in range(self.group.rows):
            for v in (0, 1):
                store(sums, r * LANES + 4 * v, load(walk.record, again[r] + walk.at + START + 4 * v, 4), 4)
        for kx in range(p.kernel[1]):
            for index, r, q in self.pairs:
                for v in (0, 1):
                    total, weight = load(sums, r * LANES + 4 * v, 4), walk.weight((kx * len(p.pairs) + index) * 2 + v)
                    store(sums, r * LANES + 4 * v, sdot(total, windows[kx][q, v], weight), 4)
        for fused in walk.c.choices(walk.flags, again[0] + walk.at + FUSED) if self.fused is None else [self.fused]:
            for r in range(self.group.rows):
                codes = self._codes([load(sums, r * LANES + 4 * v, 4) for v in (0, 1)], again[r] + walk.at, fused)
                at = ((walk.n * p.out_height + self.row + r) * p.out_width + ox) * p.channels + walk.channel
                store(walk.out, at, codes, LANES)

    def _codes(self, totals: list[Expr], at: Expr, fused: bool) -> Expr:
        walk = self.walk
        offsets = [lambda v=v: reinterpret(load(walk.record, at + OFFSET + 4 * v, 4), "float32", 4) for v in (0, 1)]
        if fused:
            return walk.narrower.saturated([emit(totals[v], walk.scales[v], offsets[v]()) for v in (0, 1)])
        return walk.narrower.codes([walk.c.product(totals[v], walk.scales[v], offsets[v]) for v in (0, 1)])
