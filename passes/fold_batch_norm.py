"""BatchNormalization behind a linear node goes into its weights.

y = scale * (x - mean) / sqrt(variance + epsilon) + bias is factor * x + shift per channel with
factor = scale / sqrt(variance + epsilon), shift = bias - mean * factor (Jacob et al. 2018, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.linear_node import LinearNode, linear_node
from mpqc.passes.lib.surgery import close_graph, constant, input_at, open_graph, producer, read_only_by, take_over_output, unchanged


@dataclass(frozen=True)
class FoldBatchNorm:
    """Conv, ConvTranspose, Gemm or MatMul + BatchNormalization -> the node alone."""

    name: ClassVar[str] = "fold-batch-norm"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """A note for each BatchNormalization that stays, with the reason."""
        graph = open_graph(model)
        norms = [node for node in graph.nodes if node.op == "BatchNormalization"]
        refusals = [reason for norm in norms if (reason := _fold(graph, norm))]
        notes = [f"{self.name}: {reason}" for reason in refusals]
        return close_graph(graph, model, notes) if len(refusals) < len(norms) else unchanged(model, notes)


def _fold(graph: gs.Graph, norm: gs.Node) -> str:
    """Fold `norm`; an empty string, or why it stays."""
    source: gs.Tensor = norm.inputs[0]
    linear = linear_node(producer(source))
    if linear is None:
        return f"{norm.name!r} stays: what it follows is not linear with constant weights"
    if not read_only_by(graph, source, norm):
        return f"{norm.name!r} stays: {source.name!r} has other readers"
    affine = batch_norm_affine(norm)
    if affine is None:
        return f"{norm.name!r} stays: its statistics are not constant and finite"
    if not _fits(linear):
        return f"{norm.name!r} stays: its channels are not those of {linear.node.op}"
    linear.apply(graph, *affine)
    take_over_output(linear.node, norm)
    return ""


def _fits(linear: LinearNode) -> bool:
    """BatchNormalization works on axis 1; MatMul has no bias to take the shift."""
    return linear.axis == 1 and linear.takes_bias


def batch_norm_affine(norm: gs.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """(factor, shift) per channel in float64; None where the parameters are not constants or not finite."""
    values = [constant(input_at(norm, position)) for position in range(1, 5)]
    known = [value.astype(np.float64) for value in values if value is not None]
    if len(known) != 4:
        return None
    scale, bias, mean, variance = known
    root = variance + float(norm.attrs.get("epsilon", 1e-5))
    if not (root > 0).all():
        return None
    factor = scale / np.sqrt(root)
    shift = bias - mean * factor
    return (factor, shift) if np.isfinite(factor).all() and np.isfinite(shift).all() else None
