"""A BatchNormalization that nothing could take becomes a depthwise convolution with a 1x1 kernel, which runs on integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from mpqc.passes.fold_batch_norm import batch_norm_affine
from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.surgery import close_graph, free_name, open_graph, unchanged


@dataclass(frozen=True)
class BatchNormToConv:
    """factor * x + shift per channel -> Conv with group = channels, for inputs [N, C, *spatial] of one to three spatial axes."""

    name: ClassVar[str] = "batch-norm-to-conv"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Statistics that are not constant and finite leave the node as it is."""
        graph = open_graph(model)
        found = [node for node in graph.nodes if node.op == "BatchNormalization" and _convert(graph, node)]
        return close_graph(graph, model) if found else unchanged(model)


def _convert(graph: gs.Graph, node: gs.Node) -> bool:
    affine, rank = batch_norm_affine(node), len(node.inputs[0].shape) - 2
    if affine is None or not 1 <= rank <= 3:
        return False
    factor, shift = (values.astype(node.inputs[0].dtype) for values in affine)
    weight = gs.Constant(free_name(graph, f"{node.name}.weight"), np.ascontiguousarray(factor.reshape(-1, 1, *[1] * rank)))
    bias = gs.Constant(free_name(graph, f"{node.name}.bias"), np.ascontiguousarray(shift))
    node.op, node.inputs = "Conv", [node.inputs[0], weight, bias]
    window = {"kernel_shape": [1] * rank, "strides": [1] * rank, "dilations": [1] * rank, "pads": [0] * 2 * rank}
    node.attrs = {**window, "group": int(factor.size)}
    return True
