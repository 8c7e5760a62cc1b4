"""Nodes that stay float as stretches of their own, so that each can be tried before anything slow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx

from mpqc.frontend.importer import shape_and_dtype
from mpqc.passes.lib.evaluate import single_node_model, type_of
from mpqc.values.program import Float, Tensor
from mpqc.values.site import FloatNode


@dataclass(frozen=True, eq=False)
class Stretch:
    """One node as a float op, its tensors under names of their own: equal nodes have equal models."""

    node: FloatNode
    op: Float
    tensors: Mapping[str, Tensor]
    """The op's inputs"""


def stretches(model: onnx.ModelProto, floats: Iterable[FloatNode]) -> Iterator[Stretch]:
    """A stretch for each of `floats`, in execution order. `model`: canonical, with a type for every tensor."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    types = {value.name: value.type for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    types |= {name: type_of(tensor) for name, tensor in constants.items()}
    wanted = {each.name: each for each in floats}
    for node in model.graph.node:
        if node.name in wanted:
            alone = single_node_model(node, types, constants, model.opset_import)
            for value in alone.graph.output:
                value.type.CopyFrom(types[value.name])
            yield _stretch(wanted[node.name], _anonymous(alone))


def _anonymous(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` of one node without the names of the network."""
    graph = model.graph
    values = (*graph.input, *graph.initializer, *graph.output)
    names = {value.name: f"t{index}" for index, value in enumerate(values)} | {"": ""}
    for value in values:
        value.name = names[value.name]
    node = graph.node[0]
    node.name = "node"
    node.input[:] = [names[name] for name in node.input]
    node.output[:] = [names[name] for name in node.output]
    return model


def _stretch(node: FloatNode, model: onnx.ModelProto) -> Stretch:
    tensors = {value.name: Tensor(value.name, *shape_and_dtype(value.type)) for value in model.graph.input}
    outputs = tuple(value.name for value in model.graph.output)
    op = Float(node.name, tuple(tensors), outputs, model.SerializeToString(deterministic=True), (node.op_type,), node.reason, (node.name,))
    return Stretch(node, op, tensors)
