"""The inner code of Winograd convolutions: transforms of inputs, weights and products (numerics/winograd.py), register tiles of products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mpqc.facts.kernels import POSITIONS as POSITIONS
from mpqc.facts.kernels import VECTOR as VECTOR
from mpqc.lowering.kernels.emit import Buffer, Expr, bits, load, neon, scratch, splat, store, store_run
from mpqc.lowering.kernels.micro import Operand, sign_extended

OUTPUTS = 2
"""Outputs of a tile along an axis"""
TILES, CHANNELS = 2, 8
"""Tiles and output channels of a register tile: with four positions, sixteen accumulators"""
QUAD = POSITIONS * CHANNELS * 4
"""Bytes of transformed weights of a panel for four input channels, in one row of positions"""
ROW = TILES * OUTPUTS * CHANNELS
"""Sums that a register tile leaves"""
UNROLLED = 3
"""Vectors of channels up to which LLVM would unroll the loop over them, into more code than the registers serve well"""


def transformed_inputs(d: Sequence[Expr]) -> list[Expr]:
    """Four neighbours along an axis."""
    return [_bound(value) for value in (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3])]


def transformed_weights(g: Sequence[Expr]) -> list[Expr]:
    """Three taps along an axis."""
    outer = _bound(g[0] + g[2])
    return [_bound(value) for value in (g[0] + g[0], outer + g[1], outer - g[1], g[2] + g[2])]


def transformed_products(m: Sequence[Expr]) -> list[Expr]:
    """Two sums of four products."""
    inner = _bound(m[1] + m[2])
    return [_bound(value) for value in (m[0] + inner, (m[1] - m[2]) - m[3])]


def _bound(value: Expr) -> Expr:
    return T.Bind(value)


def transform_patch(x: Buffer, at: Expr, pitches: tuple[int, int], to: Buffer, places: Sequence[Expr]) -> None:
    """Sixteen channels of one patch: rows are `pitches[0]` bytes apart, columns `pitches[1]`; row s of the result, four vectors, goes to places[s].

    One place: a patch of one row of four, transformed along it. Four places: one of four rows, transformed along both axes.
    """
    rows = [[_bound(load(x, at + i * pitches[0] + j * pitches[1], VECTOR)) for j in range(POSITIONS)] for i in range(len(places))]
    if len(rows) > 1:
        columns = [transformed_inputs([row[j] for row in rows]) for j in range(POSITIONS)]
        rows = [[column[i] for column in columns] for i in range(POSITIONS)]
    for row, place in zip(rows, places, strict=True):
        store_run(to, place, transformed_inputs(row), paired=True)


def transform_weights(taps: Sequence[Expr], both: bool) -> list[list[Expr]]:
    """Nine vectors of taps, row by row -> transformed along each row, and then along the columns where `both`."""
    rows = [transformed_weights(taps[3 * i : 3 * i + 3]) for i in range(3)]
    if not both:
        return rows
    columns = [transformed_weights([row[j] for row in rows]) for j in range(POSITIONS)]
    return [[column[i] for column in columns] for i in range(POSITIONS)]


def unpacked(w: Buffer, at: Expr, width: int, which: Sequence[int], odd: bool = False) -> list[Expr]:
    """Some vectors of the weights that begin `at`, stored `width` bits wide; odd: as q of codes 2q + 1."""
    fields = 8 // width
    words = [load(w, at + n // fields * VECTOR, VECTOR) for n in which]
    if fields == 1:
        return [_bound(word) for word in words]
    return [_bound(sign_extended(_bound(word), n % fields, width, odd)) for n, word in zip(which, words, strict=True)]


@dataclass(frozen=True)
class Products:
    """The sums of products of two tiles at the four positions of a row."""

    quads: int
    """Reduction steps of four input channels of a row"""

    @property
    def vectors(self) -> int:
        """Vectors of input channels, the last one maybe partly used."""
        return -(-self.quads // 4)

    def accumulate(self, acc: Buffer, v: Buffer, tiles: Sequence[Expr], w: Operand) -> None:
        """Adds to `acc` [tile, position, channel]. `tiles`: where in `v` each tile's row of positions begins."""
        whole = self.quads // 4
        if whole:
            with T.serial(self._trips(whole)) as n:
                self._vector(acc, v, [at + n * (POSITIONS * VECTOR) for at in tiles], Operand(w.buffer, w.at + n * (4 * QUAD)), 4)
        if self.quads % 4:
            ends = [at + whole * (POSITIONS * VECTOR) for at in tiles]
            self._vector(acc, v, ends, Operand(w.buffer, w.at + whole * (4 * QUAD)), self.quads % 4)

    def _trips(self, whole: int) -> Expr:
        """`whole`, in a way that the compiler cannot see where it would unroll the loop."""
        if not 1 < whole <= UNROLLED:
            return whole
        hidden = T.alloc_buffer((1,), "int32", annotations={"tirx.volatile": True})
        T.buffer_store(hidden, T.int32(whole), [0])
        return hidden[0]

    def _vector(self, acc: Buffer, v: Buffer, tiles: Sequence[Expr], w: Operand, count: int) -> None:
        quad = scratch(TILES * POSITIONS * 4, "int32")
        for t, at in enumerate(tiles):
            with T.unroll(POSITIONS) as j:
                store(quad, (t * POSITIONS + j) * 4, 4, bits(load(v, at + j * VECTOR, VECTOR), "int32x4"))
        with T.unroll(count) as q, T.unroll(CHANNELS // 4) as half, T.unroll(POSITIONS) as j:
            weights = load(w.buffer, w.at + q * QUAD + (half * POSITIONS + j) * VECTOR, VECTOR)
            for t in range(TILES):
                at = ((t * POSITIONS + j) * (CHANNELS // 4) + half) * 4
                lane = bits(splat(quad[(t * POSITIONS + j) * 4 + q], 4), "int8x16")
                store(acc, at, 4, neon("sdot.v4i32.v16i8", "int32x4", load(acc, at, 4), weights, lane))


def row_sums(acc: Buffer, tile: int, half: int) -> list[Expr]:
    """Two sums of four channels of a tile, from its four positions in `acc`."""
    return transformed_products([_bound(load(acc, ((tile * POSITIONS + j) * (CHANNELS // 4) + half) * 4, 4)) for j in range(POSITIONS)])


def first_sums(start: Buffer, at: Expr) -> Buffer:
    """int32 [16]: zeros, and eight start values, from where `clear` reads them again for every register tile (volatile).

    Loads have idle pipes there, copies between vector registers and constants have not.
    """
    first = T.alloc_buffer((2 * CHANNELS,), "int32", align=64, annotations={"tirx.volatile": True})
    for half in range(CHANNELS // 4):
        store(first, half * 4, 4, splat(T.int32(0), 4))
        store(first, CHANNELS + half * 4, 4, load(start, at + half * 4, 4))
    return first


def clear(acc: Buffer, first: Buffer, started: bool) -> None:
    """Accumulators at zero; at position 1, which counts once in every output, at the start values where `started`."""
    for t in range(TILES):
        for j in range(POSITIONS):
            for half in range(CHANNELS // 4):
                at = half * 4 + (CHANNELS if started and j == 1 else 0)
                store(acc, ((t * POSITIONS + j) * (CHANNELS // 4) + half) * 4, 4, load(first, at, 4))


def floored(value: Expr, by: int) -> tuple[Expr, Expr]:
    """Quotient and remainder."""
    return tirx.floordiv(value, by), tirx.floormod(value, by)
