"""Patches of a depthwise convolution's outputs, and the copy of the input that each reads, padding included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, gcd

from mpqc.lowering.kernels.tir import Expr, T, bind, load, splat, store
from mpqc.values.program import Conv, Tensor

LANES = 8
"""Channels of a block"""
BYTES = 12 * 1024
"""Copied inputs and outputs of a patch: they stay in L1 beside the lines of the input"""
BLOCKS = (8, 4, 2, 1)
"""Blocks of channels of a patch at most: eight are a cache line of outputs"""
ROWS, COLUMNS = 16, 64
"""Outputs of a patch at most"""
WAY_BYTES, LINES = 8192, 2
"""Addresses so far apart share a set of L1; lines of outputs that may share one: a power of two of channels lets few pixels stay there"""
TOGETHER = (4, 3, 2, 1)
"""Output columns that may be computed together"""
STEP, COPIED = 0.6, 0.08
"""What a group of columns takes beside them, and what a copied value takes, in outputs"""


@dataclass(frozen=True)
class Patch:
    """Outputs that are computed from one copy of their input."""

    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    strides: tuple[int, int]
    pads: tuple[int, int]
    """Top, left"""
    reach: tuple[int, int]
    """Rows and columns of the input that one output reads"""
    all_blocks: int
    blocks: int
    """Blocks of channels of a patch"""
    rows: int
    columns: int
    together: int
    """Output columns computed together"""

    @property
    def count(self) -> int:
        """Patches of an image; the last ones overlap their neighbours where they do not divide it."""
        return ceil(self.out_height / self.rows) * ceil(self.out_width / self.columns)

    @property
    def shares(self) -> int:
        """Groups of `blocks` blocks."""
        return ceil(self.all_blocks / self.blocks)

    @property
    def steps(self) -> int:
        """Groups of columns of a patch."""
        return ceil(self.columns / self.together)

    @property
    def input_rows(self) -> int:
        """Of a patch."""
        return (self.rows - 1) * self.strides[0] + self.reach[0]

    @property
    def input_columns(self) -> int:
        """Of a patch."""
        return (self.columns - 1) * self.strides[1] + self.reach[1]

    @property
    def pitch(self) -> int:
        """Bytes of a copied row of a block."""
        return self.input_columns * LANES

    @property
    def block_bytes(self) -> int:
        """Bytes of the copy of a block."""
        return self.input_rows * self.pitch

    @property
    def bytes(self) -> int:
        """What a patch keeps in L1."""
        return self.blocks * (self.block_bytes + self.rows * self.columns * LANES)

    @property
    def work(self) -> float:
        """About what the layer takes: outputs, with those computed twice, and values copied."""
        patches = self.count * self.rows
        return patches * (self.steps * (self.together + STEP) + COPIED * self.input_rows / self.rows * self.input_columns)

    def place(self, index: Expr) -> tuple[Expr, Expr]:
        """First row and column of patch `index`."""
        across = ceil(self.out_width / self.columns)
        return _first(T.floordiv(index, across), self.rows, self.out_height), _first(T.floormod(index, across), self.columns, self.out_width)

    def share(self, index: Expr) -> Expr:
        """First block of group `index`."""
        return _first(index, self.blocks, self.all_blocks)

    def column(self, step: Expr) -> Expr:
        """First column of group `step`, within the patch."""
        return _first(step, self.together, self.columns)

    def copied(self, source: Expr, zero: Expr, image: Expr, place: tuple[Expr, Expr], channel: Callable[[Expr], Expr]) -> Expr:
        """int8 [block][row][column][8]: the input of the patch at `place`. channel: first channel of a block of the patch."""
        copy = T.alloc_buffer((self.blocks * self.block_bytes,), "int8")
        left = bind(place[1] * self.strides[1] - self.pads[1])
        none = bind(splat(T.cast(zero, "int8"), LANES))
        before = bind(T.min(T.max(0 - left, 0), self.input_columns))
        end = bind(T.max(T.min(self.width - left, self.input_columns), before))
        with T.serial(0, self.input_rows) as row:
            y = bind(place[0] * self.strides[0] - self.pads[0] + row)
            inside = T.And(y >= 0, y < self.height)
            first, last = bind(T.if_then_else(inside, before, 0)), bind(T.if_then_else(inside, end, 0))
            self._filled(copy, row, (0, first), none)
            with T.serial(0, last - first) as column:
                pixel = bind(((image * self.height + y) * self.width + left + first + column) * self.channels)
                self._moved(copy, row, first + column, lambda block: load(source, pixel + channel(block), LANES))
            self._filled(copy, row, (last, self.input_columns), none)
        return copy

    def _filled(self, copy: Expr, row: Expr, columns: tuple[Expr, Expr], value: Expr) -> None:
        with T.serial(0, columns[1] - columns[0]) as column:
            self._moved(copy, row, columns[0] + column, lambda block: value)

    def _moved(self, copy: Expr, row: Expr, column: Expr, value: Callable[[Expr], Expr]) -> None:
        for block in range(self.blocks):
            store(copy, block * self.block_bytes + row * self.pitch + column * LANES, value(block), LANES)


def _first(index: Expr, size: int, extent: int) -> Expr:
    """Where part `index` of `size` begins; the last one ends with the extent."""
    return index * size if extent % size == 0 else T.min(index * size, extent - size)


def patch_of(op: Conv, x: Tensor, y: Tensor) -> Patch:
    """The patch of least work among those that stay in L1, for as many blocks of channels as leave a patch some rows."""
    _, channels, height, width = x.shape
    kernel = op.weight.shape[2:]
    reach = ((kernel[0] - 1) * op.dilations[0] + 1, (kernel[1] - 1) * op.dilations[1] + 1)
    all_blocks = ceil(channels / LANES)

    def patch(blocks: int, rows: int, columns: int) -> Patch:
        together = _together(columns, kernel[0] * kernel[1])
        sizes = (height, width, channels, y.shape[2], y.shape[3])
        return Patch(*sizes, op.strides, op.pads[:2], reach, all_blocks, blocks, rows, columns, together)

    pixels = LINES * WAY_BYTES // gcd(channels, WAY_BYTES)
    sizes = [(r, c) for r in range(1, min(ROWS, y.shape[2]) + 1) for c in range(1, min(COLUMNS, y.shape[3]) + 1) if r * c <= pixels]
    for most in BLOCKS:
        blocks = _share(all_blocks, most)
        fitting = [one for one in (patch(blocks, *size) for size in sizes) if one.bytes <= BYTES]
        if fitting:
            return min(fitting, key=lambda one: one.work)
    return patch(1, 1, 1)


def _share(blocks: int, most: int) -> int:
    """Blocks of a patch: at most `most`, with the least overlap of the last one."""
    return min(range(max(1, most // 2), min(most, blocks) + 1), key=lambda size: (ceil(blocks / size) * size, -size), default=blocks)


def _together(columns: int, taps: int) -> int:
    """Columns that are computed together: the least work, with room for the weights; one where two would be a great deal of code."""
    fitting = [count for count in TOGETHER if count <= columns and (taps <= 9 or count <= 2) and (taps <= 25 or count == 1)]
    return min(fitting, key=lambda count: (ceil(columns / count) * (count + STEP), -count))
