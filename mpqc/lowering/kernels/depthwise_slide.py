"""Depthwise convolution with SDOT, windows in registers: a group of output rows is walked from left to right.

A window is one input column of eight channels: four rows of four channels a vector, so that an SDOT with weights in the same order
adds four taps of four channels. A new column costs one ZIP a pair of rows and one a vector; windows of the columns before it
are still in registers, and so, for kernels as small as 3x3, are the weights. For 3x3 with stride 1 two rows share their
windows: 4 ZIP and 12 SDOT for 144 multiply-accumulates.

Rows and columns outside the input are known when the code is written: groups with the same rows missing share code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mpqc.lowering.kernels.affine import emit
from mpqc.lowering.kernels.depthwise_constants import Constants, constants
from mpqc.lowering.kernels.depthwise_sdot import halves, sdot, zipped
from mpqc.lowering.kernels.depthwise_weights import unpacked
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.kernels.layout import physical_shape
from mpqc.lowering.kernels.narrow import Narrower
from mpqc.lowering.kernels.tir import Expr, Param, T, bind, function, load, loop, param, registers, splat, store, symbol
from mpqc.program import Conv, Tensor

Windows = dict[tuple[int, int], Expr]
"""Vectors of one input column by quad and half of the channels"""
LANES = 8
ROWS = 2
WINDOWS = 20
"""Registers that windows may take"""

WEIGHTS = 12
"""Registers that weights may take"""


@dataclass(frozen=True)
class Slide:
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
    dilations: tuple[int, int]
    weight_bits: int

    rows: int = ROWS

    @property
    def blocks(self) -> int:
        return -(-self.channels // LANES)

    def start(self, block: Expr) -> Expr:
        """First channel of `block`; see block_starts."""
        return block * LANES if self.channels % LANES == 0 else T.min(block * LANES, self.channels - LANES)

    @cached_property
    def offsets(self) -> list[int]:
        """Input rows that a group reads, from its first."""
        return sorted({r * self.strides[0] + k * self.dilations[0] for r in range(self.rows) for k in range(self.kernel[0])})

    @cached_property
    def quads(self) -> list[tuple[int, ...]]:
        """Four rows (positions in `offsets`, the last one repeated) of each window vector."""
        count, taps = len(self.offsets), self.kernel[0]
        if taps <= 4 and self.strides[0] == self.dilations[0] == 1:
            firsts = range(0, self.rows, 5 - taps)
        elif taps <= 4 and self.strides[0] == 2 and self.dilations[0] == 1:
            firsts = range(0, 2 * self.rows, 2)
        else:
            firsts = range(0, count, 4)
        return [tuple(min(first + j, count - 1) for j in range(4)) for first in firsts]

    @cached_property
    def pairs(self) -> list[tuple[int, int, tuple[int | None, ...]]]:
        """(output row, quad, the kernel row at each of its four places): every tap of every row once."""
        found = []
        for r in range(self.rows):
            left = {k: self.offsets.index(r * self.strides[0] + k * self.dilations[0]) for k in range(self.kernel[0])}
            order = sorted(range(len(self.quads)), key=lambda q: -len(set(left.values()) & set(self.quads[q])))
            for q in order:
                taps: list[int | None] = [None] * 4
                for k, position in list(left.items()):
                    if position in self.quads[q]:
                        taps[self.quads[q].index(position)] = k
                        del left[k]
                if any(tap is not None for tap in taps):
                    found.append((r, q, tuple(taps)))
        return found

    @property
    def span(self) -> int:
        """Input columns of one output."""
        return (self.kernel[1] - 1) * self.dilations[1] + 1

    @property
    def kept(self) -> int:
        """Columns that an output shares with the one before."""
        return max(0, self.span - self.strides[1])

    @property
    def unrolled(self) -> int:
        """Outputs of one step: as many as renew all kept columns, so that none is copied."""
        return max(1, -(-self.kept // self.strides[1]))

    @property
    def fits(self) -> bool:
        """Windows of one output's columns fit the registers."""
        return len(self.quads) * 2 * self.span <= WINDOWS

    @property
    def keeps_weights(self) -> bool:
        """All weights of a block stay in registers."""
        return len(self.pairs) * self.kernel[1] * 2 <= WEIGHTS

    def column(self, ox: Expr, kx: int) -> Expr:
        """Input column of tap kx of output column ox."""
        return ox * self.strides[1] - self.pads[1] + kx * self.dilations[1]

    @cached_property
    def inner(self) -> tuple[int, int]:
        """First and last + 1 output column all of whose new columns lie inside the input."""
        inside = [ox for ox in range(self.out_width) if all(0 <= c < self.width for c in self.fresh(ox))]
        return (inside[0], inside[-1] + 1) if inside else (self.out_width, self.out_width)

    def fresh(self, ox: Expr) -> list[Expr]:
        """Input columns that output column ox does not share with the one before."""
        last = self.column(ox, self.kernel[1] - 1)
        return [last - i for i in reversed(range(self.span - self.kept))]


