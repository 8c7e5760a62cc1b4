"""Depthwise convolution with SDOT, windows in registers: a group of output rows is walked from left to right.

A window is one input column of eight channels: four rows of four channels a vector, so that an SDOT with weights in the same order
adds four taps of four channels. A new column costs one ZIP a pair of rows and one a vector; windows of the columns before it
are still in registers, and so, for kernels as small as 3x3, are the weights. For 3x3 with stride 1 two rows share their
windows: 4 ZIP and 12 SDOT for 144 multiply-accumulates.

Rows and columns outside the input are known when the code is written: groups with the same rows missing share code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mpqc.lowering.kernels.tir import Expr, T
from mpqc.values.program import Conv, Tensor

LANES = 8
ROWS = 2
WINDOWS = 20
"""Registers that windows may take"""

WEIGHTS = 12
"""Registers that weights may take"""
PATTERNS = 4
"""Kinds of groups of rows that code is written for"""
BAND = 192 << 10
"""Bytes of input and output that all blocks of channels pass over before the next rows: they stay in a core's L2"""


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

    @property
    def tasks(self) -> int:
        """Groups of output rows."""
        return -(-self.out_height // self.rows)

    @property
    def band(self) -> int:
        """Groups of a band."""
        pitch = (self.width * self.strides[0] + self.out_width) * self.rows * self.channels
        bands = -(-self.tasks * pitch // BAND)
        return -(-self.tasks // bands)

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
    return p if p.fits and len(groups(p)) <= PATTERNS else None
