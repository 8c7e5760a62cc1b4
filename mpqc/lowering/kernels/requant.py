"""Requantization inside a kernel: int32 accumulators to int8 codes, bit for bit numerics.requantize.

Four forms, the cheapest one that is exact for the accumulators that the weights and bias allow (Cortex-A76 costs: scvtf and
fcvtns issue every second cycle on one pipe, the rest twice a cycle):

exact: scvtf, fmul, fcvtns, saturating narrowing. Any accumulator.
round: scvtf, fmul, then adding 1.5 * 2^23 leaves the rounded product in the low half of the float's bits. Needs |acc * m| < 32000.
float: as round, but the accumulator starts at 0x4B400000 (1.5 * 2^23 as bits), so that subtracting 1.5 * 2^23 makes it a float.
    Needs sums in a range of 2^23 as well; where that is not centred on zero, both numbers are moved by the centre.
positive: as round, but the accumulator starts at 0x4B000000 (2^23 as bits) and one fused operation, bits * m - 2^23 * m, gives the
    product: 2^23 * m is a float, and so the only rounding is that of acc * m. Below 2^23 floats lie half as far apart, so
    that negative sums come out as their half: for outputs whose lower bound is their zero point (after ReLU). Needs acc < 2^23.

The zero point is added with the rounding constant where it is even; an odd one would turn ties the other way, so its last
bit is added afterwards. fmulx, not fmul: the compiler would fuse fmul and fadd, which rounds once instead of twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from tvm.tirx.script.builder import ir as T

from mpqc.lowering.kernels.emit import Buffer, Expr, bits, joined, load, neon, splat
from mpqc.values.program import Conv, Gemm

MAGIC = 12582912.0
"""1.5 * 2^23: floats near it have steps of one"""
MAGIC_BITS = 0x4B400000

POSITIVE_BITS = 0x4B000000
"""2^23, where the floats with steps of one begin"""
HALF_RANGE = 2**22
FORMS = {"neon": True, "generic": False}
"""Whether the instructions above are used, by the form of the kernel "requantization"; otherwise requantization is `portable`"""

Form = Literal["exact", "round", "float", "positive", "portable"]


@dataclass(frozen=True)
class Requant:
    """How a kernel requantizes. Equal values mean equal code."""

    form: Form
    odd: bool = False
    """The zero point is odd"""
    clamp: bool = False
    """Codes are bounded more tightly than int8"""
    shift: int = 0
    """Accumulators hold 2^shift times the sum (narrow weights left in the high bits of their bytes), multipliers 2^-shift of the op's"""
    long: bool = False
    """Codes are int16"""
    split: int = 0
    """Accumulators of 16-bit inputs that int32 may not hold: 256 times what is there, and what is so many places further"""

    @property
    def dtype(self) -> str:
        """Of the codes."""
        return "int16" if self.long else "int8"

    @property
    def key(self) -> str:
        """For kernel names: `float_odd_clamp`."""
        return (
            self.form
            + "_odd" * self.odd
            + "_clamp" * self.clamp
            + f"_x{1 << self.shift}" * (self.shift > 0)
            + "_long" * self.long
            + "_split" * (self.split > 0)
        )


INT8 = (-128, 127)


