"""When F(4x4,3x3) may be computed in int16 products and int32 sums without any rounding: the proof.

Along one axis (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.2), with the fractions of the weights'
transform left out, four outputs y are sums of six products m instead of twelve, of inputs d and weights g:

    inputs    v0 = 4 d0 - 5 d2 + d4             v1, v2 = (d4 - 4 d2) +- (d3 - 4 d1)
              v5 = 4 d1 - 5 d3 + d5             v3, v4 = (d4 - d2) +- 2 (d3 - d1)
    weights   u0 = g0, u5 = g2                  u1, u2 = (g0 + g2) +- g1
                                                u3, u4 = (g0 + 4 g2) +- 2 g1
    outputs   24 y0 = 6 m0 - 4 s + t            with s = m1 + m2, d = m1 - m2
              12 y1 = e - 2 d                        t = m3 + m4, e = m3 - m4
               6 y2 = t - s
               6 y3 = 6 m5 + 2 e - d

These hold for all whole numbers, and so modulo 2^32. Along both axes output (i, j) comes out as 9 * 2^n * y with n = SHIFTS[i] + SHIFTS[j].
The odd factor is undone by a multiplication with its inverse modulo 2^32, which leaves 2^n * y modulo 2^32; where |2^n * y| < 2^31 that is the
number itself, and an arithmetic shift gives y. So sums in between may wrap, and all that has to be shown is

- that transformed inputs and weights fit int16: each is at most 100 times the largest input and 49 times the largest weight, always so in int8;
- that every sum y of products, before the bias, is from -2^25 to 2^25 - 1: 2^31 / 2^6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mpqc.facts.kernels import LARGE_CHANNELS
from mpqc.values.qtype import QType, largest_code

SHIFTS = (3, 2, 1, 1)
"""Of the four outputs along an axis: the power of two in what they come out multiplied by"""
INVERSE = pow(9, -1, 2**32)
"""Undoes the odd factor, modulo 2^32"""
LIMIT = 1 << (31 - 2 * max(SHIFTS))
"""Sums of products that are exact: from -LIMIT to LIMIT - 1"""
TAPS = 9
INT8 = QType(8)


@dataclass(frozen=True)
class LongForm:
    """The form, as those of winograd.py say what they are: whatever the codes of inputs, weights alone decide."""

    name: Literal["tile4"] = "tile4"
    shift: int = 0
    """Accumulators are those of the direct form"""
    channels: int = LARGE_CHANNELS
    """Fewest output channels of a group"""

    def sums(self, weight: np.ndarray, codes: tuple[int, int] = (INT8.qmin, INT8.qmax), upper: np.ndarray | None = None) -> tuple[int, int]:
        """Least and largest sum of products of any output channel.

        For inputs from codes[0] to codes[1] and weights, integer codes [O, ...], from `weight` to `upper` (None: the same).
        """
        bounds = [part.reshape(part.shape[0], -1).astype(np.int64) for part in (weight, weight if upper is None else upper)]
        ends = np.stack([code * part for code in codes for part in bounds])
        return int(ends.min(axis=0).sum(axis=1).min()), int(ends.max(axis=0).sum(axis=1).max())

    def sums_fit(self, least: int, most: int) -> bool:
        """Whether sums of products from `least` to `most` are exact."""
        return least >= -LIMIT and most < LIMIT

    def weights_fit(self, weight: np.ndarray, upper: np.ndarray | None = None) -> bool:
        """Whether sums with any int8 inputs are exact, for any weights from `weight` to `upper` (None: the same)."""
        return self.sums_fit(*self.sums(weight, upper=upper))

    def takes(self, weight_bits: int, input_bits: int, depth: int) -> bool:
        """Whether inputs of this width may meet weights of which `weights_fit` holds."""
        return max(weight_bits, input_bits) <= INT8.bits and depth > 0

    def is_sure(self, weight_bits: int, input_bits: int, depth: int) -> bool:
        """Whether all weights and inputs of these widths over `depth` input channels are exact."""
        if not self.takes(weight_bits, input_bits, depth):
            return False
        most = TAPS * depth * largest_code(weight_bits) * -QType(input_bits).qmin
        return self.sums_fit(-most, most)
