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

The weights that an output channel has decide how many input channels that is true of: at least 227 of 8 bits, 900 of usual trained weights. Where
there are more, they are summed in several shares, each of which is exact, and the shares y added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np

from mpqc.facts.kernels import LARGE_CHANNELS, LARGE_LANES
from mpqc.values.qtype import QType

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
    """The form, as those of winograd.py say what they are."""

    name: Literal["tile4"] = "tile4"
    shift: int = 0
    """Accumulators are those of the direct form"""
    channels: int = LARGE_CHANNELS
    """Fewest output channels of a group"""

    def sums(self, weight: np.ndarray, codes: tuple[int, int]) -> tuple[int, int]:
        """Least and largest sum of products of any output channel, for inputs from codes[0] to codes[1]. weight: integer codes [O, ...]."""
        matrix = weight.reshape(weight.shape[0], -1).astype(np.int64)
        ends = np.stack([code * matrix for code in codes])
        return int(ends.min(axis=0).sum(axis=1).min()), int(ends.max(axis=0).sum(axis=1).max())

    def sums_fit(self, least: int, most: int) -> bool:
        """Whether sums of products from `least` to `most` are exact."""
        return least >= -LIMIT and most < LIMIT

    def share(self, weight: np.ndarray, codes: tuple[int, int]) -> int:
        """Input channels, whole vectors of them, that may be summed at once: in as few even shares as are all exact. weight: codes [O, I, H, W]."""
        depth = weight.shape[1]
        vectors = ceil(depth / LARGE_LANES)
        sizes = (ceil(vectors / count) * LARGE_LANES for count in range(1, vectors))
        return next((size for size in sizes if self._is_exact(weight, codes, size)), LARGE_LANES)

    def _is_exact(self, weight: np.ndarray, codes: tuple[int, int], size: int) -> bool:
        return all(self.sums_fit(*self.sums(weight[:, first : first + size], codes)) for first in range(0, weight.shape[1], size))

    def takes(self, weight_bits: int, input_bits: int, depth: int) -> bool:
        """Whether weights and inputs have these widths: in shares of the depth all of int8 are exact."""
        return max(weight_bits, input_bits) <= INT8.bits and depth > 0

    def is_sure(self, weight_bits: int, input_bits: int, depth: int) -> bool:
        """The same."""
        return self.takes(weight_bits, input_bits, depth)