@dataclass(frozen=True)
class Group:
    """Groups of output rows with the same input rows missing."""

    first: int
    count: int
    rows: int
    missing: tuple[bool, ...]
    """For each of `offsets`"""


def groups(p: Slide) -> list[Group]:
    """All groups, from the top; neighbours alike are one."""
    found: list[Group] = []
    for first in range(0, p.out_height, p.rows):
        top = first * p.strides[0] - p.pads[0]
        missing = tuple(not 0 <= top + offset < p.height for offset in p.offsets)
        rows = min(p.rows, p.out_height - first)
        if found and (found[-1].rows, found[-1].missing) == (rows, missing):
            found[-1] = Group(found[-1].first, found[-1].count + 1, rows, missing)
        else:
            found.append(Group(first, 1, rows, missing))
    return found


def plan(op: Conv, x: Tensor, y: Tensor) -> Slide | None:
    """None where this form does not apply: several outputs a channel, fewer than 8 channels, not rank 4, windows that do not fit."""
    if len(x.shape) != 4 or x.shape[1] != op.weight.shape[0] or x.shape[1] < LANES:
        return None
    n, channels, height, width = x.shape
    taps = (op.weight.shape[2], op.weight.shape[3])
    p = Slide(n, channels, height, width, y.shape[2], y.shape[3], taps, op.strides, op.pads[:2], op.dilations, op.weight_bits)
    return p if p.fits and len(groups(p)) <= 4 else None


def kernel(op: Conv, p: Slide, x: Tensor, y: Tensor) -> Kernel:
    """`op` by plan `p`."""
    c = constants(op, LANES, y)
    arrays = (
        c.weights,
        c.start,
        c.scale,
        np.array([x.zero_point, *[0] * (ROWS + 1)], np.int8),
        *c.narrowing.constants(y.zero_point, op.low, op.high),
    )
    if len(c.fused):
        arrays += (c.offset, c.fused)
    name = symbol("depthwise_slide", f"w{op.weight_bits}", physical_shape(x), physical_shape(y), p.kernel, p.strides, p.pads, p.dilations)
    rows = groups(p)
    tasks = sum(group.count for group in rows)

    def body(a: Expr, w: Expr, b: Expr, m: Expr, z: Expr, *rest: Expr) -> None:
        wide = T.alloc_buffer((p.blocks * len(p.pairs) * p.kernel[1] * 4 * LANES,), "int8")
        _arrange_weights(p, w, wide)
        with loop(p.batch * tasks, 16 * p.rows * p.out_width * p.channels) as i:
            n, task = T.floordiv(i, tasks), bind(T.floormod(i, tasks))
            _choose(rows, 0, task, lambda group, at: _Walk(p, c, group, a, wide, b, m, z, rest, n, at).emit())

    names = ("weights", "start", "scale", "zero_x", "floats", "zero_y", "limits", "offset", "fused")
    params = [Param("x", physical_shape(x), "int8"), *map(param, names, arrays), Param("y", physical_shape(y), "int8")]
    macs = int(np.prod(y.shape)) * p.kernel[0] * p.kernel[1]
    return Kernel(name + c.suffix, function(name + c.suffix, params, body), arrays, physical_shape(y), "int8", macs)


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


def _arrange_weights(p: Slide, w: Expr, wide: Expr) -> None:
    """Packed codes to [block][kernel column][pair][channel][4 rows]."""
    zero = splat(T.int8(0), LANES)
    with T.serial(0, p.blocks) as block:
        for kx in range(p.kernel[1]):
            taps = [bind(unpacked(w, (ky * p.kernel[1] + kx) * p.blocks + block, p.weight_bits, LANES)) for ky in range(p.kernel[0])]
            for index, (_, _, chosen) in enumerate(p.pairs):
                rows = [zero if tap is None else taps[tap] for tap in chosen]
                at = ((block * p.kernel[1] + kx) * len(p.pairs) + index) * 4 * LANES
                first, second = zipped(rows[0], rows[1], 8), zipped(rows[2], rows[3], 8)
                for v in (0, 1):
                    store(wide, at + 16 * v, halves(first, second, v), 16)


