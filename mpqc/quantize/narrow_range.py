"""Weights without the least code of their type, for cores that add products up in int16: two of -128 x -128 would be one too many.

One pair of such weights halves the speed of a whole layer (mpqc/lowering/kernels/smull.py); moved to -127 it costs one step of the scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpqc.values.qtype import QParams

LEAST_BITS = 5
"""Narrower types have too few codes to leave one out"""


def without_least_codes(grids: Mapping[str, QParams], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights that change, by name: float32, values below the second least code of their grid raised to it. grids: of quantized weights."""
    wide = {name: grid for name, grid in grids.items() if grid.qtype.bits >= LEAST_BITS and name in weights}
    raised = {name: np.maximum(weights[name], _least(grid, weights[name])).astype(np.float32) for name, grid in wide.items()}
    return {name: weight for name, weight in raised.items() if np.any(weight > weights[name])}


def _least(grid: QParams, weight: np.ndarray) -> np.ndarray:
    """The real value of the second least code, in the shape of the weight's scales."""
    scale = np.asarray(grid.scale, np.float32)
    if grid.qtype.axis is None:
        return -grid.qtype.qmax * scale
    along = [-1 if axis == grid.qtype.axis else 1 for axis in range(weight.ndim)]
    return -grid.qtype.qmax * scale.reshape(along)
