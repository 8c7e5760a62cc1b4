"""A residual addition inside the convolution that makes one of its operands: bit for bit the convolution's requantization, then Add.

In float32, four lanes at a time, one rounding an operation:
    q - z_q = rne(clamp(acc * m[c], low_q - z_q, high_q - z_q))        what the convolution alone would have stored, less its zero point
    out     = clamp(rne((q - z_q) * m_q + (r - z_r) * m_r) + z_y)       integer.add
The bounds are whole numbers, so clamping before rounding changes nothing. Whether the second multiplication and the addition may be
one fused operation (one rounding instead of two) is found out by trying all pairs of codes when the kernel is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mpqc.lowering.kernels import requant as requantization
from mpqc.lowering.kernels.emit import Buffer, Expr, bits, joined, load, neon, splat
from mpqc.lowering.kernels.requant import MAGIC, MAGIC_BITS, Place, Requant
from mpqc.numerics import integer
from mpqc.values.program import Binary, Conv

LIMIT = 2**15 - 300
"""Sums below it, a zero point added, fit int16"""
RATIO = 2.0**16
"""Multipliers closer than this: the fused operation of any two codes is exact in float64"""

Fused = Literal["none", "made", "other"]


@dataclass(frozen=True)
class Form:
    """What the code depends on."""

    fused: Fused
    """The product that is not rounded before it is added: that of the convolution's codes, of the other operand's, or none"""
    odd: bool
    """The zero point of the sum is odd, and added after rounding"""
    clamp: bool
    """Sums are bounded more tightly than int8"""

    @property
    def key(self) -> str:
        """For kernel names: `add_made_odd`."""
        return "_".join(["add", self.fused, *(["odd"] * self.odd), *(["clamp"] * self.clamp)])


@dataclass(frozen=True, eq=False)
class Residual:
    """The addition that a convolution does at its end."""

    form: Form
    constants: np.ndarray
    """int32 [9, 4], rows of equal numbers, see `_constants`"""


@dataclass(frozen=True)
class Operands:
    """Zero points and multipliers (float32 values) of an addition."""

    zero_points: tuple[int, int, int]
    """Of the convolution's codes, of the other operand's, of the sum's"""
    multipliers: tuple[float, float]


def residual(conv: Conv, add: Binary, zero_points: tuple[int, int, int]) -> Residual | None:
    """The addition `add` of the output of `conv` and another tensor of its shape; None where sums could exceed int16.

    zero_points: of the convolution's output, of the other operand, of the sum.
    """
    m_a, m_b = float(np.float32(add.m_a)), float(np.float32(add.m_b))
    made, other = (m_a, m_b) if add.inputs[0] == conv.outputs[0] else (m_b, m_a)
    operands = Operands(zero_points, (made, other))
    if abs(made) * 255 + abs(other) * 255 >= LIMIT:
        return None
    form = Form(fused_product(operands, (conv.low, conv.high)), zero_points[2] % 2 == 1, add.low > -128 or add.high < 127)
    return Residual(form, _constants(operands, conv, add))


def _constants(operands: Operands, conv: Conv, add: Binary) -> np.ndarray:
    """Bounds of the convolution; MAGIC; multipliers; MAGIC_BITS - z_r; MAGIC + even part of z_y; last bit of z_y; bounds of the sum."""
    made, other, total = operands.zero_points
    floats = [conv.low - made, conv.high - made, MAGIC, *operands.multipliers, MAGIC + (total - total % 2)]
    numbers = [*np.array(floats, np.float32).view(np.int32).tolist(), MAGIC_BITS - other, total % 2]
    limits = np.array([[add.low], [add.high]], np.int8).repeat(16, axis=1).view(np.int32)
    return np.concatenate([np.repeat(np.array(numbers, np.int32)[:, None], 4, axis=1), limits])


