"""The PrimFunc of a Winograd convolution F(4x4,3x3) in int16, over tiles of 4x4 outputs.

For each task (a block of rows of tiles, a share of the weight panels):
    copy the input rows of the block into scratch with their padding;
    for each group: transform the patches of the block, and for each panel of its weights, share of its input channels and row of six positions:
        for each chunk of input channels: transform the panel's weights at that row into scratch (they are stored as plain codes, packed), and
            for each position and four tiles: multiply, sums go to scratch between chunks;
        for each tile: transform the sums along the row, combine them with those of the rows before, and where that completes a line of outputs,
            undo the scale, add up the shares, requantize and store.
All that is written again and again stays in L1 that way, and weights take the space of their codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import ClassVar

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mpqc.facts.kernels import LARGE_OUTPUTS, LARGE_POSITIONS
from mpqc.lowering.kernels import winograd16_micro as micro
from mpqc.lowering.kernels.arguments import declared
from mpqc.lowering.kernels.emit import Buffer, Expr, load, scratch, splat, store
from mpqc.lowering.kernels.micro import Operand
from mpqc.lowering.kernels.winograd16_cut import Winograd16
from mpqc.lowering.kernels.winograd_blocks import Block, BlockEmitter
from mpqc.numerics.winograd16 import SHIFTS, TAPS

INVERSE_AT = 8
"""Of the scalars: what undoes the odd factor"""


@lru_cache(maxsize=512)
def primfunc(c: Winograd16) -> tirx.PrimFunc:
    """The parameters of arguments.declared, with panels of codes as winograd16.py packs them, and one more of the scalars."""
    return declared(c, micro.CHANNELS, lambda arguments: _Emitter(**vars(arguments), c=c).tasks(), scalars=INVERSE_AT + 1)


@dataclass(frozen=True)
class _Panel:
    """Weights of a panel, where its outputs go, and what lies between."""

    block: Block
    index: Expr
    channel: Expr
    """First output channel, of all groups'"""
    wide: Buffer
    """Transformed weights of a row of positions and a chunk: int16 [position, input channel, channel]"""
    products: Buffer
    """int32 [position, tile, channel]: sums of a row of positions"""
    kept: Buffer
    """int32 [3, tile, output, channel]: what later rows of positions are combined with"""
    totals: Buffer | None
    """int32 [line, tile, output, channel]: outputs of the shares so far, where there are several"""
    share: Expr
    """That is being summed"""


