"""A QDQ file whose first input is bytes: the numbers that the application has, without a copy in float."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper


def with_byte_input(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy of `model` whose input `name` is uint8 and cast to float before its first readers: the same function of whole numbers 0..255."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    real, node = (_free(graph, f"{name}_{part}") for part in ("real", "bytes"))
    for reader in graph.node:
        for index, read in enumerate(reader.input):
            if read == name:
                reader.input[index] = real
    graph.node.insert(0, helper.make_node("Cast", [name], [real], node, to=TensorProto.FLOAT))
    value = next(item for item in graph.input if item.name == name)
    value.type.tensor_type.elem_type = TensorProto.UINT8
    return copy


def _free(graph: onnx.GraphProto, base: str) -> str:
    used = {name for node in graph.node for name in (node.name, *node.input, *node.output)}
    return next(name for name in (base, *(f"{base}_{count}" for count in range(1, len(used) + 2))) if name not in used)
