"""Operators that hold codes themselves, as ONNX Runtime's QOperator files have them: read as Q/DQ, within one step of ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import noise

from mpqc.errors import ModelError
from mpqc.frontend.quantized_operators import RULES
from mpqc.numerics.interpreter import interpret
from mpqc.qdq.read.program import read_qdq
from mpqc.values.program import Float

RANDOM = np.random.default_rng(0)
X, S, Z = ["q", "xs", "xz"], ["ys", "yz"], "com.microsoft"
CONV = RANDOM.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
GEMM = RANDOM.integers(-127, 128, (6, 5)).astype(np.int8)
PER_CHANNEL = np.float32([0.01, 0.02, 0.015, 0.005])
P = {"p": np.uint8([[1, 50, 90, 128, 200, 255]]), "ps": np.float32(0.02), "pz": np.uint8(128)}
G = {"w": GEMM, "ws": np.float32(0.02), "wz": np.int8(0), "b": np.arange(5, dtype=np.int32)}
Case = tuple[str, str, tuple[int, ...], list[str], dict[str, Any], dict[str, Any]]
"""Domain, operator, shape of x, inputs, constants, attributes"""
CASES: list[Case] = [
    ("", "QLinearConv", (1, 3, 6, 6), [*X, "w", "ws", "wz", *S, "b"], {"w": CONV, "ws": PER_CHANNEL, "wz": np.zeros(4, np.int8)}, {"pads": [1] * 4}),
    ("", "QLinearMatMul", (2, 6), [*X, "w", "ws", "wz", *S], G, {}),
    (
        Z,
        "QGemm",
        (2, 6),
        [*X, "w", "ws", "wz", "b", *S],
        {"w": GEMM, "ws": np.float32(0.02), "wz": np.int8(0), "b": np.arange(5, dtype=np.int32)},
        {},
    ),
    (
        Z,
        "QLinearAdd",
        (2, 6),
        [*X, "p", "ps", "pz", *S],
        {"p": np.uint8([[1, 50, 90, 128, 200, 255]]), "ps": np.float32(0.02), "pz": np.uint8(128)},
        {},
    ),
    (
        Z,
        "QLinearMul",
        (2, 6),
        [*X, "p", "ps", "pz", *S],
        {"p": np.uint8([[1, 50, 90, 128, 200, 255]]), "ps": np.float32(0.02), "pz": np.uint8(128)},
        {},
    ),
    (Z, "QLinearConcat", (2, 6), [*S, *X, *X], {}, {"axis": 1}),
    (Z, "QLinearSigmoid", (2, 6), [*X, *S], {}, {}),
    (Z, "QLinearLeakyRelu", (2, 6), [*X, *S], {}, {"alpha": 0.1}),
    (Z, "QLinearSoftmax", (2, 6), [*X, *S], {}, {"axis": 1, "opset": 13}),
    (Z, "QLinearAveragePool", (1, 3, 6, 6), [*X, *S], {}, {"kernel_shape": [2, 2], "strides": [2, 2]}),
    (Z, "QLinearGlobalAveragePool", (1, 3, 6, 6), [*X, *S], {}, {"channels_last": 0}),
    (Z, "QLinearWhere", (2, 6), ["condition", *X, "p", "ps", "pz", *S], {**P, "condition": np.array([[True, False] * 3])}, {}),
]


def model(case: Case) -> onnx.ModelProto:
    """x -> QuantizeLinear -> the operator -> DequantizeLinear -> y."""
    domain, op_type, shape, inputs, constants, options = case
    stored = {"xs": np.float32(0.02), "xz": np.uint8(120), "ys": np.float32(0.05), "yz": np.uint8(100), "b": np.arange(4, dtype=np.int32) * 900}
    stored |= constants
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"]), helper.make_node(op_type, inputs, ["c"], domain=domain, name="node", **options),
        helper.make_node("DequantizeLinear", ["c", "ys", "yz"], ["y"]),
    ]  # fmt: skip
    used = {name for node in nodes for name in node.input}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items() if name in used]
    values = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape))],
    )
    return helper.make_model(
        helper.make_graph(nodes, "net", *values, tensors), opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid(Z, 1)], ir_version=8
    )


@pytest.mark.parametrize("case", CASES, ids=[case[1] for case in CASES])
def test_codes_are_those_of_onnx_runtime(case: Case) -> None:
    made, x = model(case), noise(*case[2])
    program = read_qdq(made)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums on x86 without VNNI too
    expected = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    got = interpret(program, {"x": x})["y"]
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 0.0501, "one step"
    if case[1] not in ("QLinearSoftmax", "QLinearWhere"):
        assert not [op for op in program.ops if isinstance(op, Float)]


def test_every_rule_has_a_case() -> None:
    assert {key[1] for key in RULES} == {case[1] for case in CASES}


def test_channels_last_are_refused_by_name() -> None:
    made = model((Z, "QLinearGlobalAveragePool", (1, 6, 6, 3), [*X, *S], {}, {"channels_last": 1}))
    with pytest.raises(ModelError, match="QLinearGlobalAveragePool 'node': its tensors have channels last"):
        read_qdq(made)
