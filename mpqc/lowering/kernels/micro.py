"""The inner loops: one register tile of output pixels x channels over the whole reduction.

quads: SDOT by lane. 16 input bytes of each pixel are four quads; each quad is broadcast by the instruction itself
(third operand) against 16 weights of four channels. 8 pixels x 8 channels: 64 SDOT, 16 loads, 32 cycles.
The accumulators are a buffer of under 1 KiB with constant indices, which LLVM turns into registers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mpqc.lowering.kernels.emit import Buffer, Expr, bits, load, neon, scratch, splat, store
from mpqc.lowering.kernels.forms import ProductForm
from mpqc.lowering.kernels.tiling import Tile, Window

UNROLLED = 240
"""SDOT of a loop that LLVM still unrolls"""


@dataclass(frozen=True)
class Operand:
    """A flat buffer and the offset where its part begins."""

    buffer: Buffer
    at: Expr


def raised(packed: Expr, field: int, width: int, odd: bool = False) -> Expr:
    """Field `field` of each of 16 bytes in the high `width` bits of its byte: 2^(8 - width) times the code it holds. odd: the field is q of a
    code 2q + 1, of which 2^(7 - width) times."""
    up = 8 - width * (field + 1)
    high = T.shift_left(packed, splat(T.int8(up), 16)) if up else packed
    alone = high if field == 0 else T.bitwise_and(high, splat(T.int8(-(1 << (8 - width))), 16))
    return T.bitwise_or(alone, splat(T.int8(1 << (7 - width)), 16)) if odd else alone


def lowest(packed: Expr, field: int, width: int) -> Expr:
    """Fields 0 to `field` of each of 16 bytes: one instruction, none for the whole byte."""
    kept = width * (field + 1)
    return packed if kept == 8 else T.bitwise_and(packed, splat(T.int8((1 << kept) - 1), 16))


def sign_extended(packed: Expr, field: int, width: int, odd: bool = False) -> Expr:
    """Field `field` of each of 16 bytes as an int8; odd: 2q + 1 of a field q, one bit less of the shift and that bit set."""
    up = 8 - width * (field + 1)
    high = T.shift_left(packed, splat(T.int8(up), 16)) if up else packed
    if odd:
        return T.bitwise_or(T.shift_right(high, splat(T.int8(7 - width), 16)), splat(T.int8(1), 16))
    return T.shift_right(high, splat(T.int8(8 - width), 16))


@dataclass(frozen=True)
class Reduction:
    """One register tile's sum: which window, which tile, and whether bytes after the input may be read."""

    window: Window
    tile: Tile
    form: ProductForm
    slack: bool
    """16 bytes past the last input byte are readable (scratch); otherwise the last vector of a segment reaches back"""
    together: int = 1
    """Products whose sum fits int16 (1, 2 or 4; portable code only)"""
    weight_bits: int = 8
    """Narrower than 8: weights are unpacked in registers, into the high bits of their bytes (2^(8 - bits) times their value)"""
    odd: bool = False
    """Or q of codes 2q + 1 (2^(7 - bits) times their value)"""
    nested: bool = False
    """Or not quite: each sum holds those of the lower fields of its bytes as well, see `separate`"""
    ones: bool = False
    """All weights are one; none is read"""

    def accumulate(self, acc: Buffer, x: Operand, w: Operand) -> None:
        """Adds the whole reduction to `acc` [pixels, channels]. `x` is at the tile's first pixel, `w` at the panel's first byte."""
        step = self.tile.channels * self.weight_bits // 2
        quads = -(-self.window.length // 4)
        vectors = self.window.length // 16
        with T.grid(self.window.segments_y, self.window.segments_x) as (sy, sx):
            x_at = x.at + sy * self.window.segment_y_pitch + sx * self.window.segment_x_pitch
            w_at = w.at + (sy * self.window.segments_x + sx) * (quads * step)
            if vectors:
                with T.serial(self._trips(vectors)) as v:
                    self._vector(acc, Operand(x.buffer, x_at + v * 16), Operand(w.buffer, w_at + v * (4 * step)), 0, 4)
            rest = quads - vectors * 4
            if rest:
                back = 0 if self.slack else 16 - rest * 4
                tail = Operand(x.buffer, x_at + (vectors * 16 - back))
                self._vector(acc, tail, Operand(w.buffer, w_at + vectors * (4 * step)), back // 4, rest)

    def _trips(self, vectors: int) -> Expr:
        """`vectors`, in a way that the compiler cannot see where it would unroll the loop: the copies would not fit the registers."""
        size = self.tile.pixels * self.tile.channels
        unrolled = 1 < vectors <= UNROLLED // size
        if not self.form.rolled or size < 48 or not unrolled:
            return vectors
        hidden = T.alloc_buffer((1,), "int32", annotations={"tirx.volatile": True})
        T.buffer_store(hidden, T.int32(vectors), [0])
        return hidden[0]

    def _pixel(self, i: Expr) -> Expr:
        """Offset of the tile's pixel i in the input."""
        return tirx.floordiv(i, self.tile.columns) * self.window.row_pitch + tirx.floormod(i, self.tile.columns) * self.window.column_pitch

    def _vector(self, acc: Buffer, x: Operand, w: Operand, first: int, count: int) -> None:
        """`count` reduction steps of four: quads `first`... of the 16 input bytes at x, weights from w."""
        if self.form.loop == "columns":
            self._portable(acc, x, w, first, count)
            return
        assert self.form.loop == "quads", self.form
        pixels, vectors = self.tile.pixels, self.tile.channels // 4
        quad = scratch(pixels * 4, "int32")
        with T.unroll(pixels) as i:
            store(quad, i * 4, 4, bits(load(x.buffer, x.at + self._pixel(i), 16), "int32x4"))
        if self.ones:
            with T.unroll(count) as k:
                self._dot(acc, quad, splat(T.int8(1), 16), 0, k + first)
            return
        if self.weight_bits == 8:
            with T.unroll(count) as k, T.unroll(vectors) as j:
                self._dot(acc, quad, load(w.buffer, w.at + (k * vectors + j) * 16, 16), j, k + first)
            return
        fields, part = 8 // self.weight_bits, lowest if self.nested else partial(raised, odd=self.odd)
        for n in range(count * vectors):
            packed = load(w.buffer, w.at + n // fields * 16, 16)
            self._dot(acc, quad, part(packed, n % fields, self.weight_bits), n % vectors, n // vectors + first)

    def _dot(self, acc: Buffer, quad: Buffer, weights: Expr, j: Expr, k: Expr) -> None:
        """Weights of four channels (vector j of the panel) times quad k of every pixel."""
        with T.unroll(self.tile.pixels) as i:
            at = (i * (self.tile.channels // 4) + j) * 4
            lane = bits(splat(quad[i * 4 + k], 4), "int8x16")
            store(acc, at, 4, neon("sdot.v4i32.v16i8", "int32x4", load(acc, at, 4), weights, lane))

    def input_sums(self, x: Operand) -> Buffer:
        """int32 [pixels, 4]: the sum of all inputs of each pixel that `accumulate` multiplies with weights, four times."""
        sums = scratch(self.tile.pixels * 4, "int32")
        with T.unroll(self.tile.pixels) as i:
            store(sums, i * 4, 4, splat(T.int32(0), 4))
        summing = replace(self, tile=replace(self.tile, channels=4), weight_bits=8, ones=True)
        summing.accumulate(sums, x, Operand(x.buffer, 0))
        return sums

    def separate(self, acc: Buffer, sums: Buffer, start: Operand) -> None:
        """Turns nested sums into `start` plus 2^(8 - bits) times the sum of codes times inputs. sums: what `input_sums` gave.

        Field f of a byte b weighs 2^(bits f) and holds code + 2^(bits - 1), the highest one the code itself; `acc` sums fields 0 to f.
        Of odd codes 2q + 1 the fields hold q, and 2^(7 - bits) (2q + 1) = 2^(8 - bits) q + 2^(7 - bits).
        """
        fields, bits, vectors = 8 // self.weight_bits, self.weight_bits, self.tile.channels // 4
        for i in range(self.tile.pixels):
            offset = T.shift_left(load(sums, i * 4, 4), splat(T.int32(7), 4))
            one = T.shift_left(load(sums, i * 4, 4), splat(T.int32(7 - bits), 4))
            for j in reversed(range(vectors)):
                at, field = (i * vectors + j) * 4, j % fields
                alone = load(acc, at, 4) - load(acc, at - 4, 4) if field else load(acc, at, 4)
                if field < fields - 1:
                    alone = T.shift_left(alone, splat(T.int32(8 - bits * (field + 1)), 4)) - offset
                alone = alone + one if self.odd else alone
                store(acc, at, 4, load(start.buffer, start.at + j * 4, 4) + alone)

    def _portable(self, acc: Buffer, x: Operand, w: Operand, first: int, count: int) -> None:
        """The same sum by widening multiplies, channels side by side; `together` products are added in int16 first."""
        width, step = self.tile.channels, self.together
        with T.serial(count * 4 // step) as n, T.unroll(self.tile.pixels) as i:
            products = [self._product(x.buffer[x.at + self._pixel(i) + n * step + (first * 4 + t)], w, n * step + t) for t in range(step)]
            widened = T.cast(sum(products[1:], products[0]), f"int32x{width}")
            store(acc, i * width, width, load(acc, i * width, width) + widened)

    def _product(self, pixel: Expr, w: Operand, k: Expr) -> Expr:
        width, dtype = self.tile.channels, "int32" if self.together == 1 else "int16"
        return T.cast(load(w.buffer, w.at + k * width, width), f"{dtype}x{width}") * splat(T.cast(pixel, dtype), width)
