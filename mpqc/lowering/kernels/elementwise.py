"""Add, subtract, multiply with numpy broadcasting, tables and straight lines."""

from __future__ import annotations

import numpy as np

from mpqc.lowering.kernels.elementwise_neon import LANES, Operand, Product, Sum, arithmetic, largest, look_up
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.layout import broadcast_strides, physical_shape, reordered, strides, to_physical, types
from mpqc.lowering.kernels.narrow import Narrowing
from mpqc.lowering.kernels.residual import Operands, fused_product
from mpqc.lowering.kernels.tir import (
    Expr,
    Nest,
    Param,
    bind,
    cast,
    codes,
    exact,
    function,
    load,
    output_bounds,
    param,
    ramp,
    splat,
    store,
    symbol,
)
from mpqc.values.program import Binary, Rescale, Table, Tensor
from mpqc.values.qtype import QParams, QType

WIDTHS, LONG_WIDTHS = (16, 8, 4, 2, 1), (8, 4, 2, 1)
"""Codes that are computed at once, of up to 8 bits and of more"""
BINARY_FORMS = {"neon": True, "generic": False}
"""Whether sums and products are taken sixteen at a time"""


def binary(op: Binary, a: Tensor, b: Tensor | None, y: Tensor, target: KernelTarget) -> Kernel:
    """`op` on codes of `a` and `b` (None where the second operand is `op.constant`), broadcast to `y`; see program.Binary."""
    second = _constant(op) if b is None else b
    nest = Nest(
        reordered(y.shape, y), tuple(reordered(s, y) for s in (strides(y), broadcast_strides(a, y.shape), broadcast_strides(second, y.shape)))
    )
    scalars = np.array([*output_bounds(y.zero_point, op.low, op.high), op.m_a, op.m_b], np.float32)
    zeros = np.array([a.zero_point, second.zero_point], np.int32)
    narrowing = Narrowing.of(y.zero_point, op.low, op.high, largest(op.kind, (a.zero_point, second.zero_point), op.m_a, op.m_b))
    long = any(tensor.is_long for tensor in (a, second, y))
    neon = target.code("binary", BINARY_FORMS) and not long
    rounding = narrowing.constants(y.zero_point, op.low, op.high) if neon else (np.array([y.zero_point], y.dtype),)
    arrays = (scalars, zeros, *rounding)
    fused = _fused(op, nest, (a.zero_point, second.zero_point, y.zero_point)) if neon else None

    def body(first: Expr, other: Expr, s: Expr, z: Expr, *rest: Expr) -> None:
        def prepare(at: list[Expr]) -> Sum | Product | None:
            by = nest.merged.strides
            operands = (Operand(first, by[1][-1], z[0], s[2]), Operand(other, by[2][-1], z[1], s[3]))
            return arithmetic(op.kind, operands, at[1:], narrowing, rest[:3], fused) if neon and nest.merged.sizes[-1] >= LANES else None

        def step(width: int, at: list[Expr], by: list[int], sixteen: Sum | Product | None) -> None:
            if sixteen and width == LANES:
                store(rest[-1], at[0], sixteen.codes(at[1:]), width, by[0])
                return
            left = _centred(first, at[1], width, by[1], z[0])
            right = _centred(other, at[2], width, by[2], z[1])
            zero = cast(rest[1][0], "int8", 1) if neon else rest[0][0]
            real = _combine("long mul" if long and op.kind == "mul" else op.kind, left, right, s, width)
            store(rest[-1], at[0], codes(real, s[0], s[1], zero, width, y.dtype), width, by[0])

        nest.emit(step, prepare, widths=LONG_WIDTHS if long else WIDTHS)

    inputs = (Param("a", physical_shape(a), a.dtype), Param("b", physical_shape(second), second.dtype))
    constants = (*(() if op.constant is None else (to_physical(op.constant.astype(second.dtype), second),)), *arrays)
    params = [*inputs, *(param(f"c{i}", c) for i, c in enumerate(arrays)), Param("y", physical_shape(y), y.dtype)]
    name = symbol(op.kind, *types(a, second, y), physical_shape(y), *nest.merged.strides[1:], physical_shape(a), physical_shape(second)) + (
        narrowing.suffix + ("" if fused is None else f"_fused{fused}") if neon else ""
    )
    return Kernel(name, function(name, params, body), constants, physical_shape(y), y.dtype, 0)


def _fused(op: Binary, nest: Nest, zero_points: tuple[int, int, int]) -> int | None:
    """Which operand's product the neon sum may leave unrounded: one whose codes change along the innermost loop."""
    if op.kind != "add" or op.m_a <= 0 or op.m_b <= 0:
        return None
    found = fused_product(Operands(zero_points, (float(np.float32(op.m_a)), float(np.float32(op.m_b)))))
    index = {"none": None, "made": 0, "other": 1}[found]
    return None if index is None or nest.merged.strides[1 + index][-1] == 0 else index


