"""Products of many matrices: which ones belong together."""

from __future__ import annotations

from collections.abc import Sequence

from mpqc.lowering.kernels.tir import Expr, T


def batch(n: Expr, out: Sequence[int], own: Sequence[int]) -> Expr:
    """Which matrix of an operand of shape `own` belongs to matrix `n` of the output, by numpy's broadcasting."""
    found, step = T.int32(0), 1
    lead = (1,) * (len(out) - len(own)) + tuple(own[:-2])
    for size, mine in zip(reversed(out[:-2]), reversed(lead), strict=True):
        digit, n = T.floormod(n, size), T.floordiv(n, size)
        found = found + digit * step if mine > 1 else found
        step *= mine
    return found
