"""The PrimFunc of a Winograd convolution: F(2x2,3x3) over tiles of 2x2 outputs, or F(2,3) over two outputs of a row.

For each task (a block of rows of tiles, a share of the weight panels):
    copy the input rows of the block into scratch with their padding;
    for each group: transform the patches of the block, and for each panel of its weights:
        transform the panel's weights into scratch: they are stored as plain codes, packed;
        for each pair of tiles: multiply at two rows of positions, transform along the rows and keep the sums;
        for each pair of tiles: multiply at the other two rows, add what was kept, requantize and store.
Positions are summed in registers as far as the transform of outputs adds them up anyway. Along one axis only, the three kernel rows are
one long reduction, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import ClassVar

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mpqc.lowering.kernels import residual as residuals
from mpqc.lowering.kernels import winograd_micro as micro
from mpqc.lowering.kernels.arguments import declared
from mpqc.lowering.kernels.contraction import Strip
from mpqc.lowering.kernels.emit import Buffer, Expr, load, scratch, store, store_run
from mpqc.lowering.kernels.micro import Operand
from mpqc.lowering.kernels.requant import Requant
from mpqc.lowering.kernels.winograd_blocks import Block, BlockEmitter
from mpqc.numerics.winograd import TAPS, FormName

UNIT = 2
"""Quads of weights that are transformed together: whole bytes at every width"""
SHARE = 4
"""Vectors of 16 weights (half the channels of a panel) in a unit"""


@dataclass(frozen=True)
class Winograd:
    """All that the code depends on. Constants (weights, bias, multipliers, zero points) are parameters of the code."""

    name: str
    form: FormName
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    groups: int
    group_depth: int
    """Input channels of a group"""
    group_channels: int
    """Output channels of a group, at least those of a panel"""
    strip: Strip
    rows: int
    """Rows of tiles of a block; the last one may have fewer"""
    splits: int
    """Shares of the panels"""
    parallel: bool
    weight_bits: int
    """Width that the codes are stored in"""
    odd: bool
    """Stored is q of codes 2q + 1"""
    requant: Requant
    residual: residuals.Form | None = None

    @property
    def height(self) -> int:
        """Rows of tiles."""
        return ceil(self.output_shape[1] / self.lines)

    @property
    def lines(self) -> int:
        """Output rows of a tile."""
        return micro.OUTPUTS if self.form == "tile" else 1

    @property
    def width(self) -> int:
        """Tiles of a row."""
        return ceil(self.output_shape[2] / micro.OUTPUTS)

    @property
    def blocks(self) -> int:
        """Blocks of an image."""
        return ceil(self.height / self.rows)

    @property
    def quads(self) -> int:
        """Reduction steps of four input channels, in whole units."""
        return ceil(self.group_depth / 4 / UNIT) * UNIT

    @property
    def vectors(self) -> int:
        """Vectors of input channels of a group."""
        return ceil(self.group_depth / micro.VECTOR)

    @property
    def segments(self) -> int:
        """Rows of positions, or of the kernel."""
        return micro.POSITIONS if self.form == "tile" else 3

    @property
    def tile_bytes(self) -> int:
        """A transformed row of a tile."""
        return self.vectors * micro.POSITIONS * micro.VECTOR

    @property
    def segment_tiles(self) -> int:
        """Tiles from a row of positions, or of the kernel, to the next."""
        return ceil(self.rows * self.width / micro.TILES) * micro.TILES if self.form == "tile" else self.width

    @property
    def patches(self) -> int:
        """Transformed rows of tiles of a block, with room for a tile that only fills up a pair."""
        return self.segment_tiles * self.segments if self.form == "tile" else (self.rows + self.segments - 1) * self.width + 1

    @property
    def panels(self) -> int:
        """Panels of one group."""
        return ceil(self.group_channels / micro.CHANNELS)

    @property
    def panel_bytes(self) -> int:
        """Stored bytes of a panel."""
        return self.quads * TAPS * 4 * micro.CHANNELS * self.weight_bits // 8


@lru_cache(maxsize=512)
def primfunc(c: Winograd) -> tirx.PrimFunc:
    """The parameters of arguments.declared, with panels of codes as winograd.py packs them."""
    return declared(c, micro.CHANNELS, lambda arguments: _Emitter(**vars(arguments), c=c).tasks())


@dataclass(frozen=True)
class _Panel:
    """Weights of a panel and where its outputs go."""

    block: Block
    index: Expr
    channel: Expr
    """First output channel, of all groups'"""
    wide: Buffer
    """Transformed weights: int8 [segments, quads, position, channel, 4]"""
    sums: Buffer | None
    """int32 [pair, 2, tile, output, channel]: sums of position row 2, and of 2 and 3"""
    first: Buffer
    """What accumulators begin with, see micro.first_sums"""


