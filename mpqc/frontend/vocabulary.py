"""What a network may not hold, said by name before anything is computed: random draws, unknown domains, types that nothing computes with."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import onnx
from onnx import TensorProto

from mpqc.errors import ModelError
from mpqc.facts.ops import RANDOM, STANDARD_DOMAINS
from mpqc.passes.lib.base import subgraphs

RUNTIME_DOMAIN = "com.microsoft"
"""Operators of ONNX Runtime's own, which it runs while calibrating"""
COMPUTED = frozenset(
    {
        TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
        TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
    }
)  # fmt: skip
"""Element types of computed tensors in a canonical network"""
_TOOLS = {
    "qonnx.custom_op.general": "Brevitas and QONNX",
    "onnx.brevitas": "Brevitas",
    "finn.custom_op.general": "FINN",
    "org.openvinotoolkit": "NNCF and OpenVINO",
    "trt": "TensorRT Model Optimizer",
    "ai.onnx.ml": "classic machine learning (trees, encoders)",
    "ai.onnx.preview": "ONNX's preview operators",
    "ai.onnx.preview.training": "ONNX's training operators",
    "aten": "PyTorch",
    "org.pytorch.aten": "PyTorch",
    "mmdeploy": "MMDeploy",
}
_QDQ_HINT = "export the network from that tool with QuantizeLinear and DequantizeLinear (QDQ) nodes, or without quantization"
_CUT_HINT = "replace it with standard operators, or cut the model around it"


def check_operators(model: onnx.ModelProto) -> None:
    """Raises ModelError naming an operator that has no value, or of a domain that neither mpqc nor ONNX Runtime knows."""
    for node in _nodes(model.graph):
        where = f"{node.op_type} {node.name or node.output[0]!r}"
        if node.op_type in RANDOM and node.domain in STANDARD_DOMAINS:
            raise ModelError("it draws random numbers", where=where, hint="make what it draws an input of the network, or cut the model before it")
        if node.domain not in (*STANDARD_DOMAINS, RUNTIME_DOMAIN):
            tool = _TOOLS.get(node.domain, "")
            why = f"{node.domain} belongs to {tool}" if tool else "neither mpqc nor ONNX Runtime knows that domain"
            hint = _QDQ_HINT if "uant" in node.op_type else _CUT_HINT
            raise ModelError(f"operator {node.domain}:{node.op_type} is not known", where=where, why=why, hint=hint)


def check_inputs(model: onnx.ModelProto) -> None:
    """Raises ModelError naming an input whose element type a network cannot take."""
    _check(model.graph.input, COMPUTED | {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


def check_types(model: onnx.ModelProto) -> None:
    """Raises ModelError naming a tensor of a canonical model whose element type nothing computes with."""
    _check((*model.graph.input, *model.graph.value_info, *model.graph.output), COMPUTED)


def _check(values: Iterable[onnx.ValueInfoProto], allowed: Collection[int]) -> None:
    for value in values:
        kind = value.type.tensor_type.elem_type
        if value.type.HasField("tensor_type") and kind and kind not in allowed:
            name = TensorProto.DataType.Name(kind).lower()
            raise ModelError(f"{name} tensors are not supported", where=f"tensor {value.name!r}", hint=_hint(kind))


def _hint(kind: int) -> str:
    if kind == TensorProto.STRING:
        return "keep text outside of the network: feed numbers"
    return "such codes may be constants that are dequantized; a network computes in float32 and in integers of 8 to 64 bits"


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)
