"""Mul, Div, Add, Sub by a constant per channel behind a linear node go into its weights and bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.linear_node import LinearNode, linear_node
from mpqc.passes.lib.surgery import channel_values, close_graph, constant, open_graph, producer, read_only_by, take_over_output, unchanged

OPS = frozenset({"Mul", "Div", "Add", "Sub"})


@dataclass(frozen=True)
class FoldChannelAffine:
    """Linear node + elementwise op with a constant that differs by output channel at most -> the node alone.

    Repeated until nothing is left, so that x * a + b goes at once. Constant minus or over x is left alone, and so is a shift
    behind MatMul, which has no bias.
    """

    name: ClassVar[str] = "fold-channel-affine"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Nodes are visited in execution order, so chains fold in one go."""
        graph = open_graph(model)
        folded = [node for node in list(graph.nodes) if node.op in OPS and _fold(graph, node)]
        return close_graph(graph, model) if folded else unchanged(model)


def _fold(graph: gs.Graph, node: gs.Node) -> bool:
    found = _operands(node)
    if found is None:
        return False
    linear, value = found
    if not read_only_by(graph, linear.node.outputs[0], node) or list(node.outputs[0].shape) != list(linear.node.outputs[0].shape):
        return False
    values = channel_values(value.astype(np.float64), linear.node.outputs[0].shape, linear.axis)
    if values is None or not np.isfinite(values).all() or (node.op == "Div" and not values.all()):
        return False
    if node.op in ("Add", "Sub") and not linear.takes_bias:
        return False
    linear.apply(graph, *_affine(node.op, values))
    take_over_output(linear.node, node)
    return True


def _operands(node: gs.Node) -> tuple[LinearNode, np.ndarray] | None:
    """The linear node in front and the constant; the constant may come first only where the op commutes."""
    pairs = [(0, 1)] if node.op in ("Sub", "Div") else [(0, 1), (1, 0)]
    for source, other in pairs:
        value, linear = constant(node.inputs[other]), linear_node(producer(node.inputs[source]))
        if value is not None and linear is not None:
            return linear, value
    return None


def _affine(kind: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ones, zeros = np.ones_like(values), np.zeros_like(values)
    table = {"Mul": (values, zeros), "Add": (ones, values), "Sub": (ones, -values)}
    return table[kind] if kind in table else (1.0 / values, zeros)
