"""Drop nodes that hand their input on unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.surgery import close_graph, constant, input_at, open_graph, producer, unchanged


@dataclass(frozen=True)
class RemoveNoOps:
    """Identity, Dropout at inference, and Cast, Pad, Slice, Reshape, Transpose, Expand, Concat... that change nothing.

    Graph outputs keep their names: the node in front then writes the output directly. Where that is impossible (the source is a graph
    input, a constant, or an output itself) an Identity stays.
    """

    name: ClassVar[str] = "remove-no-ops"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Needs fixed shapes and types in value_info."""
        graph = open_graph(model)
        removed = [node for node in list(graph.nodes) if is_no_op(node) and not _returns_more(graph, node) and _bypass(graph, node)]
        return close_graph(graph, model) if removed else unchanged(model)


def _returns_more(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether another output than the first is an output of the network."""
    return any(tensor is output for tensor in node.outputs[1:] for output in graph.outputs)


def is_no_op(node: gs.Node) -> bool:
    """Whether the first output equals the first input for every input of the given type and shape."""
    rule = RULES.get(node.op)
    if rule is None or node.domain not in (None, "", "ai.onnx") or any(tensor.outputs for tensor in node.outputs[1:]):
        return False
    return rule(node)


def _same_type(node: gs.Node) -> bool:
    return bool(node.inputs[0].dtype == node.outputs[0].dtype)


def _same_shape(node: gs.Node) -> bool:
    return list(node.inputs[0].shape) == list(node.outputs[0].shape)


def _pads_nothing(node: gs.Node) -> bool:
    pads = constant(input_at(node, 1))
    return pads is not None and not pads.any()


def _slices_nothing(node: gs.Node) -> bool:
    """Same shape and no negative step means that everything was taken in order."""
    steps = input_at(node, 4)
    values = np.ones(1) if steps is None else constant(steps)
    return _same_shape(node) and values is not None and bool((values > 0).all())


def _permutes_nothing(node: gs.Node) -> bool:
    perm = node.attrs.get("perm")
    return list(perm) == sorted(perm) if perm is not None else len(node.inputs[0].shape) < 2


def _is_dropout_at_inference(node: gs.Node) -> bool:
    mode = input_at(node, 2)
    value = np.zeros(1, bool) if mode is None else constant(mode)
    return value is not None and not value.any()


def _keeps_all(node: gs.Node) -> bool:
    return len(node.inputs) == 1


def _unbounded(node: gs.Node) -> bool:
    low, high = (input_at(node, position) for position in (1, 2))
    limits = [constant(low) if low is not None else np.float32(-np.inf), constant(high) if high is not None else np.float32(np.inf)]
    return all(value is not None for value in limits) and bool(np.all(np.isneginf(limits[0])) and np.all(np.isposinf(limits[1])))  # type: ignore[arg-type]


RULES: Mapping[str, Callable[[gs.Node], bool]] = {
    "Cast": _same_type,
    "CastLike": _same_type,
    "Clip": _unbounded,
    "Concat": _keeps_all,
    "Dropout": _is_dropout_at_inference,
    "Expand": _same_shape,
    "Flatten": _same_shape,
    "Identity": lambda node: True,
    "Max": _keeps_all,
    "Mean": _keeps_all,
    "Min": _keeps_all,
    "Pad": _pads_nothing,
    "Reshape": _same_shape,
    "Slice": _slices_nothing,
    "Split": _same_shape,
    "Squeeze": _same_shape,
    "Sum": _keeps_all,
    "Tile": _same_shape,
    "Transpose": _permutes_nothing,
}


def _bypass(graph: gs.Graph, node: gs.Node) -> bool:
    """Connect the node's readers to its source; whether that was possible."""
    source, result = node.inputs[0], node.outputs[0]
    if not any(result is output for output in graph.outputs):
        for reader in list(result.outputs):
            _replace_input(reader, result, source)
        node.outputs.clear()
        return True
    maker = producer(source)
    if maker is None or any(source is output for output in graph.outputs):
        return _to_identity(node)
    for reader in [each for each in source.outputs if each is not node]:
        _replace_input(reader, source, result)
    node.inputs.clear()
    node.outputs.clear()
    maker.outputs[next(index for index, each in enumerate(maker.outputs) if each is source)] = result
    return True


def _replace_input(reader: gs.Node, old: gs.Tensor, new: gs.Tensor) -> None:
    for index, tensor in enumerate(list(reader.inputs)):
        if tensor is old:
            reader.inputs[index] = new


def _to_identity(node: gs.Node) -> bool:
    """An output that cannot be renamed keeps the plainest node."""
    if node.op == "Identity":
        return False
    node.op, node.attrs = "Identity", {}
    node.inputs = [node.inputs[0]]
    node.outputs = [node.outputs[0]]
    return True
