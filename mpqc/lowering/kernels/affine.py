"""Requantization in one fused multiply-add, proven exact for the accumulators that can occur.

An accumulator that starts at the bits of the float 2^23 + k is, read as float32, k + 2^23 + sum: no conversion. One FMLA then
gives scale * (sum + K) + offset, rounded once; where that lies in [2^23, 2^24) the rounding is to a whole number, and the
low half of its bits is the code. Exact means: equal to integer.requantize for every sum in reach. Both are rising staircases of the
sum with at most 255 steps, so they are equal if each step is taken at the same sum. With scale = multiplier = M * 2^-e, the step to
code j is taken at the first sum t with M * t + o >= (2 j - 1) * 2^(e - 1), o = M * K + (offset - MAGIC) * 2^e: every step bounds the
integer o on one side by its sum t and on the other by t - 1. The free choice of K (some millions) puts o between the bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mpqc.lowering.kernels.tir import MAGIC, MAGIC_BITS, Expr, intrinsic, reinterpret
from mpqc.numerics import integer

BASE = 1 << 23
BASE_BITS = 0x4B000000
"""2^23 as float32"""
LARGEST = 1 << 22
"""Accumulators stay below this"""
REACH = 2**15 - 300
"""Codes before saturation stay below this, so that they fit int16 with any zero point"""
EXPONENTS = range(1, 50)
"""Powers e for which the integers of the proof fit int64"""
NUDGES = (0, 1, -1)
"""What is added to M, in this order, where M itself has no K"""


@dataclass(frozen=True, eq=False)
class Affine:
    """Constants of each channel."""

    start: np.ndarray
    """int32: what the accumulator starts at, in place of its bias"""
    scale: np.ndarray
    """float32"""
    offset: np.ndarray
    """float32"""
    proven: np.ndarray
    """bool: the constants are exact; where they are not, `start` is the bias plus MAGIC_BITS and `scale` the multiplier, for three operations"""


def emit(total: Expr, scale: Expr, offset: Expr) -> Expr:
    """int32x4 whose low halves are the codes before saturation, zero point included, of four accumulators."""
    fused = intrinsic("llvm.fma", "float32x4", reinterpret(total, "float32", 4), scale, offset)
    return reinterpret(fused, "int32", 4)


def affine(least: np.ndarray, most: np.ndarray, bias: np.ndarray, multiplier: np.ndarray, bounds: tuple[int, int, int]) -> Affine | None:
    """Constants for accumulators (bias included) in [`least`, `most`], int64 [C] each; `bounds` is zero point, low and high of the output.

    None where not even the three operations do: accumulators beyond 2^22, products that int16 does not hold.
    """
    m = multiplier.astype(np.float32)
    largest = np.maximum(np.abs(least), np.abs(most))
    if np.max(largest, initial=0) >= LARGEST or np.max(largest * np.abs(m.astype(np.float64)), initial=0.0) >= REACH:
        return None
    usable = (m > np.ldexp(1.0, 24 - EXPONENTS[-1])) & (m < np.ldexp(1.0, 23 - EXPONENTS[0]))
    mantissa, exponent = _split(np.where(usable, m, np.float32(1)))
    result = Affine((MAGIC_BITS + bias).astype(np.int32), m.copy(), np.zeros(len(m), np.float32), np.zeros(len(m), bool))
    left = np.flatnonzero(usable)
    first = _steps(least, most, np.where(usable, m, np.float32(1)), bounds)
    for nudge in NUDGES:
        left = left[~result.proven[left]]
        scale = mantissa[left] + nudge
        window = _window(least[left], most[left], first[left], scale, exponent[left], bounds)
        for channel, *values in zip(left, scale, exponent[left], *window, strict=True):
            whole, power, lowest, highest = map(int, values)
            placed = _place(whole, power, (lowest, highest), (BASE - int(least[channel]), 2 * BASE - 1 - int(most[channel])))
            if placed is not None:
                result.start[channel] = BASE_BITS + placed[0] - BASE + int(bias[channel])
                result.scale[channel], result.offset[channel] = math.ldexp(whole, -power), placed[1]
                result.proven[channel] = True
    return result


def _split(m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, e) with m = M * 2^-e and M an integer below 2^24."""
    fraction, power = np.frexp(m.astype(np.float64))
    return np.ldexp(fraction, 24).astype(np.int64), 24 - power.astype(np.int64)


