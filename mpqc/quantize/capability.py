"""What can run on integers: for each ONNX node, its role in the integer program or the reason why it stays float.

The role of an op is in the table of ops; here is what a node of it must be like. A node that is refused is reported by name and never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from mpqc.facts.ops import CARRYING, Role, facts
from mpqc.quantize.functions import channel_axis

if TYPE_CHECKING:
    from mpqc.frontend.view import GraphView, NodeView


@dataclass(frozen=True)
class Capability:
    """`role` with the data inputs that it reads, or `reason` why the node stays float."""

    role: Role | None = None
    reason: str = ""


def capability(node: NodeView, graph: GraphView) -> Capability:
    """The role of `node` in the integer program, or the reason for keeping it float."""
    row = facts(node.op_type, node.domain)
    data = graph.data_inputs(node)
    if row.role is None or row.reason:
        return Capability(reason=row.reason)
    if not data:
        return Capability(reason="all inputs are constants")
    if not all(graph.dtypes.get(name) == "float32" for name in (*data[:1], node.outputs[0])):
        return Capability(reason=f"{graph.dtypes.get(data[0], 'unknown')} arithmetic stays as it is")
    if not all(graph.shape(name) for name in (data[0], node.outputs[0])):
        return Capability(reason="a scalar, or a tensor whose shape is not known")
    if 0 in graph.shape(node.outputs[0]):
        return Capability(reason="the output is empty")
    reason = _check(node.op_type, row.role)(node, graph)
    return Capability(reason=reason) if reason else Capability(Role.PRODUCT if row.role is Role.MAC and node.input(1) in data else row.role)


def is_table(node: NodeView, graph: GraphView) -> bool:
    """Whether a node of an elementwise op is a function of one value: everything else that it reads is one number."""
    data = graph.data_inputs(node)
    numbers = all(graph.constants[name].size == 1 for name in node.inputs if name in graph.constants)
    return len(data) == 1 and numbers and graph.shape(data[0]) == graph.shape(node.outputs[0])


def _constant(name: str, graph: GraphView) -> bool:
    return not name or name in graph.constants


def _conv(node: NodeView, graph: GraphView) -> str:
    rank = len(graph.shape(node.input(0)))
    if rank not in (3, 4):
        return f"convolution over {rank - 2} dimensions has no integer kernel"
    if not _constant(node.input(1), graph) or node.input(0) in graph.constants:
        return "the weight is computed by the network"
    return _bias(node, graph)


def _bias(node: NodeView, graph: GraphView) -> str:
    return "" if _constant(node.input(2), graph) else "the bias is computed by the network"


def _gemm(node: NodeView, graph: GraphView) -> str:
    if node.input(0) in graph.constants or (node.input(2) and not _constant(node.input(1), graph)):
        return "the weight is computed by the network"
    plain = not node.attributes.get("transA", 0) and node.attributes.get("alpha", 1.0) == node.attributes.get("beta", 1.0) == 1.0
    if not plain:
        return "Gemm with transA, alpha or beta has no integer kernel"
    if not _constant(node.input(1), graph):
        return _matmul_of_activations(node, graph)
    bias = graph.constants.get(node.input(2))
    if bias is not None and bias.size not in (1, graph.shape(node.outputs[0])[-1]):
        return "the bias is not one value an output column"
    return _bias(node, graph)


def _matmul(node: NodeView, graph: GraphView) -> str:
    weight = graph.constants.get(node.input(1))
    if weight is None:
        return _matmul_of_activations(node, graph)
    return "" if weight.ndim == 2 else f"a weight of {weight.ndim} dimensions has no integer kernel"


def _matmul_of_activations(node: NodeView, graph: GraphView) -> str:
    if node.input(0) in graph.constants:
        return "the weight is on the left"
    a, b = graph.shape(node.input(0)), graph.shape(node.input(1))
    if min(len(a), len(b)) < 2:
        return "the product of a vector has no integer kernel"
    return f"{a[-1]} products of two activations may overflow int32" if a[-1] * 255 * 255 >= 2**31 else ""


def _binary(node: NodeView, graph: GraphView) -> str:
    constant = next((graph.constants[name] for name in node.inputs if name in graph.constants), None)
    if constant is not None and not np.all(np.isfinite(constant)):
        return "the constant operand is not finite"
    if len(graph.shape(node.outputs[0])) > 6:
        return "more than six dimensions"
    return ""


def _table(node: NodeView, graph: GraphView) -> str:
    return "" if is_table(node, graph) else f"{node.op_type} of more than one tensor has no integer kernel"


def _clamp(node: NodeView, graph: GraphView) -> str:
    return "" if all(_constant(name, graph) for name in node.inputs[1:]) else f"the bounds of {node.op_type} are computed by the network"


def _prelu(node: NodeView, graph: GraphView) -> str:
    if is_table(node, graph):
        return ""
    slope = graph.constants.get(node.input(1))
    if slope is None or node.input(0) in graph.constants:
        return "the slopes of PRelu are computed by the network"
    along = channel_axis(slope.shape, graph.shape(node.input(0)))
    return "" if along is not None else "PRelu with slopes along several axes has no integer kernel"


def _max_pool(node: NodeView, graph: GraphView) -> str:
    if len(node.outputs) > 1 and node.outputs[1]:
        return "MaxPool with indices has no integer kernel"
    return _pool(node, graph)


def _pool(node: NodeView, graph: GraphView) -> str:
    rank = len(graph.shape(node.input(0)))
    return "" if rank in (3, 4) else f"pooling over {rank - 2} dimensions has no integer kernel"


def _reduce_mean(node: NodeView, graph: GraphView) -> str:
    rank = len(graph.shape(node.input(0)))
    axes = node.attributes.get("axes", graph.constants.get(node.input(1)))
    if axes is None or not _constant(node.input(1), graph):
        return "ReduceMean over other axes than the spatial ones has no integer kernel"
    spatial = rank in (3, 4) and sorted(int(axis) % rank for axis in axes) == list(range(2, rank))
    return "" if spatial else "ReduceMean over other axes than the spatial ones has no integer kernel"


def _concat(node: NodeView, graph: GraphView) -> str:
    return "Concat with a constant has no integer kernel" if any(name in graph.constants for name in node.inputs) else ""


def _pad(node: NodeView, graph: GraphView) -> str:
    if not all(_constant(name, graph) for name in node.inputs[1:]):
        return "the padding is computed by the network"
    value = graph.constants.get(node.input(2))
    if value is not None and value.size and not isfinite(float(value.reshape(-1)[0])):
        return "Pad with a value that is not finite has no integer kernel"
    pads = graph.constants.get(node.input(1), np.asarray(node.attributes.get("pads", ())))
    return "Pad that cuts has no integer kernel" if np.any(pads < 0) else ""


def _resize(node: NodeView, graph: GraphView) -> str:
    mode = node.attributes.get("mode", "nearest")
    before, after = graph.shape(node.input(0)), graph.shape(node.outputs[0])
    if mode not in ("nearest", "linear"):
        return f"Resize mode {mode} has no integer kernel"
    if node.attributes.get("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return "Resize with a region of interest has no integer kernel"
    if node.attributes.get("antialias", 0):
        return "Resize with antialias has no integer kernel"
    if len(before) != 4 or before[:2] != after[:2]:
        return "Resize of other axes than the spatial ones has no integer kernel"
    return _move(node, graph)


def _move(node: NodeView, graph: GraphView) -> str:
    if node.input(0) in graph.constants:
        return "moves a constant"
    if not all(_constant(name, graph) for name in node.inputs[1:]):
        return f"the parameters of {node.op_type} are computed by the network"
    return ""


_Check = Callable[["NodeView", "GraphView"], str]
# What a node of the op must be like, where the op asks for more than its role does
_OWN_CHECKS: Mapping[str, _Check] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Relu": _clamp,
    "Clip": _clamp,
    "PRelu": _prelu,
    "MaxPool": _max_pool,
    "GlobalMaxPool": _pool,
    "ReduceMean": _reduce_mean,
    "Concat": _concat,
    "Pad": _pad,
    "Resize": _resize,
}
_CHECKS: Mapping[Role, _Check] = {Role.BINARY: _binary, Role.TABLE: _table, Role.AVERAGE: _pool, **dict.fromkeys(CARRYING, _move)}


def _check(op_type: str, role: Role) -> _Check:
    return _OWN_CHECKS.get(op_type) or _CHECKS[role]
