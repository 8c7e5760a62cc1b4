"""Questions about the expression behind a tensor, for passes that recognise functions written out in arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from mpqc.passes.lib.surgery import constant, input_at, producer

CLOSE = 1e-4
"""Relative slack for constants such as sqrt(2 / pi), which exporters write with few digits."""


def scalar(tensor: gs.Tensor | None) -> float | None:
    """The number in a constant of one element, else None."""
    value = constant(tensor)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 and value.dtype.kind in "fiu" else None


def close(value: float | None, wanted: float) -> bool:
    """Whether a constant is the wanted one up to `CLOSE`."""
    return value is not None and abs(value - wanted) <= CLOSE * abs(wanted)


def made_by(tensor: gs.Tensor | None, *op_types: str) -> gs.Node | None:
    """The node behind `tensor` where it is one of `op_types`."""
    node = producer(tensor) if tensor is not None else None
    return node if node is not None and node.op in op_types else None


def orders(node: gs.Node | None) -> Iterator[tuple[gs.Tensor, gs.Tensor]]:
    """Both ways to read the operands of a commutative node; nothing for None."""
    if node is not None and len(node.inputs) == 2:
        yield node.inputs[0], node.inputs[1]
        yield node.inputs[1], node.inputs[0]


def product(tensor: gs.Tensor, stop: Sequence[gs.Tensor], depth: int = 4) -> tuple[float, list[gs.Tensor]]:
    """`tensor` as number * tensors, taking Mul, Div by a number and Pow(x, 2 or 3) apart, but none of the tensors in `stop`."""
    value = scalar(tensor)
    if value is not None:
        return value, []
    node = None if any(tensor is item for item in stop) or not depth else made_by(tensor, "Mul", "Div", "Pow")
    if node is None:
        return 1.0, [tensor]
    number = scalar(node.inputs[1])
    if node.op == "Mul":
        left, right = (product(item, stop, depth - 1) for item in node.inputs)
        return left[0] * right[0], left[1] + right[1]
    if node.op == "Div" and number:
        factor, tensors = product(node.inputs[0], stop, depth - 1)
        return factor / number, tensors
    if node.op == "Pow" and number in (2.0, 3.0):
        factor, tensors = product(node.inputs[0], stop, depth - 1)
        return factor**number, tensors * int(number)
    return 1.0, [tensor]


def same(tensors: Sequence[gs.Tensor], wanted: Sequence[gs.Tensor]) -> bool:
    """Whether two lists hold the same tensors, in any order."""
    return sorted(map(id, tensors)) == sorted(map(id, wanted))


def reduced_axes(node: gs.Node) -> list[int] | None:
    """Constant axes of a reduction, counted from the front; None where they are not constant or keepdims is off."""
    axes = constant(input_at(node, 1))
    if axes is None or not node.attrs.get("keepdims", 1) or not axes.size:
        return None
    rank = len(node.inputs[0].shape)
    return sorted(int(axis) % rank for axis in np.atleast_1d(axes))
