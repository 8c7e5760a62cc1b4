"""MatMul of rank 2 with a constant weight, and the bias added behind it, are a Gemm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_graphsurgeon as gs

from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.linear_node import LinearNode, linear_node
from mpqc.passes.lib.surgery import channel_values, close_graph, constant, only_reader, open_graph, take_over_output, unchanged


@dataclass(frozen=True)
class MatMulToGemm:
    """MatMul(x [M, K], constant [K, N]) (+ Add of a constant [N]) -> Gemm(x, W, b). Other ranks stay MatMul + Add."""

    name: ClassVar[str] = "matmul-to-gemm"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """The Gemm keeps the MatMul's name."""
        graph = open_graph(model)
        found = [linear for node in list(graph.nodes) if (linear := linear_node(node)) and _is_rank_two(linear)]
        for linear in found:
            _convert(graph, linear)
        return close_graph(graph, model) if found else unchanged(model)


def _is_rank_two(linear: LinearNode) -> bool:
    return linear.node.op == "MatMul" and len(linear.node.inputs[0].shape) == 2


def _convert(graph: gs.Graph, linear: LinearNode) -> None:
    node = linear.node
    node.op = "Gemm"
    add = only_reader(graph, node.outputs[0])
    bias = _bias(add, node) if add is not None and add.op == "Add" else None
    if add is None or bias is None:
        return
    values = channel_values(constant(bias), node.outputs[0].shape, 1)  # type: ignore[arg-type]
    if values is None or list(add.outputs[0].shape) != list(node.outputs[0].shape):
        return
    node.inputs.append(bias)
    take_over_output(node, add)


def _bias(add: gs.Node, node: gs.Node) -> gs.Constant | None:
    others = [tensor for tensor in add.inputs if tensor is not node.outputs[0]]
    return others[0] if len(others) == 1 and isinstance(others[0], gs.Constant) else None
