"""Division by a constant becomes multiplication by its reciprocal, which has an integer kernel.

The reciprocal is rounded once more: results differ by at most one unit in the last place of float32, not at all for powers of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.surgery import close_graph, constant, free_name, open_graph, unchanged


@dataclass(frozen=True)
class DivisionToProduct:
    """x / c -> x * (1 / c) for floating-point constants c whose reciprocals are normal numbers."""

    name: ClassVar[str] = "division-to-product"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Integer division is left alone."""
        graph = open_graph(model)
        found = [node for node in graph.nodes if node.op == "Div" and _convert(graph, node)]
        return close_graph(graph, model) if found else unchanged(model)


def _convert(graph: gs.Graph, node: gs.Node) -> bool:
    value = constant(node.inputs[1])
    if value is None or value.dtype.kind != "f" or not value.all():
        return False
    with np.errstate(over="ignore"):
        inverse = np.asarray(1.0 / value.astype(np.float64), value.dtype)  # asarray: numpy turns rank 0 into a plain number
    if not np.isfinite(inverse).all() or (np.abs(inverse) < np.finfo(value.dtype).tiny).any():
        return False
    node.op = "Mul"
    node.inputs[1] = gs.Constant(free_name(graph, f"{node.inputs[1].name}.inverse"), inverse)
    return True
