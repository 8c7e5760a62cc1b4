"""Convolution sums on cores without SDOT: SMULL and SMLAL along the reduction, in int16 for as long as the actual codes allow.

16 bytes of a pixel times 16 weights of one channel are two products in each of eight lanes (SMULL, SMLAL2). A lane of int16 takes as many
products as surely fit, whatever the inputs: two of 8 x 8 bits, four of 7 x 8, eight of 6 x 8 or 7 x 7, ... or the whole reduction; then
SADALP adds it to int32. So n products a lane take n + 1 instructions, and every bit less of weights or activations is time. How long such
chains may be is read from the weights when they are packed, and from the codes that the input can hold (`chain_of`).

A tile is four pixels by eight channels, in two groups of four: 16 accumulators, and 32 multiplications for eight loads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mpqc.facts.kernels import LANES, VECTOR, longest_chain
from mpqc.lowering.kernels.emit import Buffer, Expr, load, neon, scratch, splat, store
from mpqc.lowering.kernels.micro import Operand
from mpqc.lowering.kernels.packing import narrow, take_panels
from mpqc.lowering.kernels.tiling import Tile, Window

ACCUMULATORS = 16
"""Sums that are made together"""
SHORT = 2
"""Vectors of a chain up to which it lives in passing registers, beside accumulators of int32"""
UNROLLED = 6
"""Trips of a loop up to which the compiler writes it out"""
CHAINS = 2
"""Channels whose products are written one after the other, so that cores in order do not wait for each"""


def padded_length(length: int) -> int:
    """Weights of a channel that are stored for a segment of `length`: whole vectors of 16 and maybe one of 8."""
    return -(-length // LANES) * LANES


def aligned(matrix: np.ndarray, length: int, slack: bool) -> np.ndarray:
    """[O, segments * length] -> [O, segments, padded length]: zeros where the last vector reads more bytes than the segment has.

    With `slack` it reads past the segment's end, without it begins before what is left (and so again reads what is done).
    """
    segments = matrix.reshape(matrix.shape[0], -1, length)
    main, more = length // VECTOR * VECTOR, padded_length(length) - length
    before, after = (0, more) if slack else (more, 0)
    rest = np.pad(segments[:, :, main:], ((0, 0), (0, 0), (before, after)))
    return np.concatenate([segments[:, :, :main], rest], axis=2)


def group_of(tile: Tile) -> int:
    """Channels of a tile that are summed together."""
    return tile.channels if tile.pixels * tile.channels <= ACCUMULATORS else ACCUMULATORS // 4


def pack(weights: np.ndarray, width: int, bits: int, group: int) -> np.ndarray:
    """[O, segments, padded length] -> [panels, bytes]: for each group of channels, segment and vector, the vectors of all its channels."""
    panels = take_panels(weights, width)
    count, main = panels.shape[0], weights.shape[2] // VECTOR * VECTOR
    grouped = panels.reshape(count, width // group, group, *weights.shape[1:])
    vectors = grouped[..., :main].reshape(*grouped.shape[:4], -1, VECTOR).transpose(0, 1, 3, 4, 2, 5)
    parts = [part.reshape(*part.shape[:3], -1) for part in (vectors, grouped[..., main:].transpose(0, 1, 3, 2, 4))]
    return narrow(np.concatenate(parts, axis=3).reshape(count, -1), bits)


def chain_of(weights: np.ndarray, codes: tuple[int, int]) -> int:
    """Vectors of a chain: the most of some lengths whose products surely fit int16 in every lane, whatever the inputs; 0 where not even one does.

    weights: int [O, segments, padded length]; codes: least and largest input. More than a segment has means the whole reduction.
    """
    return longest_chain(weights.shape[1], -(-weights.shape[2] // VECTOR), lambda count: fits(weights, codes, count))


def fits(weights: np.ndarray, codes: tuple[int, int], count: int) -> bool:
    """Whether every chain of `count` vectors fits int16, for chains that begin anew in each segment where `count` is not all."""
    low, high = min(codes[0], 0), max(codes[1], 0)
    lanes = np.pad(weights, ((0, 0), (0, 0), (0, -weights.shape[2] % VECTOR))).astype(np.int32)
    lanes = lanes.reshape(lanes.shape[0], 1, -1) if count * VECTOR >= lanes.shape[1] * lanes.shape[2] else lanes
    runs = np.pad(lanes, ((0, 0), (0, 0), (0, -lanes.shape[2] % (count * VECTOR)))).reshape(-1, 2 * count, LANES)
    positive, negative = np.maximum(runs, 0).sum(axis=1), np.minimum(runs, 0).sum(axis=1)
    most, least = high * positive + low * negative, low * positive + high * negative
    return int(most.max(initial=0)) < 2**15 and int(least.min(initial=0)) >= -(2**15)


@dataclass(frozen=True)
class LongReduction:
    """One register tile's sum on a core without SDOT."""

    window: Window
    tile: Tile
    slack: bool
    """Bytes past the last input byte are readable"""
    chain: int
    """Vectors, see `chain_of`"""

    @property
    def group(self) -> int:
        """Channels that are summed together."""
        return group_of(self.tile)

    @property
    def vectors(self) -> int:
        """Whole vectors of a segment."""
        return self.window.length // VECTOR

    @property
    def rest(self) -> int:
        """Bytes of a segment beyond them, as stored: 0, 8 or 16."""
        return padded_length(self.window.length) - self.vectors * VECTOR

    @property
    def loops(self) -> bool:
        """Whether there are several segments."""
        return self.window.segments_y * self.window.segments_x > 1

    @property
    def is_whole(self) -> bool:
        """Whether one chain takes the whole reduction."""
        return self.chain >= self.window.segments_y * self.window.segments_x * (self.vectors + (self.rest > 0))

    def sums(self, x: Operand, w: Operand, start: Operand) -> Buffer:
        """int32 [pixels, channels]: `start` plus the whole reduction. `x` is at the tile's first pixel, `w` at the panel's first byte."""
        sums = scratch(self.tile.pixels * self.tile.channels, "int32")
        size = self.window.segments_y * self.window.segments_x * padded_length(self.window.length) * self.group
        for first in range(0, self.tile.channels, self.group):
            weights = Operand(w.buffer, w.at + first // self.group * size)
            self._across(sums, first, self._accumulated(x, weights), start)
        return sums

    def _accumulated(self, x: Operand, w: Operand) -> Buffer:
        """int32x4 [pixels, group], each the sum of one output in four parts."""
        count = self.tile.pixels * self.group
        acc = _zeros(count * 4, "int32")
        if not self.is_whole:
            self._segments(x, w, lambda a, b: self._chains(acc, a, b))
        elif self.window.segments_y * self.window.segments_x == 1:
            self._long(acc, x, w, self.vectors, self.rest)
        else:
            chain = _zeros(count * LANES, "int16")
            self._segments(x, w, lambda a, b: self._lengthen(chain, a, b, (0, self.vectors), self.rest))
            self._widen(acc, chain)
        return acc

    def _across(self, sums: Buffer, first: int, acc: Buffer, start: Operand) -> None:
        """Adds up the parts of each output, with its start value."""
        for i in range(0, self.tile.pixels * self.group, 4):
            rows = [load(acc, (i + j) * 4, 4) for j in range(4)]
            across = _pairs(_pairs(rows[0], rows[1]), _pairs(rows[2], rows[3]))
            channel = first + i % self.group
            store(sums, i // self.group * self.tile.channels + channel, 4, across + load(start.buffer, start.at + channel, 4))

    def _segments(self, x: Operand, w: Operand, part: Callable[[Operand, Operand], None]) -> None:
        """`part` for each segment, with its first byte of the input and of the weights."""
        window, size = self.window, padded_length(self.window.length) * self.group
        with T.grid(window.segments_y, window.segments_x) as (sy, sx):
            x_at = x.at + sy * window.segment_y_pitch + sx * window.segment_x_pitch
            part(Operand(x.buffer, x_at), Operand(w.buffer, w.at + (sy * window.segments_x + sx) * size))

    def _at(self, x: Operand, w: Operand, vector: Expr) -> tuple[Operand, Operand]:
        """Both operands at a vector of the segment."""
        return Operand(x.buffer, x.at + vector * VECTOR), Operand(w.buffer, w.at + vector * (VECTOR * self.group))

    def _at_rest(self, x: Operand, w: Operand) -> tuple[Operand, Operand]:
        """Both operands at the rest of the segment: that of the input begins earlier where nothing behind it may be read."""
        inputs, weights = self._at(x, w, self.vectors)
        back = 0 if self.slack else padded_length(self.window.length) - self.window.length
        return Operand(inputs.buffer, inputs.at - back), weights

    def _chains(self, acc: Buffer, x: Operand, w: Operand) -> None:
        """Adds a segment to `acc`, chain by chain."""
        step = max(1, self.chain)
        whole = self.vectors // step
        done = whole * step
        if whole:
            with T.serial(whole) as n:
                self._chain(acc, *self._at(x, w, n * step), step)
        if done < self.vectors:
            self._chain(acc, *self._at(x, w, done), self.vectors - done)
        if self.rest:
            self._short(acc, *self._at_rest(x, w), 1, self.rest)

    def _chain(self, acc: Buffer, x: Operand, w: Operand, count: int) -> None:
        """A chain of `count` vectors."""
        if self.chain <= SHORT:
            self._short(acc, x, w, count)
        else:
            self._long(acc, x, w, count)

    def _long(self, acc: Buffer, x: Operand, w: Operand, count: int, rest: int = 0) -> None:
        """A chain of `count` vectors, and the rest of a segment, in accumulators of int16, which are then added to `acc`."""
        chain = scratch(self.tile.pixels * self.group * LANES, "int16")
        if count:
            self._multiply(chain, *self._at(x, w, 0), fresh=True)
            self._lengthen(chain, x, w, (1, count), rest)
        else:
            self._multiply(chain, *self._at_rest(x, w), rest, fresh=True)
        self._widen(acc, chain)

    def _lengthen(self, chain: Buffer, x: Operand, w: Operand, vectors: tuple[int, int], rest: int) -> None:
        """Adds products to `chain`, int16x8 [pixels, group]: of vectors from the first number to the second, and of the rest of a segment."""
        first, end = vectors
        if end > first:
            with T.serial(end - first if self.loops else _hidden(end - first)) as v:
                self._multiply(chain, *self._at(x, w, v + first))
        if rest:
            self._multiply(chain, *self._at_rest(x, w), rest)

    def _widen(self, acc: Buffer, chain: Buffer) -> None:
        for i in range(self.tile.pixels * self.group):
            store(acc, i * 4, 4, load(acc, i * 4, 4) + _widened(load(chain, i * LANES, LANES)))

    def _multiply(self, chain: Buffer, x: Operand, w: Operand, lanes: int = VECTOR, fresh: bool = False) -> None:
        """One vector of every pixel times one of every channel, added to `chain` or its first products."""
        inputs = [_halves(load(x.buffer, x.at + self._pixel(i), lanes), lanes) for i in range(self.tile.pixels)]
        for j in range(self.group):
            weights = _halves(load(w.buffer, w.at + j * lanes, lanes), lanes)
            for i in range(self.tile.pixels):
                at = (i * self.group + j) * LANES
                products = [_product(a, b) for a, b in zip(inputs[i], weights, strict=True)]
                total = products[0] if fresh else load(chain, at, LANES) + products[0]
                store(chain, at, LANES, sum(products[1:], total))

    def _short(self, acc: Buffer, x: Operand, w: Operand, count: int, lanes: int = VECTOR) -> None:
        """`count` vectors of `lanes` (16 or 8) reduction steps, in chains that live in passing registers."""
        inputs = [[_halves(load(x.buffer, x.at + self._pixel(i) + v * VECTOR, lanes), lanes) for v in range(count)] for i in range(self.tile.pixels)]
        step = CHAINS if self.chain < SHORT else 1
        for first in range(0, self.group, step):
            chains = []
            for j in range(first, min(first + step, self.group)):
                weights = [half for v in range(count) for half in _halves(load(w.buffer, w.at + (v * self.group + j) * lanes, lanes), lanes)]
                for i in range(self.tile.pixels):
                    pairs = list(zip([half for vector in inputs[i] for half in vector], weights, strict=True))
                    chains.append(((i * self.group + j) * 4, pairs))
            self._add(acc, chains)

    def _add(self, acc: Buffer, chains: Sequence[tuple[int, list[tuple[Expr, Expr]]]]) -> None:
        """Products of 8 bytes for several accumulators in turn, those of a chain summed before they are widened."""
        together = max(1, 2 * self.chain)
        for first in range(0, len(chains[0][1]), together):
            totals = [T.Bind(_product(*pairs[first])) for _, pairs in chains]
            for n in range(first + 1, min(first + together, len(chains[0][1]))):
                totals = [T.Bind(total + _product(*pairs[n])) for total, (_, pairs) in zip(totals, chains, strict=True)]
            for total, (at, _) in zip(totals, chains, strict=True):
                store(acc, at, 4, load(acc, at, 4) + _widened(total))

    def _pixel(self, i: int) -> int:
        """Offset of the tile's pixel i in the input."""
        row, column = divmod(i, self.tile.columns)
        return row * self.window.row_pitch + column * self.window.column_pitch


def _hidden(count: int) -> Expr:
    """`count`, so that the compiler does not see it where it would write the loop out: the copies would not fit the registers."""
    if not 1 < count <= UNROLLED:
        return count
    trips = T.alloc_buffer((1,), "int32", annotations={"tirx.volatile": True})
    T.buffer_store(trips, T.int32(count), [0])
    return trips[0]


def _zeros(size: int, dtype: str) -> Buffer:
    buffer, lanes = scratch(size, dtype), 4 if dtype == "int32" else LANES
    for at in range(0, size, lanes):
        store(buffer, at, lanes, splat(tirx.IntImm(dtype, 0), lanes))
    return buffer


def _halves(vector: Expr, lanes: int) -> list[Expr]:
    if lanes == LANES:
        return [vector]
    bound = T.Bind(vector)
    return [tirx.Shuffle([bound], list(range(first, first + LANES))) for first in (0, LANES)]


def _product(a: Expr, b: Expr) -> Expr:
    return T.cast(a, "int16x8") * T.cast(b, "int16x8")


def _widened(chain: Expr) -> Expr:
    """Sums of neighbours in int32."""
    return neon("saddlp.v4i32.v8i16", "int32x4", chain)


def _pairs(a: Expr, b: Expr) -> Expr:
    """Sums of neighbours: a0 + a1, a2 + a3, b0 + b1, b2 + b3."""
    return neon("addp.v4i32", "int32x4", a, b)