@dataclass(frozen=True)
class _Emitter(BlockEmitter):
    c: Winograd16
    width: ClassVar[int] = micro.CHANNELS

    def tasks(self) -> None:
        """Tasks of blocks; where there are fewer of them than cores, the cores share the patches of each block, and then its panels."""
        c, alone = self.c, self.c.splits == 1
        with (T.parallel if c.parallel and alone else T.serial)(c.input_shape[0] * c.blocks) as task:
            image, number = tirx.floordiv(task, c.blocks), tirx.floormod(task, c.blocks)
            first = number * c.rows
            rows = c.rows if c.height % c.rows == 0 else T.min(c.rows, c.height - first)
            padded, patches = scratch(c.strip.size, "int8"), scratch(LARGE_POSITIONS**2 * c.position, "int16")
            block = Block(image, first, rows, padded, patches)
            self.pad(block)
            with T.serial(c.groups) as group:
                self._transform(block, group)
                self._panels(block, group)

    def _transform(self, block: Block, group: Expr) -> None:
        """All patches of the block for one group: those of a register tile, whose vectors share cache lines, one after the other."""
        c, strip, pixel = self.c, self.c.strip, self.c.input_shape[3]
        tiles = block.rows * c.width
        with self.shared(_quads(tiles)) as quad, T.grid(c.vectors, micro.TILES) as (n, t):
            tile = quad * micro.TILES + t
            with T.If(tile < tiles), T.Then():
                ty, tx = tirx.floordiv(tile, c.width), tirx.floormod(tile, c.width)
                at = ty * strip.step * strip.pitch + tx * (LARGE_OUTPUTS * pixel) + group * c.group_depth + n * micro.LANES
                to = (quad * c.vectors + n) * micro.GROUP + t * micro.LANES
                places = [to + p * c.position for p in range(LARGE_POSITIONS**2)]
                micro.transform_patch(Operand(block.padded, at), (strip.pitch, pixel), block.patches, places)

    def _panels(self, block: Block, group: Expr) -> None:
        c = self.c
        share, tiles = ceil(c.panels / c.splits), c.quads * micro.TILES
        with self.shared(c.splits) as split:
            wide = scratch(LARGE_POSITIONS * c.chunk * micro.STEP, "int16")
            products = scratch(LARGE_POSITIONS * c.part * micro.SUMS, "int32")
            kept = scratch(3 * tiles * LARGE_OUTPUTS * micro.CHANNELS, "int32")
            totals = scratch(tiles * LARGE_OUTPUTS**2 * micro.CHANNELS, "int32") if c.shares > 1 else None
            with T.serial(T.min(share, c.panels - split * share) if c.panels % share else share) as p:
                index, first = self.place(group, split * share + p)
                with T.serial(c.shares) as number:
                    panel = _Panel(block, index, first, wide, products, kept, totals, number)
                    for r in micro.ROWS:
                        self._row(panel, r)

    def _row(self, panel: _Panel, r: int) -> None:
        """A row of positions: parts of the block one after the other, which need the same weights; one part where these are cut in chunks."""
        c = self.c
        first_vector = panel.share * c.share
        length = c.share if c.vectors % c.share == 0 else T.min(c.share, c.vectors - first_vector)
        if c.chunks == 1:
            self._widen(panel, r, first_vector, length)
        with T.serial(c.parts) as part:
            first = part * c.part
            quads = T.min(c.part, _quads(panel.block.rows * c.width) - first)
            with T.serial(c.chunks) as chunk:
                n = chunk * c.chunk
                even = c.vectors % c.share == 0 and c.share % c.chunk == 0
                vectors = c.chunk if even else T.max(T.min(c.chunk, length - n), 0)
                if c.chunks > 1:
                    self._widen(panel, r, first_vector + n, vectors)
                with T.grid(LARGE_POSITIONS, quads) as (p, quad):
                    self._products(panel, chunk, (first_vector + n, vectors), (r, p, quad, first + quad))
            with T.serial(T.min(c.part * micro.TILES, panel.block.rows * c.width - first * micro.TILES)) as within:
                self._combine(panel, r, within, first * micro.TILES + within)

    def _widen(self, panel: _Panel, r: int, first: Expr, vectors: Expr) -> None:
        """The transformed weights of a panel at a row of positions, for some vectors of input channels."""
        c, bits = self.c, self.c.weight_bits
        fields, word = 8 // bits, micro.CHANNELS
        with T.serial(vectors * (micro.LANES // fields)) as unit:
            at = panel.index * c.panel_bytes + (first * (micro.LANES // fields) + unit) * (TAPS * word)
            rows = micro.TAP_ROWS.get(r, (0, 1, 2))
            words = [T.Bind(load(self.weights, at + tap * word, word)) if tap // 3 in rows else None for tap in range(TAPS)]
            for field in range(fields):
                channel = unit * fields + field
                places = [(p * (c.chunk * micro.LANES) + channel) * micro.CHANNELS for p in range(LARGE_POSITIONS)]
                taps = [None if packed is None else micro.unpacked(packed, field, bits, c.odd) for packed in words]
                micro.transform_weights(taps, r, panel.wide, places)

    def _products(self, panel: _Panel, chunk: Expr, span: tuple[Expr, Expr], which: tuple[int, Expr, Expr, Expr]) -> None:
        """Four tiles at position p of row r: their sums so far, and those of a chunk.

        span: its first vector of input channels, and how many; which: r, p, and the number of the four in the part and in the block.
        """
        c, (r, p, within, quad) = self.c, which
        acc, sums = scratch(micro.SUMS, "int32"), (p * c.part + within) * micro.SUMS
        self._begin(acc, panel, chunk, sums)
        v = (r * LARGE_POSITIONS + p) * c.position + (quad * c.vectors + span[0]) * micro.GROUP
        micro.multiply(acc, Operand(panel.block.patches, v), Operand(panel.wide, p * (c.chunk * micro.STEP)), span[1])
        for i in range(0, micro.SUMS, 4):
            store(panel.products, sums + i, 4, load(acc, i, 4))

    def _begin(self, acc: Buffer, panel: _Panel, chunk: Expr, sums: Expr) -> None:
        if self.c.chunks == 1:
            _clear(acc)
            return
        with T.If(chunk == 0):
            with T.Then():
                _clear(acc)
            with T.Else():
                for i in range(0, micro.SUMS, 4):
                    store(acc, i, 4, load(panel.products, sums + i, 4))

    def _combine(self, panel: _Panel, r: int, within: Expr, tile: Expr) -> None:
        """Sums of a row of positions of one tile with those of the rows before it: some are kept, some are outputs."""
        done = scratch(2 * LARGE_OUTPUTS * micro.CHANNELS, "int32")
        lines: dict[int, int] = {}
        for part in range(0, micro.CHANNELS, 4):
            at = within * micro.CHANNELS + part
            m = [T.Bind(load(panel.products, p * (self.c.part * micro.SUMS) + at, 4)) for p in range(LARGE_POSITIONS)]
            for j, value in enumerate(micro.transformed_products(m)):
                found = self._finished(panel, r, value, (tile * LARGE_OUTPUTS + j) * micro.CHANNELS + part)
                lines = {line: n for n, line in enumerate(found)}
                for line, sums in found.items():
                    self._unscale(panel, sums, (line, j, tile), done, (lines[line] * LARGE_OUTPUTS + j) * micro.CHANNELS + part)
        with self._last(panel):
            for line, n in lines.items():
                self._store_line(panel, tile, line, done, n * LARGE_OUTPUTS * micro.CHANNELS)

    @contextmanager
    def _last(self, panel: _Panel) -> Iterator[None]:
        """What is done when all shares are added up."""
        if self.c.shares == 1:
            yield
            return
        with T.If(panel.share == self.c.shares - 1), T.Then():
            yield

    def _finished(self, panel: _Panel, r: int, value: Expr, at: Expr) -> dict[int, Expr]:
        """Lines that row r completes, from four sums along it; what is not complete is kept at `at`."""
        kept, size = panel.kept, self.c.quads * micro.TILES * LARGE_OUTPUTS * micro.CHANNELS
        sums, differences, third = at, at + size, at + 2 * size
        if r in (1, 3):
            store(kept, sums if r == 1 else third, 4, value)
            return {}
        if r == 2:
            first = T.Bind(load(kept, sums, 4))
            store(kept, differences, 4, first - value)
            store(kept, sums, 4, first + value)
            return {}
        if r in (0, 5):
            return {0 if r == 0 else 3: load(kept, sums if r == 0 else differences, 4) + micro.sixfold(value)}
        near, odd, before = (T.Bind(load(kept, place, 4)) for place in (sums, differences, third))
        far, wide = T.Bind(before + value), T.Bind(before - value)
        store(kept, sums, 4, far - micro.doubled(near, 2))
        store(kept, differences, 4, micro.doubled(wide) - odd)
        return {1: wide - micro.doubled(odd), 2: far - near}

    def _unscale(self, panel: _Panel, sums: Expr, which: tuple[int, int, Expr], done: Buffer, to: int) -> None:
        """Accumulators, as the direct form has them, of output j of a line of a tile: of the shares so far."""
        shift = SHIFTS[which[0]] + SHIFTS[which[1]]
        product = sums * splat(self.scalars[INVERSE_AT], 4)
        start = panel.index * (2 * micro.CHANNELS) + to % micro.CHANNELS
        total = T.Bind(T.shift_right(product, splat(T.int32(shift), 4)))
        if panel.totals is not None:
            place = ((which[0] * self.c.quads * micro.TILES + which[2]) * LARGE_OUTPUTS + which[1]) * micro.CHANNELS + to % micro.CHANNELS
            total = T.Bind(total + tirx.Select(panel.share > 0, load(panel.totals, place, 4), splat(T.int32(0), 4)))
            store(panel.totals, place, 4, total)
        store(done, to, 4, total + load(self.start, start, 4))

    def _store_line(self, panel: _Panel, tile: Expr, line: int, done: Buffer, first: int) -> None:
        """Requantizes and stores the outputs of a line of a tile that lie inside the image."""
        c, block = self.c, panel.block
        _, height, width, channels = c.output_shape
        ty, tx = tirx.floordiv(tile, c.width), tirx.floormod(tile, c.width)
        y, x = (block.first + ty) * LARGE_OUTPUTS + line, tx * LARGE_OUTPUTS
        at = ((block.image * height + y) * width + x) * channels + panel.channel
        for j in range(LARGE_OUTPUTS):
            conditions = [y < height] if height % LARGE_OUTPUTS and line >= height % LARGE_OUTPUTS else []
            conditions += [x + j < width] if width % LARGE_OUTPUTS and j >= width % LARGE_OUTPUTS else []
            self.output(conditions, done, first + j * micro.CHANNELS, panel.index, at + j * channels)


def _clear(acc: Buffer) -> None:
    for i in range(0, micro.SUMS, 4):
        store(acc, i, 4, splat(T.int32(0), 4))


def _quads(tiles: Expr) -> Expr:
    return tirx.floordiv(tiles + (micro.TILES - 1), micro.TILES)