@dataclass(frozen=True)
class _Emitter(BlockEmitter):
    c: Winograd
    width: ClassVar[int] = micro.CHANNELS

    def tasks(self) -> None:
        """Tasks of blocks; where there are fewer of them than cores, the cores share the patches of each block, and then its panels."""
        c, alone = self.c, self.c.splits == 1
        with (T.parallel if c.parallel and alone else T.serial)(c.input_shape[0] * c.blocks) as task:
            image, number = micro.floored(task, c.blocks)
            first = number * c.rows
            rows = c.rows if c.height % c.rows == 0 else T.min(c.rows, c.height - first)
            padded, patches = (scratch(size, "int8") for size in (c.strip.size, c.patches * c.tile_bytes))
            block = Block(image, first, rows, padded, patches)
            self.pad(block)
            with T.serial(c.groups) as group:
                self._transform(block, group)
                self._panels(block, group)

    def _transform(self, block: Block, group: Expr) -> None:
        """All patches of the block for one group."""
        c, strip, pixel = self.c, self.c.strip, self.c.input_shape[3]
        rows = block.rows if c.form == "tile" else block.rows + (c.segments - 1)
        with self.shared(rows) as ty, T.grid(c.width, c.vectors) as (tx, n):
            at = ty * strip.step * strip.pitch + tx * (micro.OUTPUTS * pixel) + group * c.group_depth + n * micro.VECTOR
            to = (ty * c.width + tx) * c.tile_bytes + n * (micro.POSITIONS * micro.VECTOR)
            places = [to + s * c.segment_tiles * c.tile_bytes for s in range(c.segments if c.form == "tile" else 1)]
            micro.transform_patch(block.padded, at, (strip.pitch, pixel), block.patches, places)

    def _panels(self, block: Block, group: Expr) -> None:
        c = self.c
        share = ceil(c.panels / c.splits)
        with self.shared(c.splits) as split:
            wide = scratch(c.segments * c.quads * micro.QUAD, "int8")
            sums = scratch(ceil(c.rows * c.width / micro.TILES) * 2 * micro.ROW, "int32") if c.form == "tile" else None
            with T.serial(T.min(share, c.panels - split * share) if c.panels % share else share) as p:
                index, first = self.place(group, split * share + p)
                panel = _Panel(block, index, first, wide, sums, micro.first_sums(self.start, index * (2 * micro.CHANNELS)))
                self._widen(panel)
                (self._halves if c.form == "tile" else self._rows)(panel)

    def _widen(self, panel: _Panel) -> None:
        """The transformed weights of a panel."""
        c, wide = self.c, panel.wide
        stored = TAPS * SHARE * micro.VECTOR * c.weight_bits // 8
        with T.serial(c.quads // UNIT) as unit:
            at = panel.index * c.panel_bytes + unit * stored
            for part in range(SHARE):
                taps = micro.unpacked(self.weights, at, c.weight_bits, range(part * TAPS, (part + 1) * TAPS), c.odd)
                quad, half = divmod(part, SHARE // UNIT)
                for s, row in enumerate(micro.transform_weights(taps, c.form == "tile")):
                    to = (s * c.quads + unit * UNIT + quad) * micro.QUAD + half * (micro.POSITIONS * micro.VECTOR)
                    store_run(wide, to, row, paired=True)

    def _rows(self, panel: _Panel) -> None:
        """Every pair of tiles along a row: one reduction over the kernel's rows."""
        with T.serial(_pairs(panel.block.rows * self.c.width)) as pair:
            acc = self._cleared(panel, True)
            for segment in range(3):
                self._accumulate(acc, pair, panel, segment)
            self._outputs(acc, lambda at, value: value, pair, panel, 0)

    def _halves(self, panel: _Panel) -> None:
        """Every pair of tiles, of whose rows of positions the upper line is 0 + 1 + 2 and the lower one 1 - (2 + 3): first 2 and 3, then 1 and 0."""
        pairs, sums, lower = _pairs(panel.block.rows * self.c.width), panel.sums, self._lower(panel.block)
        with T.serial(pairs) as pair:
            acc = self._cleared(panel, False)
            self._accumulate(acc, pair, panel, 2)
            self._keep(acc, panel, pair * (2 * micro.ROW))
            with self._where(pair, lower):
                self._accumulate(acc, pair, panel, 3)
                self._keep(acc, panel, pair * (2 * micro.ROW) + micro.ROW)
        with T.serial(pairs) as pair:
            acc, kept = self._cleared(panel, True), pair * (2 * micro.ROW)
            self._accumulate(acc, pair, panel, 1)
            with self._where(pair, lower):
                self._outputs(acc, lambda at, value: value - load(sums, kept + (micro.ROW + at), 4), pair, panel, 1)
            self._accumulate(acc, pair, panel, 0)
            self._outputs(acc, lambda at, value: value + load(sums, kept + at, 4), pair, panel, 0)

    def _lower(self, block: Block) -> Expr | None:
        """Tiles that have a lower line, those of the last row have not where the image has an odd number of lines; None: all."""
        c = self.c
        return None if c.output_shape[1] % 2 == 0 else T.min(block.rows, c.height - 1 - block.first) * c.width

    @contextmanager
    def _where(self, pair: Expr, lower: Expr | None) -> Iterator[None]:
        """What is done for pairs that have a lower line."""
        if lower is None:
            yield
            return
        with T.If(pair * micro.TILES < lower), T.Then():
            yield

    def _cleared(self, panel: _Panel, started: bool) -> Buffer:
        """Accumulators of a register tile at their start."""
        acc = scratch(micro.TILES * micro.POSITIONS * micro.CHANNELS, "int32")
        micro.clear(acc, panel.first, started)
        return acc

    def _accumulate(self, acc: Buffer, pair: Expr, panel: _Panel, segment: int) -> None:
        c = self.c
        places = [(pair * micro.TILES + (t + segment * c.segment_tiles)) * c.tile_bytes for t in range(micro.TILES)]
        micro.Products(c.quads).accumulate(acc, panel.block.patches, places, Operand(panel.wide, segment * c.quads * micro.QUAD))

    def _keep(self, acc: Buffer, panel: _Panel, place: Expr) -> None:
        for at, value in _sums(acc):
            store(panel.sums, place + at, 4, value)

    def _outputs(self, acc: Buffer, finish: Callable[[int, Expr], Expr], pair: Expr, panel: _Panel, line: int) -> None:
        """Requantizes and stores the outputs of a pair that lie inside the image: the sums of `acc`, each finished from its offset and value."""
        c, block, done = self.c, panel.block, scratch(micro.ROW, "int32")
        for at, value in _sums(acc):
            store(done, at, 4, finish(at, value))
        for t in range(micro.TILES):
            tile = pair * micro.TILES + t
            ty, tx = micro.floored(tile, c.width)
            y = (block.first + ty) * c.lines + line
            for j in range(micro.OUTPUTS):
                at = ((block.image * c.output_shape[1] + y) * c.output_shape[2] + tx * micro.OUTPUTS + j) * c.output_shape[3] + panel.channel
                self.output(self._inside(block, tile, tx, y, (t, j, line)), done, (t * micro.OUTPUTS + j) * micro.CHANNELS, panel.index, at)

    def _inside(self, block: Block, tile: Expr, tx: Expr, y: Expr, which: tuple[int, int, int]) -> list[Expr]:
        """What must hold for an output of a pair to exist, where that is not sure."""
        c, (t, j, line) = self.c, which
        _, height, width, _ = c.output_shape
        even = c.width % 2 == 0 or (c.rows % 2 == 0 and c.height % c.rows % 2 == 0)
        conditions = [] if even or t == 0 else [tile < block.rows * c.width]
        conditions += [tx < c.width - 1] if j == 1 and width % 2 else []
        return conditions + ([y < height] if line == 1 and height % 2 else [])


def _sums(acc: Buffer) -> list[tuple[int, Expr]]:
    """Offset in [tile, output, channel] and value of the sums of a row of positions."""
    found = []
    for t in range(micro.TILES):
        for half in range(micro.CHANNELS // 4):
            for j, value in enumerate(micro.row_sums(acc, t, half)):
                found.append(((t * micro.OUTPUTS + j) * micro.CHANNELS + half * 4, value))
    return found


def _pairs(tiles: Expr) -> Expr:
    return tirx.floordiv(tiles + (micro.TILES - 1), micro.TILES)