def _window(
    least: np.ndarray, most: np.ndarray, first: np.ndarray, mantissa: np.ndarray, exponent: np.ndarray, bounds: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest o of each channel that take every step at the sum `first` [C, codes]; never further than 1/4 from the zero point."""
    zero_point, low, high = bounds
    codes = np.arange(low + 1, high + 1, dtype=np.int64)
    edge, odd = (2 * codes - 1) << (exponent[:, None] - 1), codes % 2
    exact, slack = np.int64(zero_point) << exponent, np.int64(1) << np.maximum(exponent - 2, 0)
    below = edge + odd - mantissa[:, None] * np.minimum(first, most[:, None])
    above = edge - 1 + odd - mantissa[:, None] * (first - 1)
    lowest = np.where(first <= most[:, None], below, (exact - slack)[:, None]).max(axis=1, initial=np.iinfo(np.int64).min)
    highest = np.where(first > least[:, None], above, (exact + slack)[:, None]).min(axis=1, initial=np.iinfo(np.int64).max)
    return np.maximum(lowest, exact - slack), np.minimum(highest, exact + slack)


def _steps(least: np.ndarray, most: np.ndarray, m: np.ndarray, bounds: tuple[int, int, int]) -> np.ndarray:
    """First sum in [least, most + 1] of each channel (rows) that gives at least each code above the lowest (columns)."""
    zero_point, low, high = bounds
    codes = np.arange(low + 1, high + 1, dtype=np.int64)
    guess = np.ceil((codes - zero_point - 0.5) / m.astype(np.float64)[:, None])
    guess = np.clip(guess, least[:, None] - 4.0, most[:, None] + 4.0).astype(np.int64)
    first = guess + 3
    for step in (2, 1, 0, -1, -2, -3):
        reached = integer.requantize(guess + step, m[:, None], zero_point, low, high) >= codes
        first = np.where(reached & (first == guess + step + 1), guess + step, first)
    return np.clip(first, least[:, None], most[:, None] + 1)


def _place(mantissa: int, exponent: int, window: tuple[int, int], reach: tuple[int, int]) -> tuple[int, int] | None:
    """(K, offset) with K in `reach` and M * K + (offset - MAGIC) * 2^e in `window`, both inclusive; None where there is none."""
    (lowest, highest), (smallest, largest) = window, reach
    unit = 1 << exponent
    if highest < lowest:
        return None
    start = mantissa * smallest
    room = min(highest - lowest, unit - 1)
    steps = _first_in_range(mantissa, unit, (lowest - start) % unit, room)
    if steps is None or smallest + steps > largest:
        return None
    k = smallest + steps
    offset = int(MAGIC) - (mantissa * k - lowest) // unit
    total = mantissa * k + (offset - int(MAGIC)) * unit
    fits = lowest <= total <= highest and abs(offset) < 2 * BASE
    return (k, offset) if fits else None


def _first_in_range(a: int, n: int, low: int, room: int) -> int | None:
    """Smallest x >= 0 with (a x - low) mod n <= room, None if there is none; 0 <= a, low < n."""
    if low == 0 or low + room >= n:
        return 0
    return _first_between(a % n, n, low, low + room)


def _first_between(a: int, n: int, low: int, high: int) -> int | None:
    """Smallest x >= 0 with low <= a x mod n <= high for 0 < low <= high < n: Euclid's algorithm on the wraps around n."""
    if a == 0:
        return None
    if 2 * a > n:
        a, low, high = n - a, n - high, n - low
    x = -(-low // a)
    if a * x <= high:
        return x
    wraps = _first_between(a - n % a if n % a else 0, a, low % a, high % a)
    return None if wraps is None else -(-(low + n * wraps) // a)
