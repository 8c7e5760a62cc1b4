"""The PrimFunc behind convolutions and fully connected layers: an implicit int8 matrix product, or one of int16 codes as two of bytes.

For each task (a block of output pixels, a share of the weight panels):
    copy the input rows of the block into scratch with their padding, where there is any;
    for each panel of weights: widen it to int8 in scratch, where it is stored narrower;
        for each register tile of the block: accumulate, requantize, store.
So a panel stays in L1 for the whole block, and the block's input in L1 or L2 for all panels.

An int16 code is 256 h + l + 128 of two int8 ones, and so is a sum of its products: 256 sum(w h) + sum(w l) + 128 sum(w). The copy has a plane of
each; a tile sums the first plane, shifts what it has by 8 bits and goes on with the second. That is twice the products of an int8 layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil
from typing import Literal

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mpqc.facts.kernels import VECTOR
from mpqc.lowering.kernels import requant as requantization
from mpqc.lowering.kernels import residual as residuals
from mpqc.lowering.kernels.arguments import BYTES, Arguments, declared
from mpqc.lowering.kernels.emit import Buffer, Expr, Planes, copy, fill, load, scratch, splat, store, store_run
from mpqc.lowering.kernels.forms import ProductForm
from mpqc.lowering.kernels.micro import Operand, Reduction, raised, sign_extended
from mpqc.lowering.kernels.requant import Requant
from mpqc.lowering.kernels.smull import LongReduction
from mpqc.lowering.kernels.tiling import Blocks, Tile, Window


@dataclass(frozen=True)
class Strip:
    """The padded copy of the input rows that a block reads; sizes in bytes except where said."""

    rows: int
    """Most input rows that a block reads"""
    reach: int
    """Input rows that one output row reads"""
    step: int
    """Input rows between two output rows"""
    height: int
    """Rows of the image"""
    top: int
    """Rows of padding above it"""
    source_pitch: int
    left: int
    middle: int
    right: int
    pitch: int

    @property
    def contiguous(self) -> bool:
        """Rows are nothing but neighbouring input bytes, in whole vectors: the copy is one run."""
        return self.reach == 1 == self.step and self.top == self.left == self.right == 0 and self.pitch == self.middle == self.source_pitch

    @property
    def size(self) -> int:
        """Bytes of the copy, with room for the last vector to reach past its end."""
        return self.rows * self.pitch + 16


Unpack = Literal["none", "scratch", "register", "nested"]
"""Where narrow weights become int8: nowhere, once for all tiles of a block, again in each tile, or there only in the sum (micro.py)"""


@dataclass(frozen=True)
class Contraction:
    """All that the code depends on. Constants (weights, bias, multipliers, zero points) are parameters of the code."""

    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    images: int
    image_bytes: int
    groups: int
    group_depth: int
    """Input channels of a group"""
    group_channels: int
    """Output channels of a group"""
    window: Window
    strip: Strip | None
    tile: Tile
    blocks: Blocks
    parallel: bool
    weight_bits: int
    odd: bool
    """Stored is q of weight codes 2q + 1"""
    panel_bytes: int
    """Stored bytes of a panel"""
    unpack: Unpack
    requant: Requant
    together: int
    """Products whose sum fits int16 (portable code), vectors of a chain (SMULL, see smull.py)"""
    form: ProductForm
    types: tuple[str, str] = BYTES
    """Of the input's and the output's codes"""
    residual: residuals.Form | None = None
    """What is added to the codes before they are stored"""
    gather: Window | None = None
    """The window over the padded copy, where a block's windows are copied from there one behind the other (facts/kernels.gathers)"""

    @property
    def panels(self) -> int:
        """Panels of one group."""
        return ceil(self.group_channels / self.tile.channels)

    @property
    def is_long(self) -> bool:
        """Whether inputs are int16 codes."""
        return self.types[0] != BYTES[0]

    @property
    def tiles(self) -> int:
        """Register tiles of a block."""
        return ceil(self.blocks.rows / self.tile.rows) * ceil(self.blocks.columns / self.tile.columns)

    @property
    def output_channels(self) -> int:
        """Output channels of all groups."""
        return self.groups * self.group_channels


@lru_cache(maxsize=512)
def primfunc(c: Contraction) -> tirx.PrimFunc:
    """The code, with the parameters that arguments.declared names."""
    return declared(c, c.tile.channels, lambda arguments: _Emitter(**vars(arguments), c=c).tasks(), types=c.types)


