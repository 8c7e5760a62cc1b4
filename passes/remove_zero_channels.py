"""Output channels whose weights are all zero go, with the inputs of the next layer that read them.

Such a channel is the same number everywhere: its bias, through the ops in between. Where the next layer pads with zeros, only channels that
arrive as 0 can go; where it does not, their contribution is a constant and joins its bias (in float graphs; biases of QDQ graphs stay as they
are). Quantize and dequantize nodes are ops like others here, so pruned channels of a trained QDQ file disappear too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx
from onnx import NodeProto

from mpqc.passes.lib.base import PassResult, attribute
from mpqc.passes.lib.channel_graph import ChannelGraph

_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
"""Those whose output has the channels of the input in their place (a ReduceMean may move them)"""


@dataclass
class _Path:
    """From a layer with dead channels to the layer that reads them."""

    values: np.ndarray
    """What each channel is, were its weights zero: [channels]"""
    nodes: list[NodeProto] = field(default_factory=list)
    """In between, in order"""
    features: int = 1
    """Inputs of the reader for each channel (behind Flatten)"""


@dataclass(frozen=True)
class RemoveZeroChannels:
    """Conv (one group) or Gemm -> Relu, Clip, pools, Flatten, depthwise Conv, QuantizeLinear, DequantizeLinear -> Conv or Gemm."""

    name: ClassVar[str] = "remove-zero-channels"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """A layer keeps one channel at least. Tensors with other readers, and graph outputs, keep all."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        graph = ChannelGraph(copy.graph)
        removed = {node.name: count for node in copy.graph.node if (count := _prune(graph, node))}
        if not removed:
            return PassResult(model, False)
        notes = [f"{self.name}: {count} output channels of {name!r} are zero and were removed" for name, count in removed.items()]
        return PassResult(onnx.shape_inference.infer_shapes(copy, strict_mode=True), True, tuple(notes))


@dataclass(frozen=True, eq=False)
class Removable:
    """A layer whose output channels can be removed once their weights and biases are zero."""

    node: str
    weight: str
    bias: str
    """Initializer; empty where there is none"""
    axis: int
    """Of the weight, that counts output channels"""
    reader: str
    """Node that reads the channels"""
    reader_weight: str
    tensor: str
    """What the reader reads: channels along axis 1, `features` of them next to each other for each"""
    features: int
    values: np.ndarray
    """What each channel of `tensor` is once it is zero: [channels]"""
    between: tuple[str, ...]
    """Weights of depthwise convolutions on the way"""
    tensors: tuple[str, ...]
    """Everything that loses channels"""


def removable(model: onnx.ModelProto) -> tuple[Removable, ...]:
    """The float layers of `model` that `RemoveZeroChannels` can take channels of, in execution order."""
    graph = ChannelGraph(model.graph)
    return tuple(found for node in model.graph.node if (found := _removable_layer(graph, node)) is not None)


def _removable_layer(graph: ChannelGraph, node: NodeProto) -> Removable | None:
    axis = graph.output_axis(node)
    weight = None if axis is None else graph.raw(node.input[1])
    bias = node.input[2] if len(node.input) > 2 else ""
    if axis is None or weight is None or not graph.owned(node.input[1]):
        return None
    known = graph.raw(bias) if bias else None
    if bias and (known is None or known.size != weight.shape[axis] or not graph.owned(bias)):
        return None
    path = _Path(np.zeros(weight.shape[axis], np.float32))
    reader = _follow(graph, node, path)
    if (
        reader is None
        or not graph.is_float(reader.input[1])
        or _removable(graph, reader, path, np.ones(len(path.values), bool)).sum() + 1 < len(path.values)
    ):
        return None
    between = tuple(item.input[1] for item in path.nodes if item.op_type == "Conv")
    tensors = (node.output[0], *(item.output[0] for item in path.nodes))
    names = (node.name, node.input[1], bias, axis, reader.name, reader.input[1], reader.input[0])
    return Removable(*names, path.features, path.values, between, tensors)


def _prune(graph: ChannelGraph, node: NodeProto) -> int:
    """Channels of `node` that were removed."""
    axis = graph.output_axis(node)
    weight = None if axis is None else graph.value(node.input[1])
    if axis is None or weight is None or not graph.owned(node.input[1]):
        return 0
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    dead = np.asarray(~rows.any(axis=1))
    bias = graph.value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(len(rows), np.float32)
    if not dead.any() or bias is None or bias.size != len(rows):
        return 0
    path = _Path(bias.reshape(-1).astype(np.float32).copy())
    reader = _follow(graph, node, path)
    if reader is None:
        return 0
    gone = _removable(graph, reader, path, dead)
    if gone.any():
        _remove(graph, node, axis, reader, path, gone)
    return int(gone.sum())