def fused_product(operands: Operands, bounds: tuple[int, int] = (-128, 127)) -> Fused:
    """A fused form that gives every pair of codes, the first within `bounds`, the same sum as two roundings do."""
    made, other = operands.multipliers
    if not 1 / RATIO < abs(made) / max(abs(other), 1e-30) < RATIO:
        return "none"
    x, y = (np.arange(-128, 128, dtype=np.int32) - zero for zero in operands.zero_points[:2])
    x = x[bounds[0] + 128 : bounds[1] + 129][:, None]
    wanted = integer.add(x, y, (0, 0), made, other, operands.zero_points[2], -128, 127)
    for fused, (first, m_first), (second, m_second) in (("made", (x, made), (y, other)), ("other", (y, other), (x, made))):
        rounded = (second.astype(np.float32) * np.float32(m_second)).astype(np.float64)
        total = np.rint((first * np.float64(m_first) + rounded).astype(np.float32)) + operands.zero_points[2]
        if np.array_equal(np.clip(total, -128, 127), wanted):
            return fused  # type: ignore[return-value]
    return "none"


def emit(form: Form, requant: Requant, acc: Buffer, at: Expr, lanes: int, place: Place, other: tuple[Buffer, Expr], k: Buffer) -> Expr:
    """int8 codes of `lanes` (a multiple of 8) sums: accumulators from `at`, the other operand's codes, the constants `k`."""
    parts = [_eight(form, requant, acc, at + i, place.after(i), (other[0], other[1] + i), k) for i in range(0, lanes, 8)]
    codes = joined(parts, 8)
    if not form.clamp:
        return codes
    bounds = [bits(load(k, 4 * row, 4), "int8x16") for row in (8, 9)]
    low, high = (bound if lanes == 16 else tirx.Shuffle([bound] * max(1, lanes // 16), list(range(lanes))) for bound in bounds)
    return T.max(T.min(codes, high), low)


def _eight(form: Form, requant: Requant, acc: Buffer, at: Expr, place: Place, other: tuple[Buffer, Expr], k: Buffer) -> Expr:
    wide = T.cast(load(other[0], other[1], 8), "int16x8")
    sums = []
    for i in (0, 4):
        made = _made(requantization.product(requant, load(acc, at + i, 4), place.after(i)), k)
        codes = T.cast(tirx.Shuffle([wide], list(range(i, i + 4))), "int32x4") + load(k, 24, 4)
        sums.append(_sum(form.fused, made, bits(codes, "float32x4") - _real(k, 2), k))
    narrow = T.cast(joined([bits(total + _real(k, 5), "int32x4") for total in sums], 4), "int16x8")
    if form.odd:
        narrow = narrow + splat(T.cast(k[28], "int16"), 8)
    return neon("sqxtn.v8i8", "int8x8", narrow)


def _made(product: Expr, k: Buffer) -> Expr:
    """The convolution's codes less their zero point, as float32."""
    bounded = _llvm("minnum", _llvm("maxnum", product, _real(k, 0)), _real(k, 1))
    rounded = _llvm("arithmetic.fence", bounded + _real(k, 2))
    return rounded - _real(k, 2)


def _sum(fused: Fused, made: Expr, other: Expr, k: Buffer) -> Expr:
    if fused == "made":
        return _llvm("fma", made, _real(k, 3), _product(other, _real(k, 4)))
    if fused == "other":
        return _llvm("fma", other, _real(k, 4), _product(made, _real(k, 3)))
    return _product(made, _real(k, 3)) + _product(other, _real(k, 4))


def _product(value: Expr, multiplier: Expr) -> Expr:
    """fmulx: the compiler would make fmul part of a fused operation."""
    return neon("fmulx.v4f32", "float32x4", value, multiplier)


def _real(k: Buffer, row: int) -> Expr:
    return bits(load(k, 4 * row, 4), "float32x4")


def _llvm(name: str, *operands: Expr) -> Expr:
    return T.call_llvm_pure_intrin("float32x4", f"llvm.{name}.v4f32", *operands)