@dataclass
class _Walk:
    """Emits all blocks of one group of rows."""

    p: Slide
    c: Constants
    group: Group
    a: Expr
    wide: Expr
    b: Expr
    m: Expr
    z: Expr
    rest: tuple[Expr, ...]
    n: Expr
    at: Expr

    def emit(self) -> None:
        p = self.p
        self.row = bind(self.group.first + self.at * p.rows)
        self.top = bind(self.row * p.strides[0] - p.pads[0])
        self.narrower = Narrower(self.c.narrowing, self.rest[0], self.rest[1], self.rest[2], LANES)
        self.pairs = [(i, r, q) for i, (r, q, _) in enumerate(p.pairs) if r < self.group.rows]
        self.quads = sorted({q for _, _, q in self.pairs})
        with T.serial(0, p.blocks) as block:
            self.block, self.channel = block, bind(p.start(block))
            self.empty = bind(splat(self.z[0], 16))
            self.weights = [bind(self._weight(i)) for i in range(2 * p.kernel[1] * len(p.pairs))] if p.keeps_weights else []
            self.scales = [bind(load(self.m, block * LANES + 4 * v, 4)) for v in (0, 1)]
            self._columns()

    def _weight(self, index: int) -> Expr:
        return load(self.wide, (self.block * (2 * self.p.kernel[1] * len(self.p.pairs)) + index) * 16, 16)

    def _columns(self) -> None:
        p = self.p
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
        p = self.p
        size = len(self.quads) * 2 * 16
        kept = registers(max(1, p.kept) * size, "int8")
        names = [(j, q, v) for j in range(p.kept) for q in self.quads for v in (0, 1)]
        base = p.column(first, 0)
        for i, (j, q, v) in enumerate(names):
            store(kept, 16 * i, windows[base + j][q, v], 16)
        nones = [bind(T.cast(self.z[1 + i], "int32")) for i in range(ROWS + 1)]
        with T.serial(0, steps) as step:
            zero = [bind(step * none) for none in nones]
            ox = bind(first + step * p.unrolled)
            local: dict[int, Windows] = {}
            for i, (j, q, v) in enumerate(names):
                local.setdefault(j - p.kept, {})[q, v] = bind(load(kept, 16 * i, 16))
            # columns are counted from the first fresh one of this step
            for u in range(p.unrolled):
                fresh = p.fresh(ox + u)
                for j, column in enumerate(fresh):
                    local[u * p.strides[1] + j] = self._window(column)
                newest = u * p.strides[1] + len(fresh) - 1
                self._output({kx: local[newest - (p.kernel[1] - 1 - kx) * p.dilations[1]] for kx in range(p.kernel[1])}, ox + u, zero)
            end = p.unrolled * p.strides[1] - p.kept
            for i, (j, q, v) in enumerate(names):
                store(kept, 16 * i, local[end + j][q, v], 16)
        base = p.column(first + steps * p.unrolled, 0)
        return {base + j: {(q, v): bind(load(kept, 16 * i, 16)) for i, (jj, q, v) in enumerate(names) if jj == j} for j in range(p.kept)}

    def _step(self, windows: dict[int, Windows], ox: int) -> None:
        """One output column whose place is known."""
        p = self.p
        for column in p.fresh(ox):
            windows[column] = self._window(column)
        self._output({kx: windows[p.column(ox, kx)] for kx in range(p.kernel[1])}, ox, [0] * (ROWS + 1))

    def _window(self, column: Expr) -> Windows:
        """Vectors of one input column by (quad, half of the channels)."""
        p = self.p
        if isinstance(column, int) and not 0 <= column < p.width:
            return {(q, v): self.empty for q in self.quads for v in (0, 1)}
        needed = sorted({position for q in self.quads for position in p.quads[q]})
        rows = {position: self._pixels(position, column) for position in needed}
        pairs = {pair: zipped(rows[pair[0]], rows[pair[1]], 8) for q in self.quads for pair in (p.quads[q][:2], p.quads[q][2:])}
        return {(q, v): halves(pairs[p.quads[q][:2]], pairs[p.quads[q][2:]], v) for q in self.quads for v in (0, 1)}

    def _pixels(self, position: int, column: Expr) -> Expr:
        p = self.p
        if self.group.missing[position]:
            return bind(splat(self.z[0], LANES))
        y = self.top + p.offsets[position]
        return bind(load(self.a, ((self.n * p.height + y) * p.width + column) * p.channels + self.channel, LANES))

    def _output(self, windows: dict[int, Windows], ox: Expr, zero: list[Expr]) -> None:
        p, c = self.p, self.c
        sums = registers(self.group.rows * LANES, "int32")
        for r in range(self.group.rows):
            for v in (0, 1):
                store(sums, r * LANES + 4 * v, load(self.b, zero[r] + self.block * LANES + 4 * v, 4), 4)
        for kx in range(p.kernel[1]):
            for index, r, q in self.pairs:
                for v in (0, 1):
                    at = (kx * len(p.pairs) + index) * 2 + v
                    weight = self.weights[at] if self.weights else self._weight(at)
                    store(sums, r * LANES + 4 * v, sdot(load(sums, r * LANES + 4 * v, 4), windows[kx][q, v], weight), 4)
        for fused in c.choices(self.rest[4] if len(c.fused) else None, self.block + zero[-1]):
            for r in range(self.group.rows):
                totals = [load(sums, r * LANES + 4 * v, 4) for v in (0, 1)]
                if fused:
                    offsets = [load(self.rest[3], zero[r] + self.block * LANES + 4 * v, 4) for v in (0, 1)]
                    codes = self.narrower.saturated([emit(totals[v], self.scales[v], offsets[v]) for v in (0, 1)])
                else:
                    codes = self.narrower.codes([c.real(totals[v]) * self.scales[v] for v in (0, 1)])
                at = ((self.n * p.out_height + self.row + r) * p.out_width + ox) * p.channels + self.channel
                store(self.rest[-1], at, codes, LANES)
