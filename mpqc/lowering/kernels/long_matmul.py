"""Products of two activations of which one has codes of more than 8 bits: portable loops, which LLVM turns into SMLAL.

Rows of the second operand are read in vectors along the columns, a few rows of the first share them.
"""

from __future__ import annotations

from math import prod

import numpy as np

from mpqc.lowering.kernels.batch import batch
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.kernels.layout import types
from mpqc.lowering.kernels.tir import (
    Expr,
    Param,
    T,
    bind,
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
from mpqc.values.program import MatMul, Tensor

ROWS = 4
"""Rows of a register tile"""
COLUMNS = (8, 4, 2, 1)
"""Widths of its columns, widest first"""


def long_matmul(op: MatMul, a: Tensor, b: Tensor, y: Tensor) -> Kernel:
    """`op` on codes of `a` [..., M, K] and `b` [..., K, N] of any types, rows contiguous; see program.MatMul and numerics.matmul."""
    sums = _sum_type(a, b)
    zeros = np.array([a.zero_point, b.zero_point], np.int32)
    scalars = np.array([*output_bounds(y.zero_point, op.low, op.high), op.multiplier], np.float32)
    constants = (zeros, scalars, np.array([y.zero_point], y.dtype))
    rows, columns, depth = y.shape[-2], y.shape[-1], a.shape[-1]

    def body(left: Expr, right: Expr, z: Expr, s: Expr, end: Expr, out: Expr) -> None:
        for first_row, row_blocks, count in pieces(rows, (ROWS, 2, 1)):
            with loop(prod(y.shape[:-2]) * row_blocks, count * columns * depth) as task:
                n, row = bind(T.floordiv(task, row_blocks)), bind(first_row + T.floormod(task, row_blocks) * count)
                a_at = bind((batch(n, y.shape, a.shape) * rows + row) * depth)
                b_at = bind(batch(n, y.shape, b.shape) * (depth * columns))
                for first, repeats, lanes in pieces(columns, COLUMNS):
                    with T.serial(0, repeats) as block:
                        column = first + block * lanes
                        total = registers(count * lanes, sums)
                        for i in range(count):
                            store(total, i * lanes, splat(T.cast(0, sums), lanes), lanes)
                        with T.serial(0, depth) as k:
                            other = _centred(load(right, b_at + k * columns + column, lanes), z[1], lanes)
                            for i in range(count):
                                one = splat(_centred(left[a_at + i * depth + k], z[0], 1), lanes)
                                product = cast(other, sums, lanes) * cast(one, sums, lanes)  # of two extended vectors: SMLAL
                                store(total, i * lanes, load(total, i * lanes, lanes) + product, lanes)
                        for i in range(count):
                            real = cast(load(total, i * lanes, lanes), "float32", lanes) * splat(s[2], lanes)
                            at = (n * rows + row + i) * columns + column
                            store(out, at, codes(real, s[0], s[1], end[0], lanes, y.dtype), lanes)

    params = [Param("a", a.shape, a.dtype), Param("b", b.shape, b.dtype), *map(param, ("zeros", "scalars", "end"), constants)]
    name = symbol("matmul", *types(a, b, y), sums, a.shape, b.shape)
    return Kernel(name, function(name, [*params, Param("y", y.shape, y.dtype)], body), constants, y.shape, y.dtype, prod(y.shape) * depth)


def _centred(values: Expr, zero: Expr, lanes: int) -> Expr:
    return bind(cast(values, "int32", lanes) - splat(zero, lanes))


def _sum_type(a: Tensor, b: Tensor) -> str:
    """int32 where it holds all sums, else int64."""
    reach = a.shape[-1]
    for tensor in (a, b):
        q = tensor.qparams
        assert q is not None, tensor.name
        reach *= max(q.qtype.qmax - tensor.zero_point, tensor.zero_point - q.qtype.qmin)
    return "int32" if reach < 2**31 else "int64"
