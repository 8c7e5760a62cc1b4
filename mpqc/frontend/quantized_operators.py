"""Operators that hold codes themselves (QLinearConv, QGemm, QLinearAdd, ...) as DequantizeLinear, the plain operator and QuantizeLinear.

That is what they mean: ONNX defines QLinearConv and QLinearMatMul so, and ONNX Runtime writes the others (docs/ContribOperators.md) from QDQ files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mpqc.errors import ModelError
from mpqc.passes.lib.base import attribute

_CONTRIB = "com.microsoft"


@dataclass
class _Rewriter:
    """The nodes that replace one, and the constants that they need."""

    node: NodeProto
    constants: Mapping[str, np.ndarray]
    nodes: list[NodeProto] = field(default_factory=list)
    stored: list[TensorProto] = field(default_factory=list)

    def input(self, place: int) -> str:
        """The name of an input, empty where it is absent."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def plain(self, drop: Sequence[str] = ()) -> dict[str, Any]:
        """The node's attributes that the plain operator has too."""
        return {item.name: helper.get_attribute_value(item) for item in self.node.attribute if item.name not in drop}

    def dequantize(self, inputs: Sequence[str], role: str, axis: int | None) -> str:
        """A DequantizeLinear node; the name of its output."""
        name = f"{self.node.name}/{role}"
        node = helper.make_node("DequantizeLinear", list(inputs), [name], name)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)
        return name

    def real(self, place: int, axis: int | None = None) -> str:
        """The real values of codes at `place`, whose scale and zero point follow; `axis` where there is one for each index along it."""
        scale = self.constants.get(self.input(place + 1))
        several = scale is not None and scale.size > 1
        return self.dequantize([name for name in self.node.input[place : place + 3] if name], f"real{place}", axis if several else None)

    def bias(self, place: int, x_scale: int, w_scale: int, factor: float = 1.0) -> list[str]:
        """The real values of an int32 bias, whose scale is the product of two others and `factor`; none where it is absent."""
        if not self.input(place):
            return []
        x, w = (self.constants.get(self.input(each)) for each in (x_scale, w_scale))
        if x is None or w is None:
            where = f"{self.node.op_type} {self.node.name!r}"
            raise ModelError("its scales are computed", where=where, hint="quantize it with constant scales (static quantization)")
        product = (x.astype(np.float32) * w.astype(np.float32) * np.float32(factor)).reshape(-1 if w.size > 1 else ())
        scale = f"{self.node.name}/bias_scale"
        self.stored.append(numpy_helper.from_array(np.asarray(product), scale))
        return [self.dequantize([self.input(place), scale], "bias", 0 if w.size > 1 else None)]

    def make(self, op_type: str, inputs: Sequence[str], scale_at: int, **options: Any) -> None:
        """The plain operator, and the codes of its result where the node has a scale for them."""
        coded = bool(self.input(scale_at))
        name = f"{self.node.name}/result" if coded else self.node.output[0]
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], self.node.name, **options))
        if coded:
            self.code(name, scale_at)

    def code(self, name: str, scale_at: int) -> None:
        """QuantizeLinear to the node's own output."""
        parameters = [part for part in self.node.input[scale_at : scale_at + 2] if part]
        self.nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [self.node.output[0]], f"{self.node.name}/codes"))


def _conv(to: _Rewriter) -> None:
    to.make("Conv", [to.real(0), to.real(3, axis=0), *to.bias(8, 1, 4)], 6, **to.plain(("channels_last",)))


def _matmul(to: _Rewriter) -> None:
    to.make("MatMul", [to.real(0), to.real(3, axis=-1)], 6)


def _gemm(to: _Rewriter) -> None:
    """The bias has the scale of the product with alpha, which multiplies the whole sum."""
    axis = 0 if attribute(to.node, "transB", 0) else 1
    bias = to.bias(6, 1, 4, float(attribute(to.node, "alpha", 1.0)))
    to.make("Gemm", [to.real(0), to.real(3, axis=axis), *bias], 7, **to.plain())


def _binary(op_type: str) -> Callable[[_Rewriter], None]:
    return lambda to: to.make(op_type, [to.real(0), to.real(3)], 6)


def _unary(op_type: str, *dropped: str) -> Callable[[_Rewriter], None]:
    return lambda to: to.make(op_type, [to.real(0)], 3, **to.plain(dropped))


def _concat(to: _Rewriter) -> None:
    """Scale and zero point of the result come first, then three inputs a part."""
    to.make("Concat", [to.real(place) for place in range(2, len(to.node.input), 3)], 0, axis=attribute(to.node, "axis", 1))


def _where(to: _Rewriter) -> None:
    to.make("Where", [to.node.input[0], to.real(1), to.real(4)], 7)


RULES: Mapping[tuple[str, str], Callable[[_Rewriter], None]] = {
    ("", "QLinearConv"): _conv,
    (_CONTRIB, "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    (_CONTRIB, "QGemm"): _gemm,
    (_CONTRIB, "QLinearAdd"): _binary("Add"),
    (_CONTRIB, "QLinearMul"): _binary("Mul"),
    (_CONTRIB, "QLinearConcat"): _concat,
    (_CONTRIB, "QLinearWhere"): _where,
    (_CONTRIB, "QLinearSigmoid"): _unary("Sigmoid"),
    (_CONTRIB, "QLinearLeakyRelu"): _unary("LeakyRelu"),
    (_CONTRIB, "QLinearSoftmax"): _unary("Softmax", "opset"),
    (_CONTRIB, "QLinearAveragePool"): _unary("AveragePool", "channels_last"),
    (_CONTRIB, "QLinearGlobalAveragePool"): _unary("GlobalAveragePool", "channels_last"),
}
"""Domain and operator -> how it is written"""


def as_qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` (opset 18 or newer) with every operator of RULES written with Q/DQ; the same object where it has none.

    Raises ModelError for layouts with channels last and for scales that are computed where a bias needs them.
    """
    found = {place for place, node in enumerate(model.graph.node) if holds_codes(node)}
    if not found:
        return model
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    for place, node in enumerate(model.graph.node):
        if place not in found:
            copy.graph.node.append(node)
            continue
        rewriter = _Rewriter(_named(node), constants)
        _check_layout(node)
        RULES[_key(node)](rewriter)
        copy.graph.node.extend(rewriter.nodes)
        copy.graph.initializer.extend(rewriter.stored)
    return copy


def holds_codes(node: NodeProto) -> bool:
    """Whether `as_qdq` writes this node."""
    return _key(node) in RULES


def _key(node: NodeProto) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def _named(node: NodeProto) -> NodeProto:
    named = NodeProto()
    named.CopyFrom(node)
    named.name = node.name or f"{node.op_type}_{node.output[0]}"
    return named


def _check_layout(node: NodeProto) -> None:
    if attribute(node, "channels_last", 0):
        hint = "quantize for another execution provider, or without layout optimization"
        raise ModelError("its tensors have channels last", where=f"{node.op_type} {node.name or node.output[0]!r}", hint=hint)
