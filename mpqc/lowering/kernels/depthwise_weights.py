"""How depthwise weights are stored: one code a tap and channel, at their own width."""

from __future__ import annotations

import numpy as np

from mpqc.lowering.kernels.tir import Expr, T, joined, load, splat


def packed(codes: np.ndarray, lanes: int, bits: int) -> np.ndarray:
    """Codes [taps, blocks * lanes] as int8 [taps, blocks, lanes * bits / 8].

    Byte j of 16 channels holds the codes of channels j, j + 8 (4 bits) or j, j + 4, j + 8, j + 12 (2 bits), lowest bits first.
    """
    fields = 8 // bits
    parts = codes.astype(np.int64).reshape(codes.shape[0], -1, fields, lanes // fields) & ((1 << bits) - 1)
    shifts = np.arange(fields).reshape(1, 1, fields, 1) * bits
    return (parts << shifts).sum(axis=2).astype(np.uint8).view(np.int8)


def unpacked(codes: Expr, block: Expr, bits: int, lanes: int) -> Expr:
    """The codes of one block (`block` counts blocks of all taps) as an int8 vector."""
    fields = 8 // bits
    width = lanes // fields
    vector = load(codes, block * width, width)
    if fields == 1:
        return vector
    parts = [(vector << splat(T.int8(8 - bits * (i + 1)), width)) >> splat(T.int8(8 - bits), width) for i in range(fields)]
    return joined(parts, width)