def accumulator_range(weight: np.ndarray, bias: np.ndarray, codes: tuple[int, int] = INT8) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest accumulator of each output channel for any input of these codes. weight [O, K] int8, bias int32 [O]; int64 [O] each."""
    positive = np.where(weight > 0, weight, 0).sum(axis=1, dtype=np.int64)
    negative = np.where(weight < 0, weight, 0).sum(axis=1, dtype=np.int64)
    start = bias.astype(np.int64)
    return start + codes[0] * positive + codes[1] * negative, start + codes[1] * positive + codes[0] * negative


def choose(weight: np.ndarray, op: Conv | Gemm, zero_point: int, neon: bool) -> tuple[Requant, Requant | None]:
    """The cheapest exact forms for these constants: of plain sums, and of shifted ones where they fit.

    weight [O, K] int8; neon: see FORMS.
    """
    plain = _choose(weight, op, zero_point) if neon else Requant("portable")
    return plain, shifted(plain, weight, op, zero_point)


def _choose(weight: np.ndarray, op: Conv | Gemm, zero_point: int, shift: int = 0, codes: tuple[int, int] = INT8) -> Requant:
    """For accumulators that hold 2^shift times the sum."""
    least, most = (limit << shift for limit in accumulator_range(weight, op.bias, codes))
    clamp = op.low > -128 or op.high < 127
    real = np.maximum(np.abs(least), np.abs(most)).astype(np.float64) * np.abs(op.multiplier.astype(np.float64)) / 2.0**shift
    if np.max(real, initial=0.0) >= 32000:
        return Requant("exact", clamp=clamp, shift=shift)
    return Requant(_sums(least, most, op, zero_point), zero_point % 2 == 1, clamp, shift)


def _sums(least: np.ndarray, most: np.ndarray, op: Conv | Gemm, zero_point: int) -> Form:
    """The cheapest way from sums in this range to float32."""
    if op.low >= zero_point and np.all(op.multiplier > 0) and np.all(most < 2 * HALF_RANGE) and np.all(least > -4 * HALF_RANGE):
        return "positive"
    centre = _centres(least, most)
    fits = np.all(np.abs(centre) < HALF_RANGE) and np.all(most - centre < HALF_RANGE) and np.all(least - centre >= -HALF_RANGE)
    return "float" if fits else "round"


def _centres(least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """int64 [O]: the middle of each channel's sums; 0 where they are near enough to zero."""
    near = np.maximum(np.abs(least), np.abs(most)) < HALF_RANGE
    return np.where(near, 0, (least + most) // 2)


def shifted(plain: Requant, weight: np.ndarray, op: Conv | Gemm, zero_point: int) -> Requant | None:
    """The form for accumulators that hold 2^(8 - bits) times the sum, half of that of odd codes (micro.raised); None where the code has no use
    for it or they could overflow."""
    shift = 8 - op.weight_bits - op.odd
    if op.weight_bits == 8 or plain.form == "portable":
        return None
    return widened(weight, op, zero_point, shift)


def widened(weight: np.ndarray, op: Conv | Gemm, zero_point: int, shift: int, codes: tuple[int, int] = INT8) -> Requant | None:
    """The form for accumulators that hold 2^shift times the sum, of inputs within `codes`; None where they could overflow."""
    least, most = accumulator_range(weight, op.bias, codes)
    largest = -min(int(least.min(initial=0)), -int(most.max(initial=0))) << shift
    return None if largest >= 2**31 else _choose(weight, op, zero_point, shift, codes)


SMALLEST = 2.0**-90
"""Of a smaller multiplier every product with int32 rounds to 0, as with 0 itself; larger ones are far enough from float32's smallest that a
power of two moves from them to the accumulator without a trace"""


def _scales(multiplier: np.ndarray, shift: int) -> np.ndarray:
    """float32: multipliers of accumulators that hold 2^shift times the sum."""
    large = multiplier if shift == 0 else np.where(np.abs(multiplier) < SMALLEST, 0, multiplier)
    return np.ldexp(large.astype(np.float32), -shift)


@dataclass(frozen=True, eq=False)
class Channels:
    """What a kernel needs to know of each output channel."""

    start: np.ndarray
    """int32 [O]: what accumulators start at: the bias, shifted, in the bits of a float in some forms"""
    scale: np.ndarray
    """float32 [O]: multipliers of what the accumulators hold"""
    base: np.ndarray
    """float32 [O]. float: what to subtract from the accumulator's bits; positive: -2^23 * scale; else 0"""


def channels(weight: np.ndarray, bias: np.ndarray, multiplier: np.ndarray, requant: Requant, codes: tuple[int, int] = INT8) -> Channels:
    """The constants for weights int8 [O, K], biases int32 and multipliers float32 [O], and inputs within `codes`."""
    start, scale = bias.astype(np.int64) << requant.shift, _scales(multiplier, requant.shift)
    base = np.zeros_like(scale)
    if requant.form == "float":
        centre = _centres(*(limit << requant.shift for limit in accumulator_range(weight, bias, codes)))
        start, base = start - centre + MAGIC_BITS, (MAGIC - centre).astype(np.float32)
    elif requant.form == "positive":
        start, base = start + POSITIVE_BITS, np.float32(-(2.0**23)) * scale
    return Channels(start.astype(np.int32), scale, base)


def scalars(zero_point: int, low: int, high: int, fill: int) -> np.ndarray:
    """int32 [8]: input zero point, output zero point, low, high, rounding constant, last bit of the zero point, float bounds low - z, high - z."""
    floats = np.array([MAGIC + (zero_point - zero_point % 2), low - zero_point, high - zero_point], np.float32).view(np.int32)
    return np.array([fill, zero_point, low, high, floats[0], zero_point % 2, floats[1], floats[2]], np.int32)


@dataclass(frozen=True)
class Place:
    """Where the constants of a tile's first channel are."""

    scale: Buffer
    scale_at: Expr
    base: Buffer
    """As bits, int32"""
    base_at: Expr

    def after(self, count: int) -> Place:
        """`count` channels further."""
        return replace(self, scale_at=self.scale_at + count, base_at=self.base_at + count)


def emit(requant: Requant, acc: Buffer, at: Expr, lanes: int, place: Place, constants: Buffer) -> Expr:
    """Codes of `lanes` (a multiple of 8; of 4 in the portable form) accumulators from `at`, as one vector."""
    if requant.form == "portable":
        return _portable(requant, _real(requant, acc, at, lanes), load(place.scale, place.scale_at, lanes), constants, lanes)
    if requant.long:
        codes = joined([_four_long(requant, acc, at + i, place.after(i), constants) for i in range(0, lanes, 4)], 4)
    else:
        codes = joined([_eight(requant, acc, at + i, place.after(i), constants) for i in range(0, lanes, 8)], 8)
    if not requant.clamp:
        return codes
    bound = [splat(T.cast(constants[i], requant.dtype), lanes) for i in (2, 3)]
    return T.max(T.min(codes, bound[1]), bound[0])


def _eight(requant: Requant, acc: Buffer, at: Expr, place: Place, constants: Buffer) -> Expr:
    steps = [_steps(requant, _product(requant, acc, at + i, place.after(i)), constants) for i in (0, 4)]
    if requant.form == "exact":
        narrow = joined([neon("sqxtn.v4i16", "int16x4", part) for part in steps], 4)
        narrow = neon("sqadd.v8i16", "int16x8", narrow, splat(T.cast(constants[1], "int16"), 8))
    else:
        narrow = T.cast(joined(steps, 4), "int16x8")
    if requant.odd:
        narrow = narrow + splat(T.cast(constants[5], "int16"), 8)
    return neon("sqxtn.v8i8", "int8x8", narrow)


def _four_long(requant: Requant, acc: Buffer, at: Expr, place: Place, constants: Buffer) -> Expr:
    """int16x4; in the exact form alone."""
    steps = neon("fcvtns.v4i32.v4f32", "int32x4", _product(requant, acc, at, place))
    return neon("sqxtn.v4i16", "int16x4", neon("sqadd.v4i32", "int32x4", steps, splat(constants[1], 4)))


def _product(requant: Requant, acc: Buffer, at: Expr, place: Place) -> Expr:
    """Four accumulators times their multipliers, float32."""
    if not requant.split:
        return product(requant, load(acc, at, 4), place)
    return neon("fmulx.v4f32", "float32x4", _real(requant, acc, at, 4), load(place.scale, place.scale_at, 4))


def _real(requant: Requant, acc: Buffer, at: Expr, lanes: int) -> Expr:
    """Accumulators as float32, rounded once: float64 holds those that int32 does not."""
    sums = load(acc, at, lanes)
    if not requant.split:
        return T.cast(sums, f"float32x{lanes}")
    high, low = (T.cast(part, f"int64x{lanes}") for part in (sums, load(acc, at + requant.split, lanes)))
    whole = T.shift_left(high, splat(T.int64(8), lanes)) + low
    return T.cast(T.cast(whole, f"float64x{lanes}"), f"float32x{lanes}")


def _steps(requant: Requant, real: Expr, constants: Buffer) -> Expr:
    """Four rounded products as int32; in the rounding forms only the low 16 bits count, with the even part of the zero point added."""
    if requant.form == "exact":
        return neon("fcvtns.v4i32.v4f32", "int32x4", real)
    return bits(real + splat(bits(constants[4], "float32"), 4), "int32x4")


def product(requant: Requant, acc: Expr, place: Place) -> Expr:
    """Four accumulators times their multipliers, float32."""
    scale = load(place.scale, place.scale_at, 4)
    if requant.form == "positive":
        return T.call_llvm_pure_intrin("float32x4", "llvm.fma.v4f32", bits(acc, "float32x4"), scale, _base(place))
    real = bits(acc, "float32x4") - _base(place) if requant.form == "float" else T.cast(acc, "float32x4")
    return neon("fmulx.v4f32", "float32x4", real, scale)


def _base(place: Place) -> Expr:
    return bits(load(place.base, place.base_at, 4), "float32x4")


def _portable(requant: Requant, sums: Expr, scale: Expr, constants: Buffer, lanes: int) -> Expr:
    """Bounds before rounding (they are whole numbers, so this changes nothing), which also keeps multiply and add from being fused."""
    product = sums * scale
    bounded = T.max(T.min(product, splat(bits(constants[7], "float32"), lanes)), splat(bits(constants[6], "float32"), lanes))
    rounded = bits(bounded + splat(T.float32(MAGIC), lanes), f"int32x{lanes}") - splat(T.int32(MAGIC_BITS), lanes)
    return T.cast(rounded + splat(constants[1], lanes), f"{requant.dtype}x{lanes}")