@dataclass(frozen=True)
class _Emitter(Arguments):
    c: Contraction

    def tasks(self) -> None:
        blocks, window = self.c.blocks, self.c.window
        with (T.parallel if self.c.parallel else T.serial)(self.c.images * blocks.count * blocks.splits) as task:
            image = tirx.floordiv(task, blocks.count * blocks.splits)
            block = tirx.floormod(tirx.floordiv(task, blocks.splits), blocks.count)
            row, rows = _span(block, blocks.rows, self.c.tile.rows, window.rows)
            column, columns = _span(block, blocks.columns, self.c.tile.columns, window.columns)
            source = self._source(image, row, rows, column)
            source = self._gathered(self.c.gather, source, (rows, columns)) if self.c.gather else source
            target = (image * window.rows + row) * window.columns + column
            sums = self._reduction.input_sums(source) if self.c.unpack == "nested" else None
            self._panels(tirx.floormod(task, blocks.splits), source, target, (rows, columns), sums)

    @property
    def _reduction(self) -> Reduction:
        c = self.c
        narrow = c.weight_bits if c.unpack in ("register", "nested") else 8
        return Reduction(c.window, c.tile, c.form, c.strip is not None, c.together, narrow, c.odd, c.unpack == "nested")

    def _source(self, image: Expr, row: Expr, rows: Expr, column: Expr) -> Operand:
        """Where the first pixel of a block begins, after its padded copy has been made if it needs one."""
        window, strip = self.c.window, self.c.strip
        if strip is None:
            return Operand(self.x, image * self.c.image_bytes + row * window.row_pitch + column * window.column_pitch)
        if self.c.is_long:
            return self._planes(strip, image * self.c.image_bytes, row, rows, column)
        padded = scratch(strip.size, "int8")
        zero = T.cast(self.scalars[0], "int8")
        if strip.contiguous:
            with T.serial(tirx.floordiv(rows * strip.pitch, 16)) as v:
                store(padded, v * 16, 16, load(self.x, image * self.c.image_bytes + row * strip.pitch + v * 16, 16))
            return Operand(padded, column * window.column_pitch)
        with T.serial((rows - 1) * strip.step + strip.reach) as r:
            y = row * strip.step - strip.top + r
            copy_row(strip, Operand(self.x, image * self.c.image_bytes + y * strip.source_pitch), Operand(padded, r * strip.pitch), y, zero)
        return Operand(padded, column * (self.c.gather or window).column_pitch)

    def _gathered(self, gather: Window, source: Operand, size: tuple[Expr, Expr]) -> Operand:
        """The rows of each window of a block, one behind the other: pieces in whole vectors, each over the end of the one before."""
        window, blocks = self.c.window, self.c.blocks
        copied = scratch(blocks.rows * blocks.columns * window.column_pitch + VECTOR, "int8")
        with T.grid(*size) as (y, x):
            at, to = source.at + y * gather.row_pitch + x * gather.column_pitch, y * window.row_pitch + x * window.column_pitch
            for segment in range(gather.segments_y):
                for first in range(0, gather.length, VECTOR):
                    lanes = next(lanes for lanes in (4, 8, VECTOR) if lanes >= min(gather.length - first, VECTOR))
                    value = load(source.buffer, at + segment * gather.segment_y_pitch + first, lanes)
                    store(copied, to + segment * gather.length + first, lanes, value)
        return Operand(copied, 0)

    def _planes(self, strip: Strip, image: Expr, row: Expr, rows: Expr, column: Expr) -> Operand:
        """The same of int16 codes: the plane of their high bytes, which that of the low ones follows."""
        padded = scratch(2 * strip.size, "int8")
        planes, zero = Planes(padded, strip.size), T.cast(self.scalars[0], "int16")
        with T.serial((rows - 1) * strip.step + strip.reach) as r:
            y = row * strip.step - strip.top + r
            split_row(strip, Operand(self.x, image + y * strip.source_pitch), planes, r * strip.pitch, y, zero)
        return Operand(padded, column * self.c.window.column_pitch)

    def _panels(self, split: Expr, source: Operand, target: Expr, size: tuple[Expr, Expr], sums: Buffer | None) -> None:
        """A share of all panels: unpack, then every tile of the block. sums: of the inputs of the one tile, for nested weights."""
        c = self.c
        total = c.groups * c.panels
        share = ceil(total / c.blocks.splits)
        with T.serial(T.min(share, total - split * share) if total % share else share) as p:
            panel = split * share + p
            group, within = tirx.floordiv(panel, c.panels), tirx.floormod(panel, c.panels)
            first = T.min(within * c.tile.channels, max(0, c.group_channels - c.tile.channels))
            w = self._panel(panel)
            start = self._start(panel)
            with T.grid(_tiles(size[0], c.tile.rows), _tiles(size[1], c.tile.columns)) as (ty, tx):
                y = T.min(ty * c.tile.rows, size[0] - c.tile.rows)
                x = T.min(tx * c.tile.columns, size[1] - c.tile.columns)
                pixel = source.at + group * c.group_depth + y * c.window.row_pitch + x * c.window.column_pitch
                out = (target + y * c.window.columns + x) * c.output_channels + group * c.group_channels + first
                self._tile(panel, start, Operand(source.buffer, pixel), w, out, sums)

    def _start(self, panel: Expr) -> Operand:
        """Values that the accumulators of a tile begin with, and after them those that requantization begins with.

        They are read again for every pixel (volatile): loads have idle pipes, copies between vector registers have not.
        """
        width = self.c.tile.channels
        if not self.c.form.start_in_memory or self._single_tile:
            return Operand(self.start, panel * (2 * width))
        size = 2 * width if self.c.requant.form == "positive" or self.c.is_long else width
        start = T.alloc_buffer((2 * width,), "int32", align=64, annotations={"tirx.volatile": True})
        with T.unroll(size // 4) as j:
            store(start, j * 4, 4, load(self.start, panel * (2 * width) + j * 4, 4))
        return Operand(start, 0)

    def _place(self, panel: Expr, start: Operand) -> requantization.Place:
        """Where requantization finds the constants of a panel's channels: not again for every pixel where the reduction is some quads without a loop.

        Such a tile is one run of code, which the compiler orders worse around loads that it may not move.
        """
        width = self.c.tile.channels
        straight = 4 < self.c.window.quads < 12 and self.c.window.length < 32
        again = self.c.requant.form == "positive" and not straight
        base = Operand(start.buffer, start.at + width) if again else Operand(self.start, (2 * panel + 1) * width)
        return requantization.Place(self.scale, panel * width, base.buffer, base.at)

    @property
    def _single_tile(self) -> bool:
        """A block is one tile: the start values are dead after it begins, and TVM would give their memory to the accumulators."""
        return self.c.tiles == 1

    def _panel(self, panel: Expr) -> Operand:
        """Weights of a panel: as stored, or widened to int8 in scratch."""
        bits, stored = self.c.weight_bits, self.c.panel_bytes
        if self.c.unpack != "scratch":
            return Operand(self.weights, panel * stored)
        fields = 8 // bits
        wide = scratch(stored * fields, "int8")
        unpacked = partial(raised if self.c.requant.shift else sign_extended, odd=self.c.odd)
        with T.serial(stored // 16) as word:
            packed = load(self.weights, panel * stored + word * 16, 16)
            store_run(wide, word * fields * 16, [unpacked(packed, field, bits) for field in range(fields)], paired=self.c.form.paired_stores)
        return Operand(wide, 0)

    def _tile(self, panel: Expr, start: Operand, x: Operand, w: Operand, out: Expr, sums: Buffer | None) -> None:
        c, width = self.c, self.c.tile.channels
        acc = self._acc(start, x, w, sums)
        with T.unroll(c.tile.pixels) as i:
            pixel = tirx.floordiv(i, c.tile.columns) * c.window.columns + tirx.floormod(i, c.tile.columns)
            at = out + pixel * c.output_channels
            self._store(at, self._codes(acc, i * width, self._place(panel, start), at))

    def _acc(self, start: Operand, x: Operand, w: Operand, sums: Buffer | None) -> Buffer:
        """int32 [pixels, channels]; [2, pixels, channels] where sums are split."""
        if self.c.is_long:
            return self._sums_of_planes(start, x, w)
        return self._long_sums(start, x, w) if self.c.form.loop == "rows" else self._sums(start, x, w, sums)

    def _sums_of_planes(self, start: Operand, x: Operand, w: Operand) -> Buffer:
        c, width = self.c, self.c.tile.channels
        assert c.strip is not None, c.name
        size, lanes = c.tile.pixels * width, 4 if c.form.loop == "quads" else width
        ends = [Operand(start.buffer, start.at + part * width) for part in (0, 1)]
        low = Operand(x.buffer, x.at + c.strip.size)
        if c.form.loop == "rows":
            parts = [self._long_sums(end, plane, w) for end, plane in zip(ends, (x, low), strict=True)]
            return self._joined(parts, size)
        acc = scratch(2 * size if c.requant.split else size, "int32")
        with T.unroll(c.tile.pixels) as i, T.unroll(width // lanes) as j:
            store(acc, i * width + j * lanes, lanes, load(ends[0].buffer, ends[0].at + j * lanes, lanes))
        self._reduction.accumulate(acc, x, w)
        if c.requant.split:
            return self._joined([acc, self._sums(ends[1], low, w, None)], size)
        with T.unroll(c.tile.pixels) as i, T.unroll(width // lanes) as j:
            at = i * width + j * lanes
            store(acc, at, lanes, _raised(load(acc, at, lanes), lanes) + load(ends[1].buffer, ends[1].at + j * lanes, lanes))
        self._reduction.accumulate(acc, low, w)
        return acc

    def _joined(self, parts: list[Buffer], size: int) -> Buffer:
        """Sums of both planes, [pixels, channels] each, as one; or one after the other where int32 may not hold it."""
        split = self.c.requant.split
        acc = scratch(2 * size if split else size, "int32")
        for at in range(0, size, 4):
            high, low = (load(part, at, 4) for part in parts)
            store(acc, at, 4, high if split else _raised(high, 4) + low)
            if split:
                store(acc, size + at, 4, low)
        return acc

    def _long_sums(self, start: Operand, x: Operand, w: Operand) -> Buffer:
        return LongReduction(self.c.window, self.c.tile, self.c.strip is not None, self.c.together).sums(x, w, start)

    def _sums(self, start: Operand, x: Operand, w: Operand, sums: Buffer | None) -> Buffer:
        """int32 [pixels, channels]: the accumulators of a tile."""
        c, width = self.c, self.c.tile.channels
        acc = scratch(c.tile.pixels * width, "int32")
        lanes = 4 if c.form.loop == "quads" else width
        with T.unroll(c.tile.pixels) as i, T.unroll(width // lanes) as j:
            first = load(start.buffer, start.at + j * lanes, lanes) if sums is None else splat(T.int32(0), lanes)
            store(acc, i * width + j * lanes, lanes, first)
        self._reduction.accumulate(acc, x, w)
        if sums is not None:
            self._reduction.separate(acc, sums, start)
        return acc

    def _codes(self, acc: Buffer, at: Expr, place: requantization.Place, out: Expr) -> Expr:
        """The codes of one pixel, to be stored at `out`."""
        c = self.c
        if c.residual is None:
            return requantization.emit(c.requant, acc, at, c.tile.channels, place, self.scalars)
        return residuals.emit(c.residual, c.requant, acc, at, c.tile.channels, place, (self.other, out), self.added)

    def _store(self, at: Expr, codes: Expr) -> None:
        width, channels = self.c.tile.channels, self.c.group_channels
        if channels >= width:
            store(self.out, at, width, codes)
            return
        few = scratch(width, self.c.types[1])
        store(few, 0, width, codes)
        step = 1 if channels % 2 else 2
        for channel in range(0, channels, step):
            store(self.out, at + channel, step, load(few, channel, step))


def _raised(sums: Expr, lanes: int) -> Expr:
    """Sums of high bytes times 256."""
    return T.shift_left(sums, splat(T.int32(8), lanes))


def _span(block: Expr, length: int, tile: int, extent: int) -> tuple[Expr, Expr]:
    """First index and length of a block along one axis; the last block is shorter, but never than a tile."""
    if length >= extent:
        return 0, extent
    first = T.min(block * length, extent - tile)
    return first, T.min(length, extent - first)


def _tiles(length: Expr, tile: int) -> Expr:
    return tirx.floordiv(length + (tile - 1), tile)


def copy_row(strip: Strip, source: Operand, target: Operand, y: Expr, zero: Expr) -> None:
    """Row `y` of the image, which begins at `source`, into the copy, with its padding; rows above and below the image are padding."""
    with T.If(tirx.all(y >= 0, y < strip.height)):
        with T.Then():
            fill(target.buffer, target.at, zero, strip.left)
            copy(target.buffer, target.at + strip.left, source.buffer, source.at, strip.middle)
            fill(target.buffer, target.at + strip.left + strip.middle, zero, strip.right)
        with T.Else():
            fill(target.buffer, target.at, zero, strip.left + strip.middle + strip.right)


def split_row(strip: Strip, source: Operand, planes: Planes, at: Expr, y: Expr, zero: Expr) -> None:
    """The same of int16 codes, into place `at` of two planes."""
    with T.If(tirx.all(y >= 0, y < strip.height)):
        with T.Then():
            planes.fill(at, zero, strip.left)
            planes.split(at + strip.left, source.buffer, source.at, strip.middle)
            planes.fill(at + strip.left + strip.middle, zero, strip.right)
        with T.Else():
            planes.fill(at, zero, strip.left + strip.middle + strip.right)
