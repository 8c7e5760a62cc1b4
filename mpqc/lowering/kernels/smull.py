"""Convolution sums on cores without SDOT: SMULL, SMLAL2 and SADALP along the reduction.

16 bytes of a pixel times 16 weights of one channel are eight sums of two products in int16 (SMULL, SMLAL2), which SADALP adds
pairwise to four int32: two multiplications for 16 MAC, the peak of cores with one 128-bit multiplier (8 MAC a cycle). A tile is two
pixels by eight channels, 16 accumulators; at its end ADDP sums each one across.

Two products of -128 * -128 do not fit int16. How many products of a lane may be added in int16 is therefore read from the weights
when they are packed: four (two vectors of 16 a SADALP), two, or one (a SADALP for each SMULL).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mpqc.lowering.kernels.emit import Buffer, Expr, load, neon, scratch, splat, store
from mpqc.lowering.kernels.micro import Operand
from mpqc.lowering.kernels.packing import narrow, take_panels
from mpqc.lowering.kernels.tiling import Tile, Window

PIXELS = 2
CHANNELS = 8
CHAINS = 2
"""Channels whose products are written one after the other, so that cores in order do not wait for each"""
LANES = 8
"""int16 lanes of a product"""


def padded_length(length: int) -> int:
    """Weights of a channel that are stored for a segment of `length`: whole vectors of 16 and maybe one of 8."""
    return -(-length // LANES) * LANES


def aligned(matrix: np.ndarray, length: int, slack: bool) -> np.ndarray:
    """[O, segments * length] -> [O, segments, padded length]: zeros where the last vector reads more bytes than the segment has.

    With `slack` it reads past the segment's end, without it begins before what is left (and so again reads what is done).
    """
    segments = matrix.reshape(matrix.shape[0], -1, length)
    main, more = length // 16 * 16, padded_length(length) - length
    before, after = (0, more) if slack else (more, 0)
    rest = np.pad(segments[:, :, main:], ((0, 0), (0, 0), (before, after)))
    return np.concatenate([segments[:, :, :main], rest], axis=2)


def pack(weights: np.ndarray, width: int, bits: int) -> np.ndarray:
    """[O, segments, padded length] -> [panels, bytes]: for each segment and vector, the vectors of all channels one after the other."""
    panels = take_panels(weights, width)
    main = weights.shape[2] // 16 * 16
    vectors = panels[..., :main].reshape(*panels.shape[:3], -1, 16).transpose(0, 2, 3, 1, 4)
    parts = [part.reshape(*part.shape[:2], -1) for part in (vectors, panels[..., main:].transpose(0, 2, 1, 3))]
    return narrow(np.concatenate(parts, axis=2).reshape(panels.shape[0], -1), bits)


def together(weights: np.ndarray) -> int:
    """How many products of a lane (4, 2 or 1) fit int16 when summed, whatever the int8 inputs. weights: [O, segments, padded length]."""
    lanes = np.pad(weights, ((0, 0), (0, 0), (0, -weights.shape[2] % 32))).astype(np.int32)
    for count in (4, 2):
        runs = lanes.reshape(-1, count, LANES)
        positive, negative = np.maximum(runs, 0).sum(axis=1), -np.minimum(runs, 0).sum(axis=1)
        if np.max(127 * positive + 128 * negative, initial=0) < 2**15 and np.max(128 * positive + 127 * negative, initial=0) <= 2**15:
            return count
    return 1


@dataclass(frozen=True)
class LongReduction:
    """One register tile's sum on a core without SDOT."""

    window: Window
    tile: Tile
    slack: bool
    """Bytes past the last input byte are readable"""
    together: int

    def sums(self, x: Operand, w: Operand, start: Operand) -> Buffer:
        """int32 [pixels, channels]: `start` plus the whole reduction. `x` is at the tile's first pixel, `w` at the panel's first byte."""
        count, channels = self.tile.pixels * self.tile.channels, self.tile.channels
        acc = scratch(count * 4, "int32")
        for i in range(count):
            store(acc, i * 4, 4, splat(T.int32(0), 4))
        self._accumulate(acc, x, w)
        sums = scratch(count, "int32")
        for i in range(0, count, 4):
            rows = [load(acc, (i + j) * 4, 4) for j in range(4)]
            across = _pairs(_pairs(rows[0], rows[1]), _pairs(rows[2], rows[3]))
            store(sums, i, 4, across + load(start.buffer, start.at + i % channels, 4))
        return sums

    def _accumulate(self, acc: Buffer, x: Operand, w: Operand) -> None:
        window, channels = self.window, self.tile.channels
        length = padded_length(window.length)
        step = max(1, self.together // 2)
        vectors, rest = window.length // 16, length - window.length // 16 * 16
        with T.grid(window.segments_y, window.segments_x) as (sy, sx):
            x_at = x.at + sy * window.segment_y_pitch + sx * window.segment_x_pitch
            w_at = w.at + (sy * window.segments_x + sx) * (length * channels)
            if vectors >= step:
                with T.serial(vectors // step) as v:
                    self._vectors(acc, Operand(x.buffer, x_at + v * (16 * step)), Operand(w.buffer, w_at + v * (16 * step * channels)), step)
            done = vectors // step * step
            for v in range(done, vectors):
                self._vectors(acc, Operand(x.buffer, x_at + v * 16), Operand(w.buffer, w_at + v * 16 * channels), 1)
            if rest:
                back = 0 if self.slack else length - window.length
                self._vectors(acc, Operand(x.buffer, x_at + (vectors * 16 - back)), Operand(w.buffer, w_at + vectors * 16 * channels), 1, rest)

    def _vectors(self, acc: Buffer, x: Operand, w: Operand, count: int, lanes: int = 16) -> None:
        """`count` vectors of `lanes` (16 or 8) reduction steps."""
        inputs = [[_halves(load(x.buffer, x.at + self._pixel(i) + v * 16, lanes), lanes) for v in range(count)] for i in range(self.tile.pixels)]
        step = CHAINS if self.together < 4 else 1
        for first in range(0, self.tile.channels, step):
            chains = []
            for j in range(first, min(first + step, self.tile.channels)):
                at = [w.at + (v * self.tile.channels + j) * lanes for v in range(count)]
                weights = [half for v in range(count) for half in _halves(load(w.buffer, at[v], lanes), lanes)]
                for i in range(self.tile.pixels):
                    pairs = list(zip([half for vector in inputs[i] for half in vector], weights, strict=True))
                    chains.append(((i * self.tile.channels + j) * 4, pairs))
            self._add(acc, chains)

    def _add(self, acc: Buffer, chains: list[tuple[int, list[tuple[Expr, Expr]]]]) -> None:
        """Products of 8 bytes for several accumulators in turn, `together` of them summed before they are widened."""
        for first in range(0, len(chains[0][1]), self.together):
            totals = [T.Bind(_product(*pairs[first])) for _, pairs in chains]
            for n in range(first + 1, min(first + self.together, len(chains[0][1]))):
                totals = [T.Bind(total + _product(*pairs[n])) for total, (_, pairs) in zip(totals, chains, strict=True)]
            for total, (at, _) in zip(totals, chains, strict=True):
                store(acc, at, 4, load(acc, at, 4) + neon("saddlp.v4i32.v8i16", "int32x4", total))

    def _pixel(self, i: int) -> int:
        """Offset of the tile's pixel i in the input."""
        row, column = divmod(i, self.tile.columns)
        return row * self.window.row_pitch + column * self.window.column_pitch


def _halves(vector: Expr, lanes: int) -> list[Expr]:
    if lanes == LANES:
        return [vector]
    bound = T.Bind(vector)
    return [tirx.Shuffle([bound], list(range(first, first + LANES))) for first in (0, LANES)]


def _product(a: Expr, b: Expr) -> Expr:
    return T.cast(a, "int16x8") * T.cast(b, "int16x8")


def _pairs(a: Expr, b: Expr) -> Expr:
    """Sums of neighbours: a0 + a1, a2 + a3, b0 + b1, b2 + b3."""
    return neon("addp.v4i32", "int32x4", a, b)
