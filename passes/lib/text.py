"""Stable text of an ONNX graph: for golden files, diffs and bug reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

SMALL = 8
"""Constants of up to this many elements are printed in full."""


def render(model: onnx.ModelProto) -> str:
    """One line for each input, constant, node and output, in the model's order."""
    return "\n".join(_lines(model)) + "\n"


def _lines(model: onnx.ModelProto) -> Iterator[str]:
    graph = model.graph
    types = {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}
    for value in graph.input:
        yield f"input {value.name}: {type_text(value.type)}"
    for tensor in graph.initializer:
        yield f"const {tensor.name}: {_constant_text(tensor)}"
    for node in graph.node:
        yield node_text(node, types)
    for value in graph.output:
        yield f"output {value.name}: {type_text(value.type)}"


def type_text(kind: onnx.TypeProto | None) -> str:
    """`float32 1x3x8x8`; a question mark for what is unknown."""
    if kind is None or not kind.tensor_type.elem_type:
        return "?"
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)).name
    if not kind.tensor_type.HasField("shape"):
        return f"{dtype} ?"
    return f"{dtype} {_dims([dim.dim_value or dim.dim_param or '?' for dim in kind.tensor_type.shape.dim])}"


def node_text(node: onnx.NodeProto, types: dict[str, onnx.TypeProto]) -> str:
    """`y = Conv(x, w) {pads: [0, 0, 0, 0]} "name": float32 1x4x6x6`."""
    attributes = ", ".join(f"{item.name}: {_attribute_text(item)}" for item in sorted(node.attribute, key=lambda item: item.name))
    shapes = ", ".join(type_text(types.get(name)) for name in node.output if name)
    options = f" {{{attributes}}}" if attributes else ""
    return f'{", ".join(node.output)} = {node.op_type}({", ".join(node.input)}){options} "{node.name}": {shapes}'


def _dims(dims: list[Any]) -> str:
    return "x".join(str(size) for size in dims) or "scalar"


def _constant_text(tensor: onnx.TensorProto) -> str:
    array = numpy_helper.to_array(tensor)
    head = f"{array.dtype.name} {_dims(list(tensor.dims))}"
    if array.size <= SMALL:
        return f"{head} {_numbers(array.ravel().tolist())}"
    total = np.abs(array.astype(np.float64)).sum()
    return f"{head} sum|.| {total:.5g}"


def _numbers(values: list[Any]) -> str:
    return "[" + ", ".join(f"{value:.5g}" if isinstance(value, float) else str(value) for value in values) + "]"


def _attribute_text(item: onnx.AttributeProto) -> str:
    value = helper.get_attribute_value(item)
    if isinstance(value, onnx.GraphProto):
        return f"<graph of {len(value.node)} nodes>"
    if isinstance(value, onnx.TensorProto):
        return _constant_text(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return _numbers(list(value)) if not isinstance(value, (int, float, str)) else (f"{value:.5g}" if isinstance(value, float) else str(value))