def _follow(graph: ChannelGraph, node: NodeProto, path: _Path) -> NodeProto | None:
    """The Conv or Gemm at the end of the path; None where it leads elsewhere."""
    while (reader := graph.only_reader(node.output[0])) is not None:
        if reader.input[0] != node.output[0]:
            return None
        if graph.output_axis(reader) is not None:
            return reader if graph.value(reader.input[1]) is not None and graph.owned(reader.input[1]) else None
        if not _pass_through(graph, reader, path):
            return None
        path.nodes.append(reader)
        node = reader
    return None


def _pass_through(graph: ChannelGraph, node: NodeProto, path: _Path) -> bool:
    """Whether a channel that is one number everywhere stays so behind `node`; updates what it is and how many features it has."""
    if node.op_type == "Relu":
        path.values = np.maximum(path.values, 0)
        return True
    if node.op_type == "Clip":
        return _through_clip(graph, node, path)
    if node.op_type in _POOLS:
        return node.op_type != "AveragePool" or not any(attribute(node, "pads", ())) or not path.values.any()
    if node.op_type == "Flatten":
        shape = graph.shapes.get(node.input[0], ())
        path.features = int(np.prod(shape[2:])) if len(shape) > 2 else 1
        return bool(shape) and attribute(node, "axis", 1) == 1
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return _through_codes(graph, node, path)
    return graph.is_depthwise(node, len(path.values)) and _through_depthwise(graph, node, path)


def _through_clip(graph: ChannelGraph, node: NodeProto, path: _Path) -> bool:
    names = [name for name in node.input[1:] if name]
    bounds = [graph.value(name) if name else None for name in (*node.input[1:], "", "")[:2]]
    for bound, limit in zip(bounds, (np.maximum, np.minimum), strict=True):
        path.values = path.values if bound is None else limit(path.values, bound)
    return len(names) == sum(bound is not None for bound in bounds)


def _through_codes(graph: ChannelGraph, node: NodeProto, path: _Path) -> bool:
    scale, zero = (graph.raw(name) for name in (*node.input[1:], "")[:2])
    if scale is None or scale.size != 1 or (len(node.input) > 2 and zero is None):
        return False
    offset = np.float32(0 if zero is None else zero.astype(np.int32).reshape(-1)[0])
    step = scale.astype(np.float32).reshape(-1)[0]
    if node.op_type == "DequantizeLinear":
        path.values = ((path.values - offset) * step).astype(np.float32)
        return True
    low, high = graph.code_range(node.input[2] if len(node.input) > 2 else "")
    path.values = np.clip(np.rint(path.values / step) + offset, low, high).astype(np.float32)
    return True


def _through_depthwise(graph: ChannelGraph, node: NodeProto, path: _Path) -> bool:
    weight, bias = graph.value(node.input[1]), graph.value(node.input[2]) if len(node.input) > 2 else np.zeros(len(path.values), np.float32)
    if weight is None or bias is None or not graph.owned(node.input[1]) or (any(attribute(node, "pads", ())) and path.values.any()):
        return False
    path.values = (path.values * weight.reshape(len(weight), -1).sum(1) + bias.reshape(-1)).astype(np.float32)
    return True


def _removable(graph: ChannelGraph, reader: NodeProto, path: _Path, dead: np.ndarray) -> np.ndarray:
    """The dead channels that `reader` can do without; one channel stays."""
    silent = path.values == 0
    padded = any(attribute(reader, "pads", ()))
    foldable = not padded and graph.is_float(reader.input[1]) and (len(reader.input) < 3 or graph.is_float(reader.input[2]))
    gone = dead & (silent | foldable)
    if gone.all():
        gone[0] = False
    return gone


def _remove(graph: ChannelGraph, node: NodeProto, axis: int, reader: NodeProto, path: _Path, gone: np.ndarray) -> None:
    keep = np.flatnonzero(~gone)
    _fold_constants(graph, reader, path, gone)
    graph.take(node.input[1], keep, axis)
    if len(node.input) > 2 and node.input[2]:
        graph.take(node.input[2], keep, -1)
    for item in path.nodes:
        if item.op_type == "Conv":
            graph.take(item.input[1], keep, 0)
            if len(item.input) > 2:
                graph.take(item.input[2], keep, -1)
            graph.set_integer(item, "group", len(keep))
    features = (keep[:, None] * path.features + np.arange(path.features)).reshape(-1)
    graph.take(reader.input[1], features, graph.input_axis(reader))
    for item in (node, *path.nodes):
        graph.forget_shape(item.output[0])


def _fold_constants(graph: ChannelGraph, reader: NodeProto, path: _Path, gone: np.ndarray) -> None:
    """The constant contribution of what goes joins the bias of `reader`."""
    values = np.repeat(np.where(gone, path.values, 0), path.features)
    if not values.any():
        return
    weight = graph.value(reader.input[1])
    assert weight is not None
    rows = np.moveaxis(weight, [graph.input_axis(reader), graph.output_axis(reader) or 0], [0, 1]).astype(np.float64)
    shift = values @ rows.reshape(*rows.shape[:2], -1).sum(-1)
    graph.add_bias(reader, shift.astype(np.float32))
