"""Kernel sizes, strides, padding and multiply-accumulate counts of ONNX nodes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from mpqc.facts.kinds import OpKind
from mpqc.facts.ops import facts
from mpqc.values.site import CHANNELS, FILL

if TYPE_CHECKING:
    from mpqc.frontend.view import GraphView, NodeView

_WINDOWED = ("Conv", "MaxPool", "AveragePool")  # ops that say their window in attributes


def geometry(node: NodeView, graph: GraphView) -> dict[str, Any]:
    """The geometric fields of an OpNode: macs, kernel, strides, pads, dilations, groups, bias_elements, mode; those that `node` has."""
    if node.op_type in _WINDOWED:
        return _window(node, graph)
    if OpKind.GEMM in facts(node.op_type).kinds:
        return {"macs": _matrix_macs(node, graph), "bias_elements": _bias_elements(node, graph)}
    if node.op_type == "Resize":
        return {"mode": str(node.attributes.get("mode", "nearest"))}
    if node.op_type == "Pad":
        return {"mode": _pad_mode(node, graph)}
    if node.op_type == "PRelu":
        return {"mode": CHANNELS if graph.constants[node.input(1)].size > 1 else ""}
    return {}


def depth(node: NodeView, graph: GraphView) -> int:
    """Products that each output of a convolution or matrix product is a sum of; 0 for other nodes."""
    if node.op_type == "Conv":
        return prod(graph.shape(node.input(1))[1:])
    return (graph.shape(node.input(0)) or (0,))[-1] if OpKind.GEMM in facts(node.op_type).kinds else 0


def _pad_mode(node: NodeView, graph: GraphView) -> str:
    """Empty for zeros around, FILL for another constant, else the mode by which values are repeated."""
    mode, value = str(node.attributes.get("mode", "constant")), graph.constants.get(node.input(2))
    if mode != "constant":
        return mode
    return FILL if value is not None and value.any() else ""


def _bias_elements(node: NodeView, graph: GraphView) -> int:
    return graph.shape(node.outputs[0])[-1] if node.input(2) else 0


def _matrix_macs(node: NodeView, graph: GraphView) -> int:
    return prod(graph.shape(node.outputs[0])) * graph.shape(node.input(0))[-1]


def _window(node: NodeView, graph: GraphView) -> dict[str, Any]:
    weight = graph.shape(node.input(1)) if node.op_type == "Conv" else ()
    kernel = tuple(node.attributes.get("kernel_shape") or weight[2:])
    strides = tuple(node.attributes.get("strides") or (1,) * len(kernel))
    dilations = tuple(node.attributes.get("dilations") or (1,) * len(kernel))
    pads = explicit_pads(node, graph, kernel, strides, dilations)
    fields: dict[str, Any] = {"kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    if node.op_type == "Conv":
        fields["macs"] = prod(graph.shape(node.outputs[0])) * prod(weight[1:])
        fields["groups"] = node.attributes.get("group", 1)
        fields["bias_elements"] = weight[0] if node.input(2) else 0
    return fields


def explicit_pads(node: NodeView, graph: GraphView, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]) -> tuple[int, ...]:
    """Padding in ONNX order (all begins, then all ends), with auto_pad worked out."""
    auto = node.attributes.get("auto_pad", "NOTSET")
    if not auto.startswith("SAME"):
        return tuple(node.attributes.get("pads") or (0,) * (2 * len(kernel)))
    sizes = zip(graph.shape(node.input(0))[2:], graph.shape(node.outputs[0])[2:], kernel, strides, dilations, strict=True)
    totals = [max((out - 1) * stride + (size - 1) * step + 1 - length, 0) for length, out, size, stride, step in sizes]
    small, large = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return (*small, *large) if auto == "SAME_UPPER" else (*large, *small)
