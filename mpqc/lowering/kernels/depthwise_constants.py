"""What depthwise kernels read besides their input: packed weights, and how each block of channels is requantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mpqc.lowering.kernels.affine import BASE, BASE_BITS, LARGEST, affine
from mpqc.lowering.kernels.depthwise_weights import packed
from mpqc.lowering.kernels.narrow import Narrowing, real
from mpqc.lowering.kernels.requant import accumulator_range
from mpqc.lowering.kernels.tir import MAGIC_BITS, Expr, T, cast, intrinsic, reinterpret
from mpqc.values.program import Conv, Tensor

SMALLEST = np.float32(2.0**-100)
"""Multipliers of which products stay normal floats"""


def block_starts(channels: int, lanes: int) -> np.ndarray:
    """First channel of every block; the last one overlaps its neighbour where channels do not divide."""
    return np.minimum(np.arange(-(-channels // lanes)) * lanes, channels - lanes)


@dataclass(frozen=True, eq=False)
class Constants:
    """Packed weights; of each channel of each block what its sum starts at and how it becomes a code."""

    weights: np.ndarray
    start: np.ndarray
    """int32: the bias, plus what makes the sum a float where it is small enough"""
    scale: np.ndarray
    """float32: the multiplier, in fused blocks with its last bit moved where that is needed"""
    offset: np.ndarray
    """float32: see affine.py; empty without fused blocks"""
    fused: np.ndarray
    """int8 [blocks]: one multiply-add requantizes the block; empty where none may"""
    magic: bool
    """Sums stay below 2^22: those of the other blocks start at the bias plus a float's bits"""
    rectified: bool
    """Sums below zero all give the lowest code. Then those of the other blocks start at 2^23 and one multiply-add, with `offset`, makes them the
    product: exact, as 2^23 times a multiplier is; below 2^23 the bits stand for half the distance, which is as negative"""
    narrowing: Narrowing

    @property
    def suffix(self) -> str:
        """For the kernel's name."""
        return "_fused" * bool(len(self.fused)) + "_magic" * self.magic + "_rectified" * self.rectified + self.narrowing.suffix

    def choices(self, fused: Expr | None, block: Expr) -> Iterator[bool]:
        """Yields once for every way in which `block` may be requantized (True: by one multiply-add), inside the branch for it.

        The branch also keeps LLVM from mixing requantization with the sums before it, for which there are not enough registers.
        """
        if fused is None:
            yield False
            return
        with T.If(fused[block] != 0):
            with T.Then():
                yield True
            with T.Else():
                yield False

    def product(self, total: Expr, scale: Expr, offset: Callable[[], Expr]) -> Expr:
        """Four sums of a block that is not fused times their multipliers, float32x4."""
        if self.rectified:
            return intrinsic("llvm.fma", "float32x4", reinterpret(total, "float32", 4), scale, offset())
        return (real(total) if self.magic else cast(total, "float32", 4)) * scale


def constants(op: Conv, lanes: int, y: Tensor) -> Constants:
    """Packs `op` for blocks of `lanes` channels."""
    least, most = accumulator_range(op.weight.reshape(len(op.weight), -1), op.bias)
    starts = block_starts(len(op.weight), lanes)
    chosen = (starts[:, None] + np.arange(lanes)).reshape(-1)
    m = op.multiplier.astype(np.float32).reshape(-1)
    largest = np.maximum(np.abs(least), np.abs(most))
    magic = bool(largest.max() < LARGEST)
    narrowing = Narrowing.of(y.zero_point, op.low, op.high, float((largest * m).max()))
    weights = packed(op.weight.astype(np.int64)[chosen].reshape(len(chosen), -1).T, lanes, op.weight_bits)
    bias = op.bias.astype(np.int64)
    form = affine(least, most, bias, m, (y.zero_point, op.low, op.high)) if narrowing.bounded else None
    if form is None:
        start = (bias + (MAGIC_BITS if magic else 0)).astype(np.int32)[chosen]
        return Constants(weights, start, m[chosen], np.zeros(0, np.float32), np.zeros(0, np.int8), magic, False, narrowing)
    fused = form.proven[chosen].reshape(len(starts), lanes).all(axis=1)
    rectified = bool(op.low == y.zero_point and np.all(m >= SMALLEST))
    use, base = np.repeat(fused, lanes), BASE_BITS if rectified else MAGIC_BITS
    start = np.where(use, form.start[chosen], (bias + base).astype(np.int32)[chosen])
    scale = np.where(use, form.scale[chosen], m[chosen])
    offset = np.where(use, form.offset[chosen], -np.float32(BASE) * m[chosen]).astype(np.float32)
    return Constants(weights, start, scale, offset, np.asarray(fused, np.int8), magic, rectified, narrowing)