def _constant(op: Binary) -> Tensor:
    """The constant operand as a tensor."""
    assert op.constant is not None, op.name
    q = QParams(QType(op.constant.dtype.itemsize * 8), np.ones((), np.float32), np.array(op.constant_zero_point, np.int32))
    return Tensor(f"{op.name}.constant", op.constant.shape, op.constant.dtype.name, q)


def _centred(source: Expr, at: Expr, width: int, by: int, zero: Expr) -> Expr:
    return cast(load(source, at, width, by), "int32", width) - splat(zero, width)


def _combine(kind: str, left: Expr, right: Expr, s: Expr, width: int) -> Expr:
    """The real result in output steps, float32 with one rounding an operation."""
    if kind == "long mul":  # float32 of the product that int32 may not hold
        product = cast(left, "float32", width) * cast(right, "float32", width)
        return exact(product, width) * splat(s[2], width)
    if kind == "mul":
        return cast(left * right, "float32", width) * splat(s[2], width)
    a = exact(cast(left, "float32", width) * splat(s[2], width), width)
    b = exact(cast(right, "float32", width) * splat(s[3], width), width)
    return a + b if kind == "add" else a - b


TABLE_FORMS = {"dotprod": True, "generic": False}
"""Whether sixteen codes are looked up at once"""


def table(op: Table, x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """out = op.table[x + n / 2] of n entries, element by element; `x` and `y` have one shape. With a table for each index of an axis, those of
    one index that lie next to each other are looked up together."""
    steps = tuple(op.table.shape[-1] if axis == op.axis else 0 for axis in range(len(y.shape)))
    nest = Nest(reordered(y.shape, y), (reordered(strides(y), y), reordered(strides(x), y), reordered(steps, y)))
    entries, half = op.table.astype(y.dtype).reshape(-1), op.table.shape[-1] // 2
    long = x.is_long or y.is_long
    looked_up = target.code("table", TABLE_FORMS) and not long and nest.merged.sizes[-1] >= LANES and nest.merged.strides[2][-1] == 0

    def body(source: Expr, t: Expr, out: Expr) -> None:
        def step(width: int, at: list[Expr], by: list[int], rows: list[Expr]) -> None:
            value = load(source, at[1], width, by[1])
            found = look_up(value, rows) if rows and width == LANES else t[cast(value, "int32", width) + ramp(at[2] + half, width, by[2])]
            store(out, at[0], found, width, by[0])

        def entries_at(at: list[Expr]) -> list[Expr]:
            return [bind(load(t, at[2] + 16 * i, 16)) for i in range(16)] if looked_up else []

        nest.emit(step, entries_at, widths=LONG_WIDTHS if long else WIDTHS)

    along = () if op.axis is None else (nest.merged.sizes, nest.merged.strides[2])
    name = symbol("table", *types(x, y), *((len(entries),) if long else ()), physical_shape(y), nest.merged.strides[1], *along)
    params = [Param("x", physical_shape(x), x.dtype), param("table", entries), Param("y", physical_shape(y), y.dtype)]
    return Kernel(name, function(name, params, body), (entries,), physical_shape(y), y.dtype, 0)


def rescale(op: Rescale, x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """A straight line over the codes of `x`, element by element, see program.Rescale; `x` and `y` have one shape."""
    nest = Nest(reordered(y.shape, y), (reordered(strides(y), y), reordered(strides(x), y)))
    scalars = np.array([*output_bounds(y.zero_point, op.low, op.high), op.multiplier, op.offset], np.float32)
    zeros, rounding = np.array([x.zero_point], np.int32), np.array([y.zero_point], y.dtype)

    def body(source: Expr, s: Expr, zero: Expr, end: Expr, out: Expr) -> None:
        def step(width: int, at: list[Expr], by: list[int], _: None) -> None:
            product = exact(cast(_centred(source, at[1], width, by[1], zero[0]), "float32", width) * splat(s[2], width), width)
            real = product + splat(s[3], width) if op.offset else product
            store(out, at[0], codes(real, s[0], s[1], end[0], width, y.dtype), width, by[0])

        nest.emit(step, widths=LONG_WIDTHS)

    constants = (scalars, zeros, rounding)
    name = symbol("rescale", *types(x, y), "offset" if op.offset else "plain", physical_shape(y), nest.merged.strides[1])
    params = [Param("x", physical_shape(x), x.dtype), *map(param, ("scalars", "zero", "end"), constants), Param("y", physical_shape(y), y.dtype)]
    return Kernel(name, function(name, params, body), constants, physical_shape(y), y.dtype, 0)
