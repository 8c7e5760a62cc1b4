"""The definition of every integer result. Kernels and files are compared with it bit for bit.

All functions are numpy, side-effect free, and round half to even. Float arithmetic is float32 with one rounding
an operation (no fused multiply-add), so that scalar, SIMD and numpy code can agree.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpqc.values.qtype import QParams, QType


def along(values: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """`values` [n] reshaped so that it broadcasts along `axis` of a tensor of `rank` dimensions; scalars unchanged."""
    if axis is None or values.ndim == 0:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = values.shape[0]
    return values.reshape(shape)


def saturate(codes: np.ndarray, low: int, high: int) -> np.ndarray:
    """`codes` clamped to [low, high] as int32."""
    clamped: np.ndarray = np.clip(codes, low, high)
    return clamped.astype(np.int32)


def quantize(x: np.ndarray, q: QParams) -> np.ndarray:
    """Codes of `x` (float32, any shape) as int32: clamp(rne(x / s) + z). Source: ONNX QuantizeLinear.

    On the half-integer grid clamp(2 rne((x / s - 1) / 2) + 1): the nearest odd number, from between two the one that is 1 more than a multiple of 4.
    """
    scale = along(q.scale.astype(np.float32), q.qtype.axis, x.ndim)
    zero = along(q.zero_point.astype(np.int32), q.qtype.axis, x.ndim)
    steps = x.astype(np.float32) / scale
    rounded = np.rint((steps - 1) / 2) * 2 + 1 if q.qtype.half else np.rint(steps)
    bounded = np.clip(rounded, -(2.0**24), 2.0**24)  # infinities and huge values saturate instead of wrapping
    return saturate(bounded.astype(np.int64) + zero, q.qtype.qmin, q.qtype.qmax)


def dequantize(codes: np.ndarray, q: QParams) -> np.ndarray:
    """Real values of `codes`: float32(code - z) * s. Source: ONNX DequantizeLinear."""
    scale = along(q.scale.astype(np.float32), q.qtype.axis, codes.ndim)
    zero = along(q.zero_point.astype(np.int32), q.qtype.axis, codes.ndim)
    reals: np.ndarray = (codes.astype(np.int32) - zero).astype(np.float32) * scale
    return reals


def multiplier(input_scale: np.ndarray, weight_scale: np.ndarray, output_scale: np.ndarray) -> np.ndarray:
    """m[c] = (s_x * s_w[c]) / s_y in float32, in this order, as ONNX Runtime computes it."""
    product = input_scale.astype(np.float32) * weight_scale.astype(np.float32)
    return (product / output_scale.astype(np.float32)).astype(np.float32)


def requantize(acc: np.ndarray, m: np.ndarray, zero_point: int, low: int, high: int) -> np.ndarray:
    """clamp(rne(float32(acc) * m) + z, low, high) as int32.

    `acc` is int32 or int64 of any shape, exact, rounded once to float32; `m` is float32 broadcastable to it. Products beyond +-2^24 saturate
    first, which changes no result because [low, high] lies inside.
    """
    product = acc.astype(np.float32) * m.astype(np.float32)
    steps = np.rint(np.clip(product, np.float32(-(2.0**24)), np.float32(2.0**24)))
    return saturate(steps.astype(np.int64) + int(zero_point), low, high)


def accumulator_bound(terms: int, input_type: QType, zero_point: int, weight_type: QType) -> int:
    """Largest |sum| of `terms` products of (x - z) and w: no overflow of int32 when it is below 2^31."""
    largest = max(abs(input_type.qmin - zero_point), abs(input_type.qmax - zero_point))
    return terms * largest * abs(weight_type.qmin)


def ratio(input_scale: np.ndarray | float, output_scale: np.ndarray | float) -> np.float32:
    """m = s / s_y in float32: the factors of `add`."""
    return np.float32(np.float32(input_scale) / np.float32(output_scale))


def average_multiplier(input_scale: np.ndarray | float, output_scale: np.ndarray | float, count: np.ndarray | int) -> np.ndarray:
    """m = s_x / (s_y * count) in float32, in this order, as ONNX Runtime computes it; `count` is [] or [oh, ow]."""
    divisor = (np.float32(output_scale) * np.asarray(count).astype(np.float32)).astype(np.float32)
    return np.asarray(np.float32(input_scale) / divisor, dtype=np.float32)


def add(
    a: np.ndarray,
    b: np.ndarray,
    zero_points: tuple[int, int],
    m_a: float,
    m_b: float,
    zero_point: int,
    low: int,
    high: int,
    *,
    subtract: bool = False,
) -> np.ndarray:
    """Sum (or difference) of two code tensors as int32 codes; numpy broadcasting.

    Float32 in this order, one rounding an operation: p_a = (q_a - z_a) * m_a; p_b = (q_b - z_b) * m_b; s = p_a + p_b
    (or p_a - p_b); clamp(rne(s) + z). |s| is saturated at 2^24 before the conversion to integer.
    """
    product_a = (a.astype(np.int32) - zero_points[0]).astype(np.float32) * np.float32(m_a)
    product_b = (b.astype(np.int32) - zero_points[1]).astype(np.float32) * np.float32(m_b)
    total = product_a - product_b if subtract else product_a + product_b
    steps = np.rint(np.clip(total, np.float32(-(2.0**24)), np.float32(2.0**24)))
    return saturate(steps.astype(np.int64) + int(zero_point), low, high)


def multiply(a: np.ndarray, b: np.ndarray, zero_points: tuple[int, int], m: float, zero_point: int, low: int, high: int) -> np.ndarray:
    """Product of two code tensors as int32 codes; numpy broadcasting: requantize((q_a - z_a) * (q_b - z_b), m).

    The product is exact; of codes of 17 bits or less, less their zero points, it is in float32 what float32 multiplication of the two gives.
    """
    product = (a.astype(np.int64) - zero_points[0]) * (b.astype(np.int64) - zero_points[1])
    return requantize(product, np.asarray(m, dtype=np.float32), zero_point, low, high)


def lookup(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """table[code + n / 2] for `codes` of any shape and a `table` of n entries: 256 for int8 codes, up to 65536 for int16 ones."""
    found: np.ndarray = table[codes.astype(np.int32) + len(table) // 2]
    return found


def lookup_along(codes: np.ndarray, tables: np.ndarray, axis: int) -> np.ndarray:
    """The same with tables [m, n], one for each index along `axis`."""
    index = np.arange(len(tables)).reshape([-1 if at == axis % codes.ndim else 1 for at in range(codes.ndim)])
    found: np.ndarray = tables[index, codes.astype(np.int32) + tables.shape[-1] // 2]
    return found


def rescale(codes: np.ndarray, zero_points: tuple[int, int], m: float, offset: float, low: int, high: int) -> np.ndarray:
    """clamp(rne(float32(code - z_x) * m + offset) + z_y, low, high) as int32, one float32 rounding an operation; `zero_points` is (z_x, z_y)."""
    product = (codes.astype(np.int32) - zero_points[0]).astype(np.float32) * np.float32(m)
    steps = np.rint(np.clip(product + np.float32(offset), np.float32(-(2.0**24)), np.float32(2.0**24)))
    return saturate(steps.astype(np.int64) + int(zero_points[1]), low, high)


def table(function: Callable[[np.ndarray], np.ndarray], source: QParams, target: QParams) -> np.ndarray:
    """[n]: quantize(function(dequantize(code))) for the n codes -n / 2 .. n / 2 - 1; n is 256, or 2^bits of a source of more than 8 bits.
    int8 or, for a target of more than 8 bits, int16. `function` maps float32 [n] to float32 [n].

    Codes outside the source's qtype never occur; their entries are those of the nearest code that does. Where the function has no value
    (the logarithm of a negative number) the entry is the lowest code, on every machine.
    """
    half = max(128, -source.qtype.qmin)
    codes = np.clip(np.arange(-half, half, dtype=np.int32), source.qtype.qmin, source.qtype.qmax)
    values = np.asarray(function(dequantize(codes, source)), dtype=np.float32)
    found = quantize(np.where(np.isnan(values), np.float32(-np.inf), values), target)
    return found.astype(np.int16 if target.qtype.bits > 8 else np.int8)


def windows(x: np.ndarray, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]) -> np.ndarray:
    """View [..., oh, ow, kh, kw] of the windows of a padded `x` [..., H, W]."""
    extents = tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, extents, axis=(-2, -1))
    return view[..., :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def pad_spatial(x: np.ndarray, pads: tuple[int, int, int, int], value: int) -> np.ndarray:
    """`x` [..., H, W] with `pads` (top, left, bottom, right) rows and columns of `value`."""
    if not any(pads):
        return x
    top, left, bottom, right = pads
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(top, bottom), (left, right)], constant_values=value)


def exact_float(weight: np.ndarray, codes: np.dtype | type = np.int8) -> type[np.floating]:
    """The cheapest float type in which sums of `codes` (their integer type) times `weight` [O, ...] are exact whatever the order.

    Partial sums are integers of at most 128 (int16: 32768) * max_o sum|w[o]|: below 2^24 float32 holds them all, below 2^53 float64 does.
    """
    largest = -int(np.iinfo(codes).min) * int(np.abs(weight.astype(np.int64)).sum(axis=tuple(range(1, weight.ndim))).max(initial=0))
    return np.float32 if largest < 2**24 else np.float64


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    *,
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> np.ndarray:
    """Accumulators [N, O, oh, ow] of codes `x` [N, I, H, W] and `weight` [O, I/groups, kh, kw]: bias[o] + sum q_x * w, exact: int32 of int8
    codes, int64 of int16 ones.

    Padding reads `pad_value` (the input's zero point). No zero point is subtracted: `bias` holds -z_x * sum(w[o]).
    Computed in floats that hold every partial sum exactly (`exact_float`).
    """
    real, whole = exact_float(weight, x.dtype), _sum_type(x)
    padded = pad_spatial(x, pads, pad_value).astype(real)
    view = windows(padded, (weight.shape[2], weight.shape[3]), strides, dilations)
    products = _depthwise if weight.shape[1] == 1 else _im2col
    return products(view, weight.astype(real), groups).astype(whole) + bias.astype(whole)[:, None, None]


def _sum_type(*codes: np.ndarray) -> type[np.signedinteger]:
    """What holds sums of products of these codes exactly."""
    return np.int64 if any(part.dtype == np.int16 for part in codes) else np.int32


def _im2col(view: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    n, channels, height, width, kh, kw = view.shape
    depth = channels // groups * kh * kw
    columns = np.ascontiguousarray(view.transpose(0, 1, 4, 5, 2, 3)).reshape(n, groups, depth, height * width)
    rows = weight.reshape(groups, weight.shape[0] // groups, depth)
    products: np.ndarray = rows @ columns
    return products.reshape(n, weight.shape[0], height, width)


def _depthwise(view: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    n, _, height, width, kh, kw = view.shape
    taps = weight.reshape(groups, -1, kh, kw)
    total = np.zeros((n, groups, taps.shape[1], height, width), dtype=weight.dtype)
    for i in range(kh):
        for j in range(kw):
            total += view[:, :, None, :, :, i, j] * taps[:, :, i, j][:, :, None, None]
    return total.reshape(n, weight.shape[0], height, width)


def gemm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Accumulators [..., N] of codes `x` [..., K] and `weight` [N, K]: bias[n] + sum q_x * w; their type as in `conv2d`."""
    real, whole = exact_float(weight, x.dtype), _sum_type(x)
    return (x.astype(real) @ weight.astype(real).T).astype(whole) + bias.astype(whole)


def matmul(a: np.ndarray, b: np.ndarray, zero_points: tuple[int, int]) -> np.ndarray:
    """Accumulators [..., M, N] of codes `a` [..., M, K] and `b` [..., K, N]: sum (q_a - z_a) * (q_b - z_b); their type as in `conv2d`.

    Exact in float64: every partial sum is an integer below 2^53.
    """
    centred = (codes.astype(np.float64) - zero for codes, zero in zip((a, b), zero_points, strict=True))
    return np.matmul(*centred).astype(_sum_type(a, b))


def max_pool(
    x: np.ndarray,
    kernel: tuple[int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
    low: int = -128,
    high: int = 127,
) -> np.ndarray:
    """Largest code of each window of codes `x` [N, C, H, W], clamped to [low, high]; padding is the least of their type and so never wins."""
    padded = pad_spatial(x, pads, int(np.iinfo(x.dtype).min))
    return saturate(windows(padded, kernel, strides, dilations).max(axis=(-2, -1)), low, high)


def average_pool(
    x: np.ndarray,
    kernel: tuple[int, int],
    zero_points: tuple[int, int],
    m: np.ndarray,
    low: int,
    high: int,
    *,
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """requantize(sum(q_x - z_x), m, z_y) over the windows of `x` [N, C, H, W]; `zero_points` is (z_x, z_y), `m` [] or [oh, ow].

    Padding adds 0 to the sum; whether it counts is decided by `m` (average_multiplier).
    """
    padded = pad_spatial(x, pads, zero_points[0])
    total = windows(padded, kernel, strides, dilations).sum(axis=(-2, -1), dtype=np.int32)
    return requantize(total - np.int32(zero_points[0] * kernel[0] * kernel[1]), np.asarray(m), zero_points[1], low, high)


def resize_nearest(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """out[..., i, j] = x[..., rows[i], columns[j]]."""
    return x[..., rows[:, None], columns[None, :]]


def resize_linear(
    x: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    row_weights: np.ndarray,
    column_weights: np.ndarray,
    zeros: tuple[int, int] = (0, 0),
    m: float = 1.0,
    low: int = -128,
    high: int = 127,
) -> np.ndarray:
    """Bilinear blend of codes `x` [..., H, W], requantized, as int32. `rows`, `columns`: lower neighbours; the upper is the next, at most the last.

    Float32 in this order, one rounding an operation, with a, b the lower row's left and right code, c, d the upper row's:
    top = a * (1 - wx) + b * wx; bottom = c * (1 - wx) + d * wx; clamp(rne((top * (1 - wy) + bottom * wy - z_x) * m) + z_y).
    `zeros` are z_x and z_y, `m` the input's scale over the output's. Codes and weights that are binary fractions (an integer factor of
    2 or 4) make the blend exact, so that it is rounded once.
    """
    real = x.astype(np.float32)
    below, right = np.minimum(rows + 1, x.shape[-2] - 1), np.minimum(columns + 1, x.shape[-1] - 1)
    wy, wx = row_weights.astype(np.float32)[:, None], column_weights.astype(np.float32)
    vx, vy = np.float32(1) - wx, np.float32(1) - wy
    top = real[..., rows[:, None], columns] * vx + real[..., rows[:, None], right] * wx
    bottom = real[..., below[:, None], columns] * vx + real[..., below[:, None], right] * wx
    product = (top * vy + bottom * wy - np.float32(zeros[0])) * np.float32(m)
    steps = np.rint(np.clip(product, np.float32(-(2.0**24)), np.float32(2.0**24)))
    return saturate(steps.astype(np.int64) + zeros[1], low, high)
