"""A read-only view of an ONNX graph as plain Python values, for code that asks questions of it without importing onnx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


@dataclass(frozen=True, eq=False)
class NodeView:
    """One ONNX node. `attributes` holds Python and numpy values; strings are decoded; subgraphs are left out."""

    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def input(self, index: int) -> str:
        """The name of input `index`, empty where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(frozen=True, eq=False)
class GraphView:
    """Nodes in execution order, constants, shapes and numpy dtype names of a graph whose shapes are all fixed."""

    nodes: tuple[NodeView, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]

    @cached_property
    def producer(self) -> Mapping[str, NodeView]:
        """Tensor name -> the node that writes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[NodeView, ...]]:
        """Tensor name -> the nodes that read it, each once, in execution order."""
        readers: dict[str, list[NodeView]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, () where the graph does not say."""
        return self.shapes.get(name, ())

    def data_inputs(self, node: NodeView) -> tuple[str, ...]:
        """The inputs of `node` that are not constants, in order, each once."""
        return tuple(dict.fromkeys(name for name in node.inputs if name and name not in self.constants))


def view(model: onnx.ModelProto) -> GraphView:
    """The main graph of `model` as values; initializers and Constant nodes become `constants` (numpy arrays)."""
    graph = model.graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    nodes = []
    for node in graph.node:
        seen = _node(node)
        if node.op_type == "Constant" and "value" in seen.attributes:
            constants[node.output[0]] = seen.attributes["value"]
        else:
            nodes.append(seen)
    shapes, dtypes = _types(graph)
    shapes |= {name: value.shape for name, value in constants.items()}
    dtypes |= {name: value.dtype.name for name, value in constants.items()}
    inputs = tuple(item.name for item in graph.input if item.name not in constants)
    return GraphView(tuple(nodes), inputs, tuple(item.name for item in graph.output), constants, shapes, dtypes)


def _node(node: onnx.NodeProto) -> NodeView:
    attributes = {item.name: _value(item) for item in node.attribute if item.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)}
    return NodeView(node.name or node.output[0], node.op_type, node.domain, tuple(node.input), tuple(node.output), attributes)


def _value(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return list(value) if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


def _types(graph: onnx.GraphProto) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    shapes, dtypes = {}, {}
    for item in [*graph.input, *graph.output, *graph.value_info]:
        tensor = item.type.tensor_type
        if tensor.elem_type:
            dtypes[item.name] = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
            shapes[item.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return shapes, dtypes
