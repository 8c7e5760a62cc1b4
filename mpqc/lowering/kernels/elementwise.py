"""Add, subtract, multiply with numpy broadcasting, and 256-entry tables."""

from __future__ import annotations

import numpy as np

from mpqc.lowering.kernels.elementwise_neon import LANES, Operand, Product, Sum, arithmetic, largest, look_up
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.layout import broadcast_strides, physical_shape, reordered, strides, to_physical
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
from mpqc.values.program import Binary, Table, Tensor
from mpqc.values.qtype import QParams, QType

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
    neon = target.code("binary", BINARY_FORMS)
    rounding = narrowing.constants(y.zero_point, op.low, op.high) if neon else (np.array([y.zero_point], np.int8),)
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
            store(rest[-1], at[0], codes(_combine(op.kind, left, right, s, width), s[0], s[1], zero, width), width, by[0])

        nest.emit(step, prepare)

    inputs = (Param("a", physical_shape(a), "int8"), Param("b", physical_shape(second), "int8"))
    constants = (*(() if op.constant is None else (to_physical(op.constant.astype(np.int8), second),)), *arrays)
    params = [*inputs, *(param(f"c{i}", c) for i, c in enumerate(arrays)), Param("y", physical_shape(y), "int8")]
    name = symbol(op.kind, physical_shape(y), *nest.merged.strides[1:], physical_shape(a), physical_shape(second)) + (
        narrowing.suffix + ("" if fused is None else f"_fused{fused}") if neon else ""
    )
    return Kernel(name, function(name, params, body), constants, physical_shape(y), "int8", 0)


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
    return Tensor(
        f"{op.name}.constant", op.constant.shape, "int8", QParams(QType(8), np.ones((), np.float32), np.array(op.constant_zero_point, np.int32))
    )


def _centred(source: Expr, at: Expr, width: int, by: int, zero: Expr) -> Expr:
    return cast(load(source, at, width, by), "int32", width) - splat(zero, width)


def _combine(kind: str, left: Expr, right: Expr, s: Expr, width: int) -> Expr:
    """The real result in output steps, float32 with one rounding an operation."""
    if kind == "mul":
        return cast(left * right, "float32", width) * splat(s[2], width)
    a = exact(cast(left, "float32", width) * splat(s[2], width), width)
    b = exact(cast(right, "float32", width) * splat(s[3], width), width)
    return a + b if kind == "add" else a - b


TABLE_FORMS = {"dotprod": True, "generic": False}
"""Whether sixteen codes are looked up at once"""


def table(op: Table, x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """out = op.table[x + 128], element by element; `x` and `y` have one shape. With a table for each index of an axis, those of one index that lie
    next to each other are looked up together."""
    steps = tuple(op.table.shape[-1] if axis == op.axis else 0 for axis in range(len(y.shape)))
    nest = Nest(reordered(y.shape, y), (reordered(strides(y), y), reordered(strides(x), y), reordered(steps, y)))
    entries = op.table.astype(np.int8).reshape(-1)
    looked_up = target.code("table", TABLE_FORMS) and nest.merged.sizes[-1] >= LANES and nest.merged.strides[2][-1] == 0

    def body(source: Expr, t: Expr, out: Expr) -> None:
        def step(width: int, at: list[Expr], by: list[int], rows: list[Expr]) -> None:
            value = load(source, at[1], width, by[1])
            found = look_up(value, rows) if rows and width == LANES else t[cast(value, "int32", width) + ramp(at[2] + 128, width, by[2])]
            store(out, at[0], found, width, by[0])

        nest.emit(step, lambda at: [bind(load(t, at[2] + 16 * i, 16)) for i in range(16)] if looked_up else [])

    along = () if op.axis is None else (nest.merged.sizes, nest.merged.strides[2])
    name = symbol("table", physical_shape(y), nest.merged.strides[1], *along)
    params = [Param("x", physical_shape(x), "int8"), param("table", entries), Param("y", physical_shape(y), "int8")]
    return Kernel(name, function(name, params, body), (entries,), physical_shape(y), "int8", 0)
