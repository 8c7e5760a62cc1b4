"""The runs of float kernels that cost rows are taken at: operators that stand for each family of facts/float_kernels.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import prod

from mpqc.cost.workload import float_shape
from mpqc.facts.kinds import FLOAT_BITS, OpKind
from mpqc.lowering.floats.alone import alone
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.timing.case import Case

Extents = tuple[int, ...]
SHAPES: tuple[Extents, ...] = ((1, 98, 64), (1, 197, 192), (3, 197, 197), (1, 10), (1, 4420, 4), (1, 64, 28, 28), (1, 172, 88), (1, 16, 400))
PRODUCTS = ((99, 64, 64), (197, 192, 192), (1, 256, 256), (16, 16, 16), (64, 400, 40), (7, 100, 50))
"""Rows, depth, columns"""
CONVS = ((16, 16, 14, 3), (1, 32, 28, 5), (64, 64, 7, 1))
"""Input channels, output channels, size, kernel"""


def float_cases(kind: OpKind) -> Iterator[Case]:
    """All runs of the kernels of one family; they are the same on every core."""
    yield from _FAMILIES[kind]()


def _alike(kind: OpKind, operators: Mapping[str, int]) -> Iterator[Case]:
    """Operators of so many operands of one shape, over the shapes in turn."""
    for index, shape in enumerate(SHAPES):
        name, operands = tuple(operators.items())[index % len(operators)]
        yield _case(kind, alone(name, (shape,) * operands, shape), operands * prod(shape), shape)


def _softmaxes() -> Iterator[Case]:
    for shape in SHAPES:
        yield _case(OpKind.FLOAT_SOFTMAX, alone("Softmax", (shape,), shape, {"axis": -1}), prod(shape), shape)


def _rows() -> Iterator[Case]:
    """Normalizations, and reductions of whole rows."""
    for shape in SHAPES[:3]:
        kernel = alone("LayerNormalization", (shape, shape[-1:], shape[-1:]), shape, {"axis": -1})
        yield _case(OpKind.FLOAT_ROWS, kernel, prod(shape), shape)
    for shape in SHAPES:
        if len(shape) > 2:
            left = (*shape[:-1], 1)
            yield _case(OpKind.FLOAT_ROWS, alone("ReduceMax", (shape,), left, {"keepdims": 1, "axes": [-1]}, opset=11), prod(shape), left)


def _moves() -> Iterator[Case]:
    for shape in SHAPES:
        if len(shape) > 2:
            order = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
            turned = tuple(shape[axis] for axis in order)
            yield _case(OpKind.FLOAT_MOVE, alone("Transpose", (shape,), turned, {"perm": order}), prod(shape), turned)


def _concats() -> Iterator[Case]:
    for shape in SHAPES:
        joined = (*shape[:-1], 2 * shape[-1])
        yield _case(OpKind.FLOAT_CONCAT, alone("Concat", (shape, shape), joined, {"axis": -1}), prod(joined), joined)


def _products() -> Iterator[Case]:
    for rows, depth, columns in PRODUCTS:
        made: Extents = (1, rows, columns)
        yield _case(OpKind.FLOAT_PRODUCT, alone("MatMul", ((1, rows, depth), (1, depth, columns)), made), 0, made, depth)
    for inputs, outputs, size, window in CONVS:
        made, weight = (1, outputs, size, size), (outputs, inputs, window, window)
        kernel = alone("Conv", ((1, inputs, size, size), weight), made, {"pads": [window // 2] * 4, "kernel_shape": [window, window]})
        yield _case(OpKind.FLOAT_PRODUCT, kernel, 0, made, inputs * window**2)


def _case(kind: OpKind, kernel: Kernel, read: int, made: tuple[int, ...], depth: int = 0) -> Case:
    return Case(kind.value, float_shape(read, made, depth), None, kernel, FLOAT_BITS)


_FAMILIES: dict[OpKind, Callable[[], Iterator[Case]]] = {
    OpKind.FLOAT_ELEMENTS: partial(_alike, OpKind.FLOAT_ELEMENTS, {"Add": 2, "Relu": 1, "Mul": 2}),
    OpKind.FLOAT_FUNCTION: partial(_alike, OpKind.FLOAT_FUNCTION, {"Erf": 1, "Exp": 1, "Tanh": 1}),
    OpKind.FLOAT_DIVISION: partial(_alike, OpKind.FLOAT_DIVISION, {"Div": 2, "Sqrt": 1}),
    OpKind.FLOAT_ROWS: _rows,
    OpKind.FLOAT_SOFTMAX: _softmaxes,
    OpKind.FLOAT_MOVE: _moves,
    OpKind.FLOAT_CONCAT: _concats,
    OpKind.FLOAT_PRODUCT: _products,
}
