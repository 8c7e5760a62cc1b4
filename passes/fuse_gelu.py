"""Gelu and Mish written out in arithmetic become one node, and so one table instead of five quantized steps.

Gelu(x) = x / 2 * (1 + erf(x / sqrt 2)); with tanh: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) (Hendrycks and Gimpel 2016, section 2).
Mish(x) = x * tanh(softplus(x)) (Misra 2019, equation 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_graphsurgeon as gs

from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.patterns import close, made_by, orders, product, same, scalar
from mpqc.passes.lib.surgery import close_graph, open_graph, unchanged


@dataclass(frozen=True)
class FuseGelu:
    """The last Mul of the formula becomes Gelu or Mish; what else reads the steps in between keeps them alive."""

    name: ClassVar[str] = "fuse-gelu"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """The factors may be multiplied in any order."""
        graph = open_graph(model)
        fused = [node for node in list(graph.nodes) if node.op in ("Mul", "Div") and (_gelu(node) or _mish(node))]
        return close_graph(graph, model) if fused else unchanged(model)


def _gelu(node: gs.Node) -> bool:
    """x * 0.5 * (1 + f(x)) with f as above."""
    for gate in _gates(node.outputs[0]):
        found = _gelu_argument(gate)
        if found is None:
            continue
        source, approximate = found
        factor, tensors = product(node.outputs[0], [source, gate])
        if close(factor, 0.5) and same(tensors, [source, gate]):
            return _become(node, "Gelu", source, approximate=approximate)
    return False


def _gates(tensor: gs.Tensor) -> list[gs.Tensor]:
    """Tensors of the form 1 + f that the product has as a factor."""
    return [item for item in product(tensor, [])[1] if (add := made_by(item, "Add")) and any(scalar(part) == 1.0 for part in add.inputs)]


def _gelu_argument(gate: gs.Tensor) -> tuple[gs.Tensor, str] | None:
    add = made_by(gate, "Add")
    for one, inner in orders(add):
        function = made_by(inner, "Erf", "Tanh")
        if scalar(one) == 1.0 and function is not None:
            return _erf_argument(function) if function.op == "Erf" else _tanh_argument(function)
    return None


def _erf_argument(function: gs.Node) -> tuple[gs.Tensor, str] | None:
    scaled = made_by(function.inputs[0], "Mul", "Div")
    if scaled is None:
        return None
    for source in scaled.inputs:
        factor, tensors = product(function.inputs[0], [source])
        if close(factor, math.sqrt(0.5)) and same(tensors, [source]):
            return source, "none"
    return None


def _tanh_argument(function: gs.Node) -> tuple[gs.Tensor, str] | None:
    factor, tensors = product(function.inputs[0], [])
    if not close(factor, math.sqrt(2 / math.pi)) or len(tensors) != 1:
        return None
    for source, cubic in orders(made_by(tensors[0], "Add")):
        number, factors = product(cubic, [source])
        if close(number, 0.044715) and same(factors, [source] * 3):
            return source, "tanh"
    return None


def _mish(node: gs.Node) -> bool:
    if node.op != "Mul":
        return False
    for source, gate in orders(node):
        tanh = made_by(gate, "Tanh")
        inner = made_by(tanh.inputs[0], "Softplus") if tanh is not None else None
        if inner is not None and inner.inputs[0] is source:
            return _become(node, "Mish", source)
    return False


def _become(node: gs.Node, op_type: str, source: gs.Tensor, **attributes: str) -> bool:
    if list(source.shape) != list(node.outputs[0].shape):
        return False
    node.op, node.attrs, node.inputs = op_type, attributes, [source]
    return True
