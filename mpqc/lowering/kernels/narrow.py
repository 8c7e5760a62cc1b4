"""From float32 results to int8 codes with NEON: round, add the zero point, saturate, in as few instructions as the values allow.

Everything equals clamp(rne(value) + z, low, high). Adding MAGIC rounds to nearest even and leaves the integer in the low bits, of
which UZP1 takes sixteen; SQXTN saturates. That holds for |rne(value) + z| < 2^15; larger values are clamped as float32 first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpqc.lowering.kernels.tir import MAGIC, MAGIC_BITS, Expr, T, bind, exact, intrinsic, joined, load, output_bounds, reinterpret, splat

LIMIT = 2**15 - 300
"""Largest |value| that may be narrowed unclamped: leaves room for a zero point and for rounding"""


@dataclass(frozen=True)
class Narrowing:
    """What is known of the results when the kernel is written; part of its name."""

    bounded: bool
    """All values are below LIMIT"""
    even: bool
    """The zero point is even, so MAGIC + z rounds ties as MAGIC does and z costs nothing"""
    clip: bool
    """The bounds are narrower than int8 and not yet applied as float32"""

    @classmethod
    def of(cls, zero_point: int, low: int, high: int, largest: float) -> Narrowing:
        """For values up to `largest`."""
        bounded = bool(largest < LIMIT)
        return cls(bounded, zero_point % 2 == 0, bounded and (low, high) != (-128, 127))

    @property
    def suffix(self) -> str:
        """For the kernel's name."""
        return "".join(f"_{name}" for name, value in vars(self).items() if value)

    def constants(self, zero_point: int, low: int, high: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """float32 [12]: low - z, high - z, MAGIC (+ z if even), four times each; int16 [8]: z; int8 [32]: low and high, sixteen times each."""
        floats = np.array([*output_bounds(zero_point, low, high), MAGIC + (zero_point if self.even else 0)], np.float32)
        return np.repeat(floats, 4), np.full(8, zero_point, np.int16), np.repeat(np.array([low, high], np.int8), 16)


class Narrower:
    """Emits the narrowing; construction binds its constants to registers."""

    def __init__(self, narrowing: Narrowing, floats: Expr, zero: Expr, limits: Expr, lanes: int) -> None:
        self.known, self.lanes = narrowing, lanes
        self.low, self.high, self.magic = (bind(load(floats, 4 * i, 4)) for i in range(3))
        self.zero = bind(load(zero, 0, 8))
        self.limits = [bind(load(limits, 16 * i, lanes)) for i in range(2)]

    def codes(self, values: list[Expr]) -> Expr:
        """int8 vector of `lanes` codes from float32x4 values, end to end."""
        bits = [self._rounded(value) for value in values]
        halves = [_low_halves(bits[i], bits[i + 1]) for i in range(0, len(bits), 2)]
        return self._narrowed(halves if self.known.even else [half + self.zero for half in halves])

    def saturated(self, values: list[Expr]) -> Expr:
        """The same from int32x4 values whose low halves are codes already, zero point included."""
        return self._narrowed([_low_halves(values[i], values[i + 1]) for i in range(0, len(values), 2)])

    def _narrowed(self, placed: list[Expr]) -> Expr:
        narrow = [intrinsic("llvm.aarch64.neon.sqxtn.v8i8", "int8x8", half) for half in placed]
        codes = narrow[0] if len(narrow) == 1 else joined(narrow, 8)
        return T.min(T.max(codes, self.limits[0]), self.limits[1]) if self.known.clip else codes

    def _rounded(self, value: Expr) -> Expr:
        """rne(value), plus z where that is even, in the low 16 bits."""
        if not self.known.bounded:
            value = intrinsic("llvm.minnum", "float32x4", intrinsic("llvm.maxnum", "float32x4", value, self.low), self.high)
        return reinterpret(exact(value, 4) + self.magic, "int32", 4)


def _low_halves(a: Expr, b: Expr) -> Expr:
    """UZP1: the low 16 bits of eight 32-bit lanes."""
    return T.Shuffle([reinterpret(a, "int16", 8), reinterpret(b, "int16", 8)], list(range(0, 16, 2)))


def real(bits: Expr) -> Expr:
    """float32x4 of integers below 2^22 that were added to MAGIC_BITS: exact, and cheaper than SCVTF."""
    return reinterpret(bits, "float32", 4) - splat(T.float32(MAGIC), 4)


def biased(zero_point: int) -> int:
    """The int32 that, added to a code, gives MAGIC_BITS + code - zero_point."""
    return MAGIC_BITS - zero_point


def part(vector: Expr, first: int, lanes: int) -> Expr:
    """Neighbouring lanes of a vector."""
    return T.Shuffle([vector], list(range(first, first + lanes)))
