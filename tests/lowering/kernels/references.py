"""What kernels must produce, in numpy, from the definitions of mpqc.program and mpqc.numerics."""

from __future__ import annotations

import numpy as np

from mpqc import numerics
from mpqc.program import Conv


def conv2d(op: Conv, x: np.ndarray, input_zero_point: int, output_zero_point: int) -> np.ndarray:
    """op on NHWC codes, as NHWC int8."""
    top, left, bottom, right = op.pads
    padded = np.pad(x.astype(np.int64), ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=input_zero_point)
    reach = [(k - 1) * d + 1 for k, d in zip(op.weight.shape[2:], op.dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
    windows = windows[:, :: op.strides[0], :: op.strides[1], :, :: op.dilations[0], :: op.dilations[1]]
    n, rows, columns, channels = windows.shape[:4]
    grouped = windows.reshape(n, rows, columns, op.groups, channels // op.groups, *windows.shape[4:])
    weight = op.weight.astype(np.int64).reshape(op.groups, -1, *op.weight.shape[1:])
    acc = np.einsum("nyxgckl,gockl->nyxgo", grouped, weight, optimize=True).reshape(n, rows, columns, -1) + op.bias
    assert np.abs(acc).max(initial=0) < 2**31, "the accumulator overflows: no kernel has to compute this"
    return numerics.requantize(acc, op.multiplier, output_zero_point, op.low, op.high).astype(np.int8)
