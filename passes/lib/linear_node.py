"""A view of the nodes that are linear with constant weights: Conv, ConvTranspose, Gemm, MatMul.

What follows such a node as y = factor * x + shift per output channel goes into its weights and bias:
W'[c] = W[c] * factor[c], b'[c] = b[c] * factor[c] + shift[c], computed in float64 and stored in the weight's type.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from mpqc.passes.lib.surgery import constant, input_at, set_constant

LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, eq=False)
class LinearNode:
    """A node with constant weights (and bias, where it has one) whose output channels lie on `axis`."""

    node: gs.Node
    weight: np.ndarray
    bias: np.ndarray | None
    """[channels]"""
    channels: int
    axis: int
    """Channel axis of the output: 1 for convolutions, the last one for products"""

    @property
    def takes_bias(self) -> bool:
        """Whether the op has a bias input."""
        return self.node.op != "MatMul"

    def apply(self, graph: gs.Graph, factor: np.ndarray, shift: np.ndarray) -> None:
        """Make the node compute factor * y + shift; both [channels], float64."""
        set_constant(graph, self.node, 1, self._scaled(factor).astype(self.weight.dtype), "weight")
        if self.bias is None and not shift.any():
            return
        bias = (np.zeros(self.channels) if self.bias is None else self.bias.astype(np.float64)) * factor + shift
        set_constant(graph, self.node, 2, bias.astype(self.weight.dtype), "bias")

    def _scaled(self, factor: np.ndarray) -> np.ndarray:
        weight = self.weight.astype(np.float64)
        tail = [1] * (weight.ndim - 2)
        if self.node.op == "Conv" or (self.node.op == "Gemm" and self.node.attrs.get("transB", 0)):
            return weight * factor.reshape(-1, 1, *tail)
        if self.node.op != "ConvTranspose":
            return weight * factor
        group = self.node.attrs.get("group", 1)
        split = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
        return (split * factor.reshape(group, 1, -1, *tail)).reshape(weight.shape)


def linear_node(node: gs.Node | None) -> LinearNode | None:
    """The view of `node`, None where it is not linear with constants that this form covers."""
    if node is None or node.op not in LINEAR or node.domain not in (None, "", "ai.onnx"):
        return None
    weight, bias = constant(input_at(node, 1)), input_at(node, 2)
    if weight is None or weight.dtype.kind != "f" or (node.op == "MatMul" and weight.ndim != 2):
        return None
    if node.op == "Gemm" and (node.attrs.get("alpha", 1.0) != 1.0 or node.attrs.get("beta", 1.0) != 1.0):
        return None
    channels, axis = _channels(node, weight), 1 if node.op.startswith("Conv") else len(node.outputs[0].shape) - 1
    if bias is None:
        return LinearNode(node, weight, None, channels, axis)
    vector = constant(bias)
    if vector is None or vector.size not in (1, channels):
        return None
    return LinearNode(node, weight, np.broadcast_to(vector.reshape(-1), (channels,)).copy(), channels, axis)


def _channels(node: gs.Node, weight: np.ndarray) -> int:
    if node.op == "Conv" or (node.op == "Gemm" and node.attrs.get("transB", 0)):
        return int(weight.shape[0])
    return int(weight.shape[1] * node.attrs.get("group", 1)) if node.op == "ConvTranspose" else int(weight.shape[-1])
