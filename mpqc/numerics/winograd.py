"""When a 3x3 convolution may be computed by Winograd's algorithm without any rounding: the proof for int8, for widths and for actual codes.

Along one axis, with the fractions of the weights' transform taken out (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks,
2016, section 4.1), two outputs are sums of four products instead of six:

    inputs    d0 - d2, d1 + d2, d2 - d1, d1 - d3
    weights   2 g0, g0 + g1 + g2, g0 - g1 + g2, 2 g2
    outputs   m0 + m1 + m2, m1 - m2 - m3            twice those of the direct sum

Form "row" does so along rows, form "tile" along both axes. Where transformed inputs and weights fit int8, and 2 or 4 times the direct sum fits
int32, the result is exact: sums in between may wrap, the last one is right modulo 2^32 and in range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mpqc.facts.kernels import CHANNEL_TILE
from mpqc.numerics.winograd16 import TAPS as TAPS
from mpqc.numerics.winograd16 import LongForm
from mpqc.values.qtype import QType, largest_code

FormName = Literal["tile", "row", "tile4"]
"""tile: F(2x2,3x3), 16 products for 36. row: F(2,3) along a row, 12 for 18. tile4: F(4x4,3x3) in int16, 36 products for 144 (winograd16.py)."""
WEIGHTS = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]], np.int64)
"""Of three taps along an axis"""
INT8 = QType(8)
ACCUMULATOR = 2**31


@dataclass(frozen=True)
class Form:
    """One of the forms."""

    name: FormName
    shift: int
    """Accumulators hold 2^shift times the direct sum; so many times inputs are added in pairs"""
    channels: int = CHANNEL_TILE
    """Fewest output channels of a group"""

    def inputs_fit(self, codes: tuple[int, int]) -> bool:
        """Whether transformed inputs fit int8, for codes from codes[0] to codes[1], padding included."""
        low, high = codes
        return low << self.shift >= INT8.qmin and high << self.shift <= INT8.qmax and (high - low) << (self.shift - 1) <= INT8.qmax

    def transformed(self, weight: np.ndarray, upper: np.ndarray | None = None) -> tuple[int, int]:
        """Least and largest transformed weight, of any codes from `weight` to `upper` (None: the same). Integer codes [O, I, 3, 3]."""
        matrix = np.kron(WEIGHTS if self.name == "tile" else np.eye(3, dtype=np.int64), WEIGHTS)
        low, high = (codes.reshape(-1, TAPS).astype(np.float32) for codes in (weight, weight if upper is None else upper))
        plus, minus = (np.maximum(sign * matrix, 0).T.astype(np.float32) for sign in (1, -1))  # whole numbers far below 2^24
        least, most = low @ plus - high @ minus, high @ plus - low @ minus
        return int(least.min(initial=0)), int(most.max(initial=0))

    def weights_fit(self, weight: np.ndarray, upper: np.ndarray | None = None) -> bool:
        """Whether transformed weights fit int8, for any codes from `weight` to `upper` (None: the same)."""
        least, most = self.transformed(weight, upper)
        return least >= INT8.qmin and most <= INT8.qmax

    def takes(self, weight_bits: int, input_bits: int, depth: int) -> bool:
        """Whether inputs of this width fit, and their sums with weights of that width over `depth` input channels.

        Sums may take half of what int32 has for them, the zero point's share included: biases have the other half (ranges.BIAS_LIMIT).
        """
        inputs = QType(input_bits)
        sums = (2 * TAPS * depth * largest_code(weight_bits) * -inputs.qmin) << self.shift
        return self.inputs_fit((inputs.qmin, inputs.qmax)) and sums <= ACCUMULATOR // 2

    def is_sure(self, weight_bits: int, input_bits: int, depth: int) -> bool:
        """Whether all weights and inputs of these widths are exact."""
        return largest_code(weight_bits) * 3**self.shift <= -INT8.qmin and self.takes(weight_bits, input_bits, depth)


SHORT: Mapping[str, Form] = {"tile": Form("tile", 2), "row": Form("row", 1)}
"""Forms in int8, by name, fewest products first"""
FORMS: Mapping[str, Form | LongForm] = {**SHORT, "tile4": LongForm()}
"""All of them"""
