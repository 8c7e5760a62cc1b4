"""Products of two activations on integers: attention scores and what they weigh.

SDOT takes four neighbours of the reduction at once. Rows of the first operand have them so; the second is packed at run time, eight
columns a panel, for up to PRODUCT_ROWS rows. Zero points: sum (a - za)(b - zb) = sum ab - zb sum a - za sum b + K za zb, the last
three computed once a row and once a column.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from mpqc.facts.kernels import CHANNEL_TILE, PRODUCT_ROWS
from mpqc.lowering.kernels import requant as requantization
from mpqc.lowering.kernels.batch import batch
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.long_matmul import long_matmul
from mpqc.lowering.kernels.requant import MAGIC_BITS, Requant
from mpqc.lowering.kernels.tir import (
    Expr,
    Param,
    T,
    bind,
    cast,
    function,
    intrinsic,
    load,
    loop,
    param,
    pieces,
    registers,
    reinterpret,
    splat,
    store,
    symbol,
)
from mpqc.lowering.kernels.transpose import interleaved
from mpqc.values.program import MatMul, Tensor

COLUMNS = CHANNEL_TILE
"""Columns of a panel and of a register tile"""
TILE = 8
"""Rows of a register tile"""
FORMS = {"dotprod": True, "generic": False}
"""Whether SDOT sums"""


def matmul(op: MatMul, a: Tensor, b: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """`op` on codes of `a` [..., M, K] and `b` [..., K, N], rows contiguous; see program.MatMul and numerics.matmul."""
    if any(tensor.is_long for tensor in (a, b, y)):
        return long_matmul(op, a, b, y)
    form = _form(op, a, b, y, target.code("requantization", requantization.FORMS))
    product = _Product(a.shape, b.shape, y.shape, form, target.code("matmul", FORMS))
    terms = np.array([a.zero_point, b.zero_point, product.depth * a.zero_point * b.zero_point], np.int64)
    terms[2] += MAGIC_BITS * (form.form == "float")
    constants = (
        terms.astype(np.int32),
        np.full(COLUMNS, op.multiplier, np.float32),
        np.full(COLUMNS, MAGIC_BITS, np.int32),
        requantization.scalars(y.zero_point, op.low, op.high, 0),
    )
    names = ("zeros", "scale", "base", "scalars")
    params = [Param("a", a.shape, "int8"), Param("b", b.shape, "int8"), *map(param, names, constants), Param("y", y.shape, "int8")]
    name = symbol("matmul", a.shape, b.shape, form.key)
    return Kernel(name, function(name, params, product.body), constants, y.shape, "int8", product.macs)


def _form(op: MatMul, a: Tensor, b: Tensor, y: Tensor, neon: bool) -> Requant:
    if not neon:
        return Requant("portable")
    largest = a.shape[-1] * prod(max(127 - t.zero_point, t.zero_point + 128) for t in (a, b))
    clamp = op.low > -128 or op.high < 127
    if largest * abs(float(op.multiplier)) >= 32000:
        return Requant("exact", clamp=clamp)
    return Requant("float" if largest < 2**22 else "round", y.zero_point % 2 == 1, clamp)


@dataclass(frozen=True)
class _Product:
    """The function for given shapes."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    y: tuple[int, ...]
    form: Requant
    quads: bool
    """By SDOT; otherwise codes are multiplied in 16 bits, one of the reduction at a time"""

    @property
    def depth(self) -> int:
        """K."""
        return self.a[-1]

    @property
    def padded(self) -> int:
        """K in whole vectors."""
        return -(-self.depth // 16) * 16

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return prod(self.y) * self.depth

    def body(self, a: Expr, b: Expr, zeros: Expr, scale: Expr, base: Expr, scalars: Expr, y: Expr) -> None:
        """Emits everything; a task is up to PRODUCT_ROWS rows of one product."""
        rows, columns = self.y[-2:]
        held = min(PRODUCT_ROWS, rows)
        chunks, panels = -(-rows // PRODUCT_ROWS), -(-columns // COLUMNS)
        with loop(prod(self.y[:-2]) * chunks, held * columns * self.depth) as task:
            n, first = bind(T.floordiv(task, chunks)), bind(T.min(T.floormod(task, chunks) * PRODUCT_ROWS, rows - held))
            left = self._left(a, bind((batch(n, self.y, self.a) * rows + first) * self.depth), held)
            sums = self._row_terms(left, held, zeros)
            b_at = bind(batch(n, self.y, self.b) * (self.depth * columns))
            panel, terms = T.alloc_buffer((self.padded * COLUMNS,), "int8"), registers(COLUMNS, "int32")
            with T.serial(0, panels) as p:
                column = bind(T.max(0, T.min(p * COLUMNS, columns - COLUMNS)))
                self._pack(b, b_at + column, panel)
                self._column_terms(panel, terms, zeros)
                out = (y, bind((n * rows + first) * columns + column))
                self._rows(left, sums, panel, terms, out, (requantization.Place(scale, 0, base, 0), scalars), held)

    def _left(self, a: Expr, at: Expr, rows: int) -> tuple[Expr, Expr]:
        """Rows of the first operand, a multiple of 16 codes each: a copy padded with zeros where they are not."""
        if self.padded == self.depth or not self.quads:
            return a, at
        copied = T.alloc_buffer((rows * self.padded,), "int8")
        with T.serial(0, rows) as i:
            store(copied, i * self.padded + self.padded - 16, splat(T.int8(0), 16), 16)
            for first, repeats, width in pieces(self.depth):
                with T.serial(0, repeats) as k:
                    store(copied, i * self.padded + first + k * width, load(a, at + i * self.depth + first + k * width, width), width)
        return copied, T.int32(0)

    @property
    def _pitch(self) -> int:
        return self.padded if self.quads else self.depth

    def _row_terms(self, left: tuple[Expr, Expr], rows: int, zeros: Expr) -> Expr:
        """-zb * sum of the codes of every row: int32 [rows]."""
        sums = T.alloc_buffer((rows,), "int32")
        with T.serial(0, rows) as i:
            total = registers(4, "int32")
            store(total, 0, splat(T.int32(0), 4), 4)
            at = left[1] + i * self._pitch
            if not self.quads:
                with T.serial(0, self.depth) as k:
                    T.buffer_store(total, total[0] + T.cast(left[0][at + k], "int32"), [0])
            else:
                with T.serial(0, self.padded // 16) as k:
                    store(total, 0, _dot(load(total, 0, 4), load(left[0], at + k * 16, 16), splat(T.int8(1), 16)), 4)
            whole = total[0] + total[1] + total[2] + total[3] if self.quads else total[0]
            T.buffer_store(sums, T.int32(0) - zeros[1] * whole, [i])
        return sums

    def _pack(self, b: Expr, at: Expr, panel: Expr) -> None:
        """One panel of the second operand: [K, 8], for SDOT [K / 4, 8, 4] with zeros behind K."""
        columns = self.y[-1]
        source, start, pitch = b, at, columns
        if columns < COLUMNS:
            source, start, pitch = T.alloc_buffer((self.depth * COLUMNS,), "int8"), T.int32(0), COLUMNS
            with T.serial(0, self.depth) as k:
                store(source, k * COLUMNS, splat(T.int8(0), COLUMNS), COLUMNS)
                for first, repeats, width in pieces(columns):
                    for i in range(repeats):
                        store(source, k * COLUMNS + first + i * width, load(b, at + k * columns + first + i * width, width), width)
        if not self.quads:
            with T.serial(0, self.depth) as k:
                store(panel, k * COLUMNS, load(source, start + k * pitch, COLUMNS), COLUMNS)
            return
        with T.serial(0, self.depth // 4) as k:
            four = [load(source, start + (4 * k + t) * pitch, COLUMNS) for t in range(4)]
            store(panel, k * 32, interleaved(four, COLUMNS), 32)
        whole, rest = self.depth // 4, self.depth % 4
        if rest:
            some = [load(source, start + (4 * whole + t) * pitch, COLUMNS) if t < rest else splat(T.int8(0), COLUMNS) for t in range(4)]
            store(panel, whole * 32, interleaved(some, COLUMNS), 32)
        for k in range(-(-self.depth // 4), self.padded // 4):
            store(panel, k * 32, splat(T.int8(0), 32), 32)

    def _column_terms(self, panel: Expr, terms: Expr, zeros: Expr) -> None:
        """K za zb - za * sum of the codes of every column: int32 [8]."""
        store(terms, 0, splat(T.int32(0), COLUMNS), COLUMNS)
        if not self.quads:
            with T.serial(0, self.depth) as k:
                store(terms, 0, load(terms, 0, COLUMNS) + cast(load(panel, k * COLUMNS, COLUMNS), "int32", COLUMNS), COLUMNS)
        else:
            with T.serial(0, self.padded // 4) as k:
                for j in (0, 4):
                    store(terms, j, _dot(load(terms, j, 4), load(panel, k * 32 + j * 4, 16), splat(T.int8(1), 16)), 4)
        store(terms, 0, splat(zeros[2], COLUMNS) - splat(zeros[0], COLUMNS) * load(terms, 0, COLUMNS), COLUMNS)

    def _rows(
        self,
        left: tuple[Expr, Expr],
        sums: Expr,
        panel: Expr,
        terms: Expr,
        out: tuple[Expr, Expr],
        ends: tuple[requantization.Place, Expr],
        rows: int,
    ) -> None:
        for first, repeats, count in pieces(rows, (TILE, 4, 2, 1)):
            with T.serial(0, repeats) as block:
                i = bind(first + block * count)
                acc = registers(count * COLUMNS, "int32")
                for r in range(count):
                    store(acc, r * COLUMNS, load(terms, 0, COLUMNS) + splat(sums[i + r], COLUMNS), COLUMNS)
                at = (left[0], left[1] + i * self._pitch)
                if not self.quads:
                    self._portable(acc, at, panel, count)
                else:
                    self._tile(acc, at, panel, count)
                for r in range(count):
                    self._finish(acc, r, (out[0], out[1] + (i + r) * self.y[-1]), ends)

    def _tile(self, acc: Expr, left: tuple[Expr, Expr], panel: Expr, count: int) -> None:
        quads = registers(count * 4, "int32")
        with T.serial(0, self.padded // 16) as v:
            for r in range(count):
                store(quads, r * 4, reinterpret(load(left[0], left[1] + r * self.padded + v * 16, 16), "int32", 4), 4)
            for q in range(4):
                weights = [bind(load(panel, (v * 4 + q) * 32 + j * 16, 16)) for j in (0, 1)]
                for r in range(count):
                    lane = reinterpret(splat(quads[r * 4 + q], 4), "int8", 16)
                    for j in (0, 1):
                        at = r * COLUMNS + 4 * j
                        store(acc, at, _dot(load(acc, at, 4), weights[j], lane), 4)

    def _portable(self, acc: Expr, left: tuple[Expr, Expr], panel: Expr, count: int) -> None:
        with T.serial(0, self.depth) as k:
            weights = bind(cast(load(panel, k * COLUMNS, COLUMNS), "int16", COLUMNS))
            for r in range(count):
                code = splat(T.cast(left[0][left[1] + r * self.depth + k], "int16"), COLUMNS)
                at = r * COLUMNS
                store(acc, at, load(acc, at, COLUMNS) + cast(code * weights, "int32", COLUMNS), COLUMNS)

    def _finish(self, acc: Expr, row: int, out: tuple[Expr, Expr], ends: tuple[requantization.Place, Expr]) -> None:
        place, scalars = ends
        codes = requantization.emit(self.form, acc, row * COLUMNS, COLUMNS, place, scalars)
        if self.y[-1] >= COLUMNS:
            store(out[0], out[1], codes, COLUMNS)
            return
        kept = registers(COLUMNS, "int8")
        store(kept, 0, codes, COLUMNS)
        for i in range(self.y[-1]):
            T.buffer_store(out[0], kept[i], [out[1] + i])


def _dot(acc: Expr, a: Expr, b: Expr) -> Expr:
    return intrinsic("llvm.aarch64.neon.sdot.v4i32.v16i8", "int32x4", acc, a, b)
