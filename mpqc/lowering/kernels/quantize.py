"""float32 to codes and back, changing between NCHW and NHWC on the way. Source: ONNX QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.layout import channels_last, physical_shape, reordered, strides
from mpqc.lowering.kernels.tir import Expr, Nest, Param, T, bind, cast, codes, function, load, loop, output_bounds, param, splat, store, symbol
from mpqc.lowering.kernels.transpose import TILE, interleaved, tiles, transposed
from mpqc.values.program import Tensor


def quantize(x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """Codes of `x`, float32 or bytes, in the qparams of `y`: numerics.quantize, by a true division. Output in the memory order of `y`."""
    q = y.qparams
    assert q is not None
    scalars = np.array([q.scale.reshape(()), *output_bounds(y.zero_point, q.qtype.qmin, q.qtype.qmax)], np.float32)
    zero = np.array([y.zero_point], y.dtype)

    def body(source: Expr, s: Expr, z: Expr, out: Expr) -> None:
        def codes_of(at: Expr, width: int, by: int = 1) -> Expr:
            value = load(source, at, width, by)
            real = value if x.dtype == "float32" else cast(value, "float32", width)
            return codes(real / splat(s[0], width), s[1], s[2], z[0], width, y.dtype)

        def step(width: int, at: list[Expr], by: list[int], _: None) -> None:
            store(out, at[0], codes_of(at[1], width, by[1]), width, by[0])

        form = _form(x, y)
        if form == "tiles":
            _to_pixels(x, out, codes_of)
        elif form == "interleave":
            _interleave(x, out, codes_of)
        else:
            _nest(x, y).emit(step)

    name = symbol("quantize", *_suffix(y), *([] if x.dtype == "float32" else [x.dtype]), x.shape, _form(x, y), _nest(x, y).merged.strides[1])
    params = [Param("x", physical_shape(x), x.dtype), param("scalars", scalars), param("zero", zero), Param("y", physical_shape(y), y.dtype)]
    return Kernel(name, function(name, params, body), (scalars, zero), physical_shape(y), y.dtype, 0)


def dequantize(x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """float32 values of codes `x`: numerics.dequantize. Output in the memory order of `y`."""
    q = x.qparams
    assert q is not None
    scale, zero = np.array([q.scale.reshape(())], np.float32), np.array([x.zero_point], np.int32)

    def body(source: Expr, s: Expr, z: Expr, out: Expr) -> None:
        def value_of(vector: Expr, width: int) -> Expr:
            return cast(cast(vector, "int32", width) - splat(z[0], width), "float32", width) * splat(s[0], width)

        def step(width: int, at: list[Expr], by: list[int], _: None) -> None:
            store(out, at[0], value_of(load(source, at[1], width, by[1]), width), width, by[0])

        if _form(y, x) == "tiles":
            _to_planes(x, source, out, lambda vector: value_of(vector, TILE))
        else:
            _nest(x, y).emit(step)

    name = symbol("dequantize", *_suffix(x), x.shape, _form(y, x), _nest(x, y).merged.strides[1])
    params = [Param("x", physical_shape(x), x.dtype), param("scale", scale), param("zero", zero), Param("y", physical_shape(y), "float32")]
    return Kernel(name, function(name, params, body), (scale, zero), physical_shape(y), "float32", 0)


def _suffix(codes: Tensor) -> tuple[str, ...]:
    """Of the kernel's name."""
    return ("long",) if codes.is_long else ()


def _nest(x: Tensor, y: Tensor) -> Nest:
    """A walk through `y` in memory order, and through `x` beside it."""
    return Nest(reordered(y.shape, y), (reordered(strides(y), y), reordered(strides(x), y)))


def _form(planes: Tensor, pixels: Tensor) -> str:
    """How planes become pixels (or back): tiles, interleave (2 to 4 channels) or plain. Long codes go one by one."""
    if pixels.is_long or not channels_last(pixels) or channels_last(planes) or pixels.shape[2] * pixels.shape[3] < TILE:
        return "plain"
    if pixels.shape[1] >= TILE:
        return "tiles"
    return "interleave" if 2 <= pixels.shape[1] <= 4 else "plain"


def _to_pixels(x: Tensor, out: Expr, codes_of: Callable[[Expr, int], Expr]) -> None:
    """Tiles of sixteen channels by sixteen pixels."""
    channels, size = x.shape[1], x.shape[2] * x.shape[3]

    def tile(n: Expr, pixel: Expr, channel: Expr) -> None:
        rows = [bind(codes_of((n * channels + channel + c) * size + pixel, TILE)) for c in range(TILE)]
        for i, vector in enumerate(transposed(rows)):
            store(out, (n * size + pixel + i) * channels + channel, vector, TILE)

    tiles(x.shape[0], size, channels, tile)


def _to_planes(x: Tensor, source: Expr, out: Expr, value_of: Callable[[Expr], Expr]) -> None:
    """Tiles of sixteen pixels by sixteen channels."""
    channels, size = x.shape[1], x.shape[2] * x.shape[3]

    def tile(n: Expr, pixel: Expr, channel: Expr) -> None:
        rows = [bind(load(source, (n * size + pixel + i) * channels + channel, TILE)) for i in range(TILE)]
        for c, vector in enumerate(transposed(rows)):
            store(out, (n * channels + channel + c) * size + pixel, value_of(vector), TILE)

    tiles(x.shape[0], size, channels, tile)


def _interleave(x: Tensor, out: Expr, codes_of: Callable[[Expr, int], Expr]) -> None:
    """Sixteen pixels of two to four channels at a time; the last sixteen overlap their neighbours."""
    channels, size = x.shape[1], x.shape[2] * x.shape[3]
    whole = size // TILE
    run = next(d for d in range(min(64, whole), 0, -1) if whole % d == 0)

    def sixteen(n: Expr, pixel: Expr) -> None:
        planes = [bind(codes_of((n * channels + c) * size + pixel, TILE)) for c in range(channels)]
        store(out, (n * size + pixel) * channels, interleaved(planes, TILE), TILE * channels)

    with T.serial(0, x.shape[0]) as n:
        with loop(whole // run, run * TILE * channels) as i, T.serial(0, run) as j:
            sixteen(n, (i * run + j) * TILE)
        if size % TILE:
            sixteen(n, size - TILE)
