"""float32 to codes and back, changing between NCHW and NHWC on the way. Source: ONNX QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np

from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.layout import physical_shape, reordered, strides
from mpqc.lowering.kernels.tir import Expr, Nest, Param, cast, codes, function, load, output_bounds, param, splat, store, symbol
from mpqc.program import Tensor


def quantize(x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """Codes of float32 `x` in the qparams of `y`: numerics.quantize, by a true division. Output in the memory order of `y`."""
    q = y.qparams
    assert q is not None
    scalars = np.array([q.scale.reshape(()), *output_bounds(y.zero_point, q.qtype.qmin, q.qtype.qmax)], np.float32)
    zero = np.array([y.zero_point], np.int8)
    nest = _nest(x, y)
    name = symbol("quantize", x.shape, nest.merged.strides[0])

    def body(source: Expr, s: Expr, z: Expr, out: Expr) -> None:
        def step(width: int, at: list[Expr], by: list[int], _: None) -> None:
            quotient = load(source, at[1], width, by[1]) / splat(s[0], width)
            store(out, at[0], codes(quotient, s[1], s[2], z[0], width), width, by[0])

        nest.emit(step)

    params = [Param("x", physical_shape(x), "float32"), param("scalars", scalars), param("zero", zero), Param("y", physical_shape(y), "int8")]
    return Kernel(name, function(name, params, body), (scalars, zero), physical_shape(y), "int8", 0)


def dequantize(x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """float32 values of codes `x`: numerics.dequantize. Output in the memory order of `y`."""
    q = x.qparams
    assert q is not None
    scale, zero = np.array([q.scale.reshape(())], np.float32), np.array([x.zero_point], np.int32)
    nest = _nest(x, y)
    name = symbol("dequantize", x.shape, nest.merged.strides[1])

    def body(source: Expr, s: Expr, z: Expr, out: Expr) -> None:
        def step(width: int, at: list[Expr], by: list[int], _: None) -> None:
            centred = cast(load(source, at[1], width, by[1]), "int32", width) - splat(z[0], width)
            store(out, at[0], cast(centred, "float32", width) * splat(s[0], width), width, by[0])

        nest.emit(step)

    params = [Param("x", physical_shape(x), "int8"), param("scale", scale), param("zero", zero), Param("y", physical_shape(y), "float32")]
    return Kernel(name, function(name, params, body), (scale, zero), physical_shape(y), "float32", 0)


def _nest(x: Tensor, y: Tensor) -> Nest:
    """A walk through `y` in memory order, and through `x` beside it."""
    return Nest(reordered(y.shape, y), (reordered(strides(y), y), reordered(strides(x), y)))
