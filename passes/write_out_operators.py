"""Operators that TVM has no loops for, or reads as something else, become nodes of operators that it has: see lib/written_out.py, and
ONNX Runtime's fused ones: lib/runtime_operators.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from mpqc.passes.fold_constants import FoldConstants
from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.runtime_operators import RUNTIME_RULES
from mpqc.passes.lib.written_out import RULES, model_with, written_out


@dataclass(frozen=True)
class WriteOutOperators:
    """Each as passes/lib/written_out.py says; what is decided at run time, or would be too large, stays."""

    name: ClassVar[str] = "write-out-operators"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Needs fixed shapes in value_info; new tensors get theirs."""
        graph = model.graph
        if not any(node.op_type in RULES.keys() | RUNTIME_RULES.keys() for node in graph.node):
            return PassResult(model, False)
        shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (*graph.input, *graph.value_info, *graph.output)
        }
        constants: dict[str, np.ndarray] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        shapes |= {name: list(value.shape) for name, value in constants.items()}
        found = {place: written_out(node, shapes, constants) for place, node in enumerate(graph.node)}
        replaced = {place: writer for place, writer in found.items() if writer is not None}
        return PassResult(FoldConstants().run(model_with(model, replaced)).model, True) if replaced else PassResult(model, False)
