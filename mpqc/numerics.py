"""The definition of every integer result (DESIGN section 4). Kernels and files are compared with it bit for bit.

All functions are numpy, side-effect free, and round half to even. Float arithmetic is float32 with one rounding
an operation (no fused multiply-add), so that scalar, SIMD and numpy code can agree.
"""

from __future__ import annotations

import numpy as np

from mpqc.qtype import QParams, QType


def along(values: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """`values` [n] reshaped so that it broadcasts along `axis` of a tensor of `rank` dimensions; scalars unchanged."""
    if axis is None or values.ndim == 0:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = values.shape[0]
    return values.reshape(shape)


def saturate(codes: np.ndarray, low: int, high: int) -> np.ndarray:
    """`codes` clamped to [low, high] as int32."""
    return np.clip(codes, low, high).astype(np.int32)


def quantize(x: np.ndarray, q: QParams) -> np.ndarray:
    """Codes of `x` (float32, any shape) as int32: clamp(rne(x / s) + z). Source: ONNX QuantizeLinear."""
    scale = along(q.scale.astype(np.float32), q.qtype.axis, x.ndim)
    zero = along(q.zero_point.astype(np.int32), q.qtype.axis, x.ndim)
    steps = np.rint(x.astype(np.float32) / scale)
    bounded = np.clip(steps, -(2.0**24), 2.0**24)  # infinities and huge values saturate instead of wrapping
    return saturate(bounded.astype(np.int64) + zero, q.qtype.qmin, q.qtype.qmax)


def dequantize(codes: np.ndarray, q: QParams) -> np.ndarray:
    """Real values of `codes`: float32(code - z) * s. Source: ONNX DequantizeLinear."""
    scale = along(q.scale.astype(np.float32), q.qtype.axis, codes.ndim)
    zero = along(q.zero_point.astype(np.int32), q.qtype.axis, codes.ndim)
    return (codes.astype(np.int32) - zero).astype(np.float32) * scale


def multiplier(input_scale: np.ndarray, weight_scale: np.ndarray, output_scale: np.ndarray) -> np.ndarray:
    """m[c] = (s_x * s_w[c]) / s_y in float32, in this order, as ONNX Runtime computes it."""
    product = input_scale.astype(np.float32) * weight_scale.astype(np.float32)
    return (product / output_scale.astype(np.float32)).astype(np.float32)


def requantize(acc: np.ndarray, m: np.ndarray, zero_point: int, low: int, high: int) -> np.ndarray:
    """clamp(rne(float32(acc) * m) + z, low, high) as int32.

    `acc` is int32 of any shape, `m` float32 broadcastable to it. Products beyond +-2^24 saturate first, which changes no
    result because [low, high] lies inside.
    """
    product = acc.astype(np.int32).astype(np.float32) * m.astype(np.float32)
    steps = np.rint(np.clip(product, np.float32(-(2.0**24)), np.float32(2.0**24)))
    return saturate(steps.astype(np.int64) + int(zero_point), low, high)


def accumulator_bound(terms: int, input_type: QType, zero_point: int, weight_type: QType) -> int:
    """Largest |sum| of `terms` products of (x - z) and w: no overflow of int32 when it is below 2^31."""
    largest = max(abs(input_type.qmin - zero_point), abs(input_type.qmax - zero_point))
    return terms * largest * abs(weight_type.qmin)
