"""onnx-graphsurgeon as the passes use it: open a model, edit producers and consumers, close it again.

Node order is kept as edited (no re-sorting), so texts and digests stay stable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from mpqc.passes.lib.base import PassResult


def open_graph(model: onnx.ModelProto) -> gs.Graph:
    """An editable copy of `model`'s graph."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return gs.import_onnx(copy)


def close_graph(graph: gs.Graph, model: onnx.ModelProto, notes: Iterable[str] = ()) -> PassResult:
    """The changed result: `graph` without dead nodes, under `model`'s header."""
    graph.cleanup(remove_unused_graph_inputs=False)
    edited = onnx.ModelProto()
    edited.CopyFrom(model)
    edited.graph.CopyFrom(gs.export_onnx(graph, do_type_check=False).graph)
    return PassResult(edited, True, tuple(notes))


def unchanged(model: onnx.ModelProto, notes: Iterable[str] = ()) -> PassResult:
    """The result of a pass that found nothing to do."""
    return PassResult(model, False, tuple(notes))


def constant(tensor: gs.Tensor | None) -> np.ndarray | None:
    """The value of a constant tensor, None for any other."""
    return np.asarray(tensor.values) if isinstance(tensor, gs.Constant) else None


def input_at(node: gs.Node, position: int) -> gs.Tensor | None:
    """The tensor at an input position, None where it is absent."""
    if position >= len(node.inputs) or node.inputs[position].is_empty():
        return None
    return node.inputs[position]


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that makes a tensor; None for inputs and constants."""
    return tensor.inputs[0] if not isinstance(tensor, gs.Constant) and tensor.inputs else None


def only_reader(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The node that reads `tensor` where exactly one does, once, and it is no graph output.

    Nodes inside If and Loop bodies count: graphsurgeon gives them the same tensor objects.
    """
    if any(tensor is output for output in graph.outputs) or len(tensor.outputs) != 1:
        return None
    node = tensor.outputs[0]
    return node if sum(item is tensor for item in node.inputs) == 1 else None


def read_only_by(graph: gs.Graph, tensor: gs.Tensor, node: gs.Node) -> bool:
    """Whether `node` is the one reader of `tensor`."""
    return only_reader(graph, tensor) is node


def free_name(graph: gs.Graph, base: str) -> str:
    """`base`, numbered where a tensor or node has that name already."""
    used = set(graph.tensors()) | {node.name for node in graph.nodes}
    name, count = base, 0
    while name in used:
        count += 1
        name = f"{base}_{count}"
    return name


def set_constant(graph: gs.Graph, node: gs.Node, position: int, value: np.ndarray, role: str) -> None:
    """Write `value` as the node's constant input at `position`, in place where no other node reads it."""
    old = input_at(node, position)
    if isinstance(old, gs.Constant) and len(old.outputs) == 1:
        old.values = np.array(value, order="C")
        return
    base = old.name if isinstance(old, gs.Constant) else f"{node.name}.{role}"
    made = gs.Constant(free_name(graph, base), np.array(value, order="C"))
    while len(node.inputs) <= position:
        node.inputs.append(gs.Variable.empty())
    node.inputs[position] = made


def take_over_output(node: gs.Node, after: gs.Node) -> None:
    """`node` produces what `after` produced, under that name; `after` is left without outputs and goes at cleanup."""
    outputs = list(after.outputs)
    after.outputs.clear()
    node.outputs = outputs
    after.inputs.clear()


def insert_after(graph: gs.Graph, anchor: gs.Node, node: gs.Node) -> None:
    """Put a new node right behind `anchor` in execution order."""
    graph.nodes.insert(next(index for index, each in enumerate(graph.nodes) if each is anchor) + 1, node)


def channel_values(value: np.ndarray, shape: Sequence[int], axis: int) -> np.ndarray | None:
    """`value` as a vector of shape[axis] numbers where it varies along that axis at most and broadcasts into `shape`, else None."""
    if value.ndim > len(shape):
        return None
    full = value.reshape([1] * (len(shape) - value.ndim) + list(value.shape))
    others = [size for index, size in enumerate(full.shape) if index != axis]
    if any(size != 1 for size in others) or full.shape[axis] not in (1, shape[axis]):
        return None
    return np.broadcast_to(full.reshape(-1), (shape[axis],)).copy()
