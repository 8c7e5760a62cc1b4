"""Depthwise convolution with the requantization fused: every output channel reads one input channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mpqc.lowering.kernels import depthwise_long, depthwise_slide, depthwise_smull, depthwise_walk
from mpqc.lowering.kernels.depthwise_sdot import kernel, plan
from mpqc.lowering.kernels.depthwise_weights import packed, unpacked
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.layout import physical_shape, types
from mpqc.lowering.kernels.pool import Taps, Window, grid
from mpqc.lowering.kernels.requant import INT8
from mpqc.lowering.kernels.tir import (
    Expr,
    Param,
    T,
    cast,
    codes,
    function,
    load,
    loop,
    output_bounds,
    param,
    pieces,
    registers,
    splat,
    store,
    symbol,
)
from mpqc.values.program import Conv, Tensor

BLOCK = 16
"""Channels a vector holds; weights are padded to a multiple of it"""


def depthwise(op: Conv, x: Tensor, y: Tensor, target: KernelTarget, codes: tuple[int, int] = INT8) -> Kernel:
    """`op`, whose groups are the channels of `x`, with any number of outputs a channel; see program.Conv.

    codes: least and largest code of `x`, padding included.
    """
    if x.is_long or y.is_long:
        return depthwise_long.kernel(op, x, y) or _portable(op, x, y, codes)
    return target.code("depthwise", FORMS)(op, x, y, codes)


def _long(op: Conv, x: Tensor, y: Tensor, inputs: tuple[int, int]) -> Kernel:
    """SMULL and SMLAL, channel by channel."""
    long = depthwise_smull.plan(op, x, y, inputs)
    return depthwise_smull.kernel(op, long, x, y) if long else _portable(op, x, y)


def _dotted(op: Conv, x: Tensor, y: Tensor, inputs: tuple[int, int]) -> Kernel:
    """SDOT over the taps."""
    slide = depthwise_slide.plan(op, x, y)
    if slide:
        return depthwise_walk.kernel(op, slide, x, y)
    chosen = plan(op, x, y)
    return kernel(op, chosen, x, y) if chosen else _portable(op, x, y)


def macs(op: Conv, y: Tensor) -> int:
    """Multiply-accumulates: one a tap and output element."""
    return int(np.prod(y.shape)) * op.weight.shape[2] * op.weight.shape[3]


def _padded(op: Conv) -> np.ndarray:
    """Codes [taps, channels rounded up to whole blocks]."""
    channels, taps = op.weight.shape[0], op.weight.shape[2] * op.weight.shape[3]
    wide = np.zeros((taps, -(-channels // BLOCK) * BLOCK), np.int64)
    wide[:, :channels] = op.weight.reshape(channels, taps).T
    return wide


def _portable(op: Conv, x: Tensor, y: Tensor, inputs: tuple[int, int] = INT8) -> Kernel:
    """Loops that any CPU runs: vectors along channels, taps outside the input skipped."""
    source, result = grid(x), grid(y)
    outputs, per_input = result.sizes[1], result.sizes[1] // source.sizes[1]
    axes = tuple(Window(source.sizes[2 + i], result.sizes[2 + i], op.weight.shape[2 + i], op.strides[i], op.pads[i], op.dilations[i]) for i in (0, 1))
    rows, columns = axes
    weights = packed(_padded(op), BLOCK, op.weight_bits)
    taps, blocks = weights.shape[:2]
    bias = (op.bias.astype(np.int64) + x.zero_point * op.weight.astype(np.int64).sum(axis=(1, 2, 3))).astype(np.int32)
    sums = sum_type(op, x)
    constants = (
        weights,
        bias,
        op.multiplier.astype(np.float32).reshape(-1),
        np.array(output_bounds(y.zero_point, op.low, op.high), np.float32),
        np.array([x.zero_point], np.int32),
        np.array([y.zero_point], y.dtype),
    )
    widths = (8, 4, 2, 1) if x.is_long else (16, 8, 4, 2, 1)
    vector = per_input == 1 and source.steps[1] == 1 == result.steps[1]

    def body(a: Expr, w: Expr, b: Expr, m: Expr, bounds: Expr, zx: Expr, zy: Expr, out: Expr) -> None:
        wide = T.alloc_buffer((taps * blocks * BLOCK,), "int8")
        with T.serial(0, taps * blocks) as i:
            store(wide, i * BLOCK, unpacked(w, i, op.weight_bits, BLOCK), BLOCK)
        with loop(result.sizes[0] * rows.outputs, outputs * columns.outputs * taps) as i:
            n, oy = T.floordiv(i, rows.outputs), T.floormod(i, rows.outputs)
            with T.serial(0, columns.outputs) as ox:
                for first, repeats, lanes in pieces(outputs, widths) if vector else [(0, outputs, 1)]:
                    with T.serial(0, repeats) as block:
                        c = first + block * lanes
                        total = registers(lanes, sums)
                        store(total, 0, cast(load(b, c, lanes), sums, lanes), lanes)
                        start = n * source.steps[0] + (c if per_input == 1 else T.floordiv(c, per_input)) * source.steps[1]
                        taps_inside = Taps((rows, columns), (oy, ox), (source.steps[2], source.steps[3]))
                        with taps_inside as offset:
                            ky, kx = taps_inside.taps
                            value = cast(cast(load(a, start + offset, lanes), "int32", lanes) - splat(zx[0], lanes), sums, lanes)
                            weight = load(wide, (ky * columns.kernel + kx) * (blocks * BLOCK) + c, lanes)
                            store(total, 0, load(total, 0, lanes) + value * cast(weight, sums, lanes), lanes)
                        steps = cast(load(total, 0, lanes), "float32", lanes) * load(m, c, lanes)
                        at = n * result.steps[0] + c * result.steps[1] + oy * result.steps[2] + ox * result.steps[3]
                        store(out, at, codes(steps, bounds[0], bounds[1], zy[0], lanes, y.dtype), lanes)

    names = ("weights", "bias", "multiplier", "bounds", "zero_x", "zero_y")
    params = [Param("x", physical_shape(x), x.dtype), *map(param, names, constants), Param("y", physical_shape(y), y.dtype)]
    shapes = (physical_shape(x), physical_shape(y), op.weight.shape[2:], op.strides, op.pads, op.dilations)
    name = symbol("depthwise", *types(x, y), *((sums,) if x.is_long else ()), f"w{op.weight_bits}", *shapes)
    return Kernel(name, function(name, params, body), constants, physical_shape(y), y.dtype, macs(op, y))


def sum_type(op: Conv, x: Tensor) -> str:
    """int32 where it holds every partial sum of weights times inputs less their zero point, with the bias; else int64."""
    q = x.qparams
    assert q is not None, op.name
    reach = max(q.qtype.qmax - x.zero_point, x.zero_point - q.qtype.qmin)
    weights = np.abs(op.weight.astype(np.int64)).sum(axis=(1, 2, 3))
    bias = np.abs(op.bias.astype(np.int64) + x.zero_point * op.weight.astype(np.int64).sum(axis=(1, 2, 3)))
    return "int32" if int((bias + reach * weights).max(initial=0)) < 2**31 or not x.is_long else "int64"


FORMS: Mapping[str, Callable[[Conv, Tensor, Tensor, tuple[int, int]], Kernel]] = {"dotprod": _dotted, "neon": _long, "generic": _portable}
"""The forms of mpqc/facts/features.py"""
