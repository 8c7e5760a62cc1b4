"""Write every window attribute of convolutions and pools out: kernel_shape, strides, pads, dilations; auto_pad goes.

SAME_UPPER/SAME_LOWER: out = ceil(in / stride), total padding = (out - 1) * stride + (kernel - 1) * dilation + 1 - in, at least 0, the odd
cell at the end (UPPER) or the beginning (LOWER). ConvTranspose: out = in * stride, total = (in - 1) * stride + output_padding +
(kernel - 1) * dilation + 1 - out; with output_shape the same formula from the asked-for out. Source: ONNX Conv-11, ConvTranspose-11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx
from onnx import helper

from mpqc.errors import ModelError
from mpqc.passes.base import PassResult

WINDOWED = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"})
Ints = Sequence[int]


@dataclass(frozen=True)
class ExplicitWindows:
    """After this pass nobody needs defaults or auto_pad: kernel_shape, strides, pads, dilations (and group) are always there."""

    name: ClassVar[str] = "explicit-windows"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Needs fixed shapes in value_info."""
        explicit = onnx.ModelProto()
        explicit.CopyFrom(model)
        shapes = _shapes(explicit.graph)
        for node in explicit.graph.node:
            if node.op_type in WINDOWED and node.domain in ("", "ai.onnx"):
                _make_explicit(node, shapes)
        changed = any(old != new for old, new in zip(model.graph.node, explicit.graph.node, strict=True))
        return PassResult(explicit if changed else model, changed)


def _shapes(graph: onnx.GraphProto) -> dict[str, list[int]]:
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (*graph.input, *graph.value_info)}
    return {**shapes, **{tensor.name: list(tensor.dims) for tensor in graph.initializer}}


def _make_explicit(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> None:
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    size = shapes[node.input[0]][2:]
    kernel = list(given.get("kernel_shape") or shapes[node.input[1]][2:])
    if not len(kernel) == len(size):
        raise ModelError(f"a window of {len(kernel)} axes on {len(size)} spatial axes", where=f"{node.op_type} {node.name!r}")
    window = _Window(
        size,
        kernel,
        list(given.get("strides") or [1] * len(kernel)),
        list(given.get("dilations") or [1] * len(kernel)),
        list(given.get("output_padding") or [0] * len(kernel)),
    )
    auto = given.pop("auto_pad", b"NOTSET").decode()
    pads = _pads(node, window, auto, given)
    given.pop("output_shape", None)
    given.update(kernel_shape=kernel, strides=window.strides, dilations=window.dilations, pads=pads)
    if node.op_type in ("Conv", "ConvTranspose"):
        given.setdefault("group", 1)
    if node.op_type == "LpPool" and all(size == 1 for size in window.dilations):
        given.pop("dilations")
    _write(node, given)


@dataclass(frozen=True)
class _Window:
    size: Ints
    kernel: Ints
    strides: Ints
    dilations: Ints
    output_padding: Ints

    def extent(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1


def _pads(node: onnx.NodeProto, window: _Window, auto: str, given: dict[str, Any]) -> list[int]:
    rank = len(window.kernel)
    if node.op_type == "ConvTranspose" and (given.get("output_shape") or auto.startswith("SAME")):
        return _split(_transposed_totals(window, given.get("output_shape")), auto == "SAME_UPPER")
    if auto == "NOTSET":
        return list(given.get("pads") or [0] * 2 * rank)
    if auto == "VALID":
        return [0] * 2 * rank
    totals = [_same_total(window, axis) for axis in range(rank)]
    return _split(totals, auto == "SAME_UPPER")


def _same_total(window: _Window, axis: int) -> int:
    out = -(-window.size[axis] // window.strides[axis])
    return max((out - 1) * window.strides[axis] + window.extent(axis) - window.size[axis], 0)


def _transposed_totals(window: _Window, output_shape: Ints | None) -> list[int]:
    totals = []
    for axis, size in enumerate(window.size):
        out = output_shape[-len(window.kernel) + axis] if output_shape else size * window.strides[axis]
        totals.append((size - 1) * window.strides[axis] + window.output_padding[axis] + window.extent(axis) - out)
    return totals


def _split(totals: Ints, upper: bool) -> list[int]:
    """The odd cell at the end for SAME_UPPER, at the beginning otherwise."""
    begins = [total // 2 if upper else total - total // 2 for total in totals]
    return [*begins, *(total - begin for total, begin in zip(totals, begins, strict=True))]


def _write(node: onnx.NodeProto, values: dict[str, Any]) -> None:
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(name, values[name]) for name in sorted(values))
