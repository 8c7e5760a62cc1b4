"""Resize of codes by explicit source positions, nearest and bilinear."""

from __future__ import annotations

import numpy as np

from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.layout import physical_shape, types
from mpqc.lowering.kernels.tir import (
    Expr,
    Param,
    T,
    bind,
    cast,
    codes,
    exact,
    function,
    load,
    loop,
    output_bounds,
    param,
    pieces,
    splat,
    store,
    symbol,
)
from mpqc.values.program import Resize, Tensor


def resize(op: Resize, x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """`op` on the codes of rank-4 `x`; see program.Resize, numerics.resize_nearest and numerics.resize_linear."""
    return _nearest(op, x, y) if op.mode == "nearest" else _linear(op, x, y)


def _nearest(op: Resize, x: Tensor, y: Tensor) -> Kernel:
    n, channels, height, width = y.shape
    rows, columns = op.rows.astype(np.int32), op.columns.astype(np.int32)

    def body(source: Expr, r: Expr, c: Expr, out: Expr) -> None:
        with loop(n * height, width * channels) as i:
            row = bind((T.floordiv(i, height) * x.shape[2] + r[T.floormod(i, height)]) * x.shape[3])
            with T.serial(0, width) as j:
                start = bind((row + c[j]) * channels)
                for first, repeats, lanes in pieces(channels):
                    with T.serial(0, repeats) as k:
                        at = first + k * lanes
                        store(out, (i * width + j) * channels + at, load(source, start + at, lanes), lanes)

    params = [Param("x", physical_shape(x), x.dtype), param("rows", rows), param("columns", columns), Param("y", physical_shape(y), y.dtype)]
    name = symbol("resize_nearest", *types(x, y), physical_shape(x), physical_shape(y))
    return Kernel(name, function(name, params, body), (rows, columns), physical_shape(y), y.dtype, 0)


def _pairs(positions: np.ndarray, size: int) -> np.ndarray:
    """Lower and upper neighbours: int32 [2n]."""
    return np.concatenate([positions, np.minimum(positions + 1, size - 1)]).astype(np.int32)


def _blend(weights: np.ndarray) -> np.ndarray:
    """Weights of the lower and of the upper neighbours: float32 [2n]."""
    upper = weights.astype(np.float32)
    return np.concatenate([np.float32(1) - upper, upper])


def _linear(op: Resize, x: Tensor, y: Tensor) -> Kernel:
    assert op.row_weights is not None, op.name
    assert op.column_weights is not None, op.name
    n, channels, height, width = y.shape
    positions = (_pairs(op.rows, x.shape[2]), _pairs(op.columns, x.shape[3]))
    scalars = np.array([x.zero_point, op.multiplier, *output_bounds(y.zero_point, op.low, op.high)], np.float32)
    constants = (*positions, _blend(op.row_weights), _blend(op.column_weights), scalars, np.array([y.zero_point], y.dtype))
    plain = op.multiplier == 1.0

    def body(source: Expr, r: Expr, c: Expr, wr: Expr, wc: Expr, s: Expr, z: Expr, out: Expr) -> None:
        with loop(n * height, 4 * width * channels) as i:
            image, oy = bind(T.floordiv(i, height) * x.shape[2]), bind(T.floormod(i, height))
            rows = [bind((image + r[oy + k * height]) * x.shape[3]) for k in (0, 1)]
            with T.serial(0, width) as ox:
                corners = [[bind((row + c[ox + k * width]) * channels) for k in (0, 1)] for row in rows]
                for first, repeats, lanes in pieces(channels):
                    with T.serial(0, repeats) as k:
                        at = first + k * lanes
                        across = [_mix([load(source, corner + at, lanes) for corner in pair], wc, ox, width, lanes) for pair in corners]
                        value = _sum(across, wr, oy, height, lanes) - splat(s[0], lanes)
                        value = value if plain else exact(value * splat(s[1], lanes), lanes)
                        store(out, (i * width + ox) * channels + at, codes(value, s[2], s[3], z[0], lanes, y.dtype), lanes)

    names = ("rows", "columns", "row_weights", "column_weights", "scalars", "zero")
    params = [Param("x", physical_shape(x), x.dtype), *map(param, names, constants), Param("y", physical_shape(y), y.dtype)]
    name = symbol("resize_linear" if plain else "resize_linear_scaled", *types(x, y), physical_shape(x), physical_shape(y))
    return Kernel(name, function(name, params, body), constants, physical_shape(y), y.dtype, 0)


def _mix(values: list[Expr], weights: Expr, at: Expr, count: int, lanes: int) -> Expr:
    """Blend of two vectors of codes."""
    return _sum([cast(value, "float32", lanes) for value in values], weights, at, count, lanes)


def _sum(values: list[Expr], weights: Expr, at: Expr, count: int, lanes: int) -> Expr:
    """lower * (1 - w) + upper * w, one rounding an operation."""
    lower, upper = (exact(value * splat(weights[at + k * count], lanes), lanes) for k, value in enumerate(values))
    return lower + upper
