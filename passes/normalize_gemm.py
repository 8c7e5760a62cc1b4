"""Gemm without transA, alpha and beta, with one bias a column: factors go into constants, a transposed input becomes a Transpose in front."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.surgery import channel_values, close_graph, constant, free_name, input_at, open_graph, set_constant, unchanged


@dataclass(frozen=True)
class NormalizeGemm:
    """alpha * A' B + beta * C -> A'' (alpha B) + (beta C), for constant B, and constant C where there is one; a C that is one number, or a row, is
    written out as a vector."""

    name: ClassVar[str] = "normalize-gemm"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Gemms of computed weights are left alone."""
        graph = open_graph(model)
        found = [node for node in list(graph.nodes) if node.op == "Gemm" and _normalize(graph, node)]
        return close_graph(graph, model) if found else unchanged(model)


def _normalize(graph: gs.Graph, node: gs.Node) -> bool:
    alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    weight, bias = constant(input_at(node, 1)), constant(input_at(node, 2))
    computed_bias = input_at(node, 2) is not None and bias is None
    if weight is None or weight.dtype.kind != "f" or (computed_bias and beta != 1.0):
        return False
    columns = weight.shape[0 if node.attrs.get("transB", 0) else 1]
    wide = bias is not None and bias.shape != (columns,) and channel_values(bias, (1, columns), 1) is not None
    if alpha == beta == 1.0 and not node.attrs.get("transA", 0) and not wide:
        return False
    if alpha != 1.0:
        set_constant(graph, node, 1, (weight.astype(np.float64) * alpha).astype(weight.dtype), "weight")
    if bias is not None and (beta != 1.0 or wide):
        scaled = (bias.astype(np.float64) * beta).astype(bias.dtype)
        set_constant(graph, node, 2, np.broadcast_to(scaled.reshape(-1), (columns,)) if wide else scaled, "bias")
    if node.attrs.get("transA", 0):
        _transpose_input(graph, node)
    node.attrs = {"transB": 1} if node.attrs.get("transB", 0) else {}
    return True


def _transpose_input(graph: gs.Graph, node: gs.Node) -> None:
    source = node.inputs[0]
    name = free_name(graph, f"{node.name}.transposed")
    output = gs.Variable(name, source.dtype, list(reversed(source.shape)))
    place = next(index for index, each in enumerate(graph.nodes) if each is node)
    graph.nodes.insert(place, gs.Node("Transpose", name, {"perm": [1, 0]}, [source], [output]))
    node.inputs[0] = output
