"""Weights of the kernels that cost rows are taken of."""

from __future__ import annotations

import numpy as np


def weights(bits: int, shape: tuple[int, ...], *, is_worst: bool = False) -> np.ndarray:
    """Codes that fill their range as trained weights do: a quarter of the range is one standard deviation.

    is_worst: every eighth input of the first output has the largest code (without the least one of two's complement, from 5 bits on), so that int16
    holds the sum of no more products than these bits guarantee.
    """
    edge = 1 << (bits - 1)
    codes = np.clip(np.rint(np.random.default_rng(0).normal(0, edge / 2, shape)), -edge, edge - 1).astype(np.int8)
    if is_worst:
        codes = codes if bits <= 4 else np.maximum(codes, 1 - edge)
        codes[0, ::8] = edge - 1 if bits > 4 else -edge
    return codes


def multipliers(weight: np.ndarray) -> np.ndarray:
    """float32 [O]: scales that bring accumulators to the spread of the codes."""
    deviation = np.sqrt((weight.reshape(weight.shape[0], -1).astype(np.float64) ** 2).sum(axis=1)) + 1.0
    return (1 / deviation).astype(np.float32)
