"""Files that ONNX Runtime's quantize_static writes, in its usual options, mean the same to mpqc as to the runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from qdq_nets import assert_within, inputs_for, session, weight_limit, worst_steps

from mpqc.numerics.interpreter import interpret
from mpqc.qdq.read.program import read_qdq
from mpqc.values.program import Conv, Float, Gemm

SHAPE = (1, 3, 16, 16)


class Samples(CalibrationDataReader):
    """Four random images."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.batches: Iterator = iter([{"x": rng.standard_normal(SHAPE).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict | None:
        return next(self.batches, None)


def float_net(opset: int) -> onnx.ModelProto:
    """conv-relu, depthwise-clip, 1x1, residual add, max pool, concat, sigmoid gate, global pool, flatten, two layers of MatMul and Gemm."""
    rng = np.random.default_rng(1)
    initializers: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weight(*shape: int) -> str:
        name = f"w{len(initializers)}"
        initializers.append(numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), name))
        return name

    def node(kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind.lower()}{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{name}_node", **attributes))
        return name

    def number(value: float) -> str:
        initializers.append(numpy_helper.from_array(np.float32(value).reshape(()), f"c{len(initializers)}"))
        return initializers[-1].name

    a = node("Relu", node("Conv", "x", weight(8, 3, 3, 3), weight(8), pads=[1, 1, 1, 1]))
    b = node("Clip", node("Conv", a, weight(8, 1, 3, 3), weight(8), pads=[1, 1, 1, 1], group=8), number(0), number(6))
    c = node("Conv", b, weight(8, 8, 1, 1))
    d = node("MaxPool", node("Add", a, c), kernel_shape=[2, 2], strides=[2, 2])
    e = node("Concat", d, node("Conv", d, weight(4, 8, 3, 3), weight(4), pads=[1, 1, 1, 1]), axis=1)
    f = node("Mul", e, node("Sigmoid", e))
    g = node("Flatten", node("GlobalAveragePool", f))
    h = node("Relu", node("Add", node("MatMul", g, weight(12, 16)), weight(16)))
    nodes.append(helper.make_node("Gemm", [h, weight(10, 16), weight(10)], ["y"], name="last", transB=1))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


OPTIONS = {
    "s8s8_channels": {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "per_channel": True},
    "s8s8_tensor": {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8},
    "u8s8_channels": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True},
    "u8u8": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8, "extra_options": {"WeightSymmetric": True}},
    "symmetric": {"extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True}},
    "weights_as_qdq_pairs": {"extra_options": {"AddQDQPairToWeight": True}, "per_channel": True},
    "dedicated_pairs": {"extra_options": {"DedicatedQDQPair": True}},
    "float_bias": {"extra_options": {"QuantizeBias": False}},
    "entropy": {"calibrate_method": CalibrationMethod.Entropy},
    "convs_only": {"op_types_to_quantize": ["Conv"]},
    "one_node_excluded": {"nodes_to_exclude": ["conv2_node"]},
}


def quantized(tmp_path: Path, opset: int, **options: object) -> onnx.ModelProto:
    source, target = tmp_path / "float.onnx", tmp_path / "qdq.onnx"
    onnx.save(float_net(opset), source)
    quantize_static(source, target, Samples(), quant_format=QuantFormat.QDQ, **{"reduce_range": weight_limit() < 127, **options})
    return onnx.load(target)


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_file_means_the_same(name: str, opset: int, tmp_path: Path) -> None:
    model = quantized(tmp_path, opset, **OPTIONS[name])
    program = read_qdq(model)
    fused = name != "float_bias"  # a float bias leaves convolutions in float in the runtime
    worst = worst_steps(model, program, inputs_for(program), fused=fused)
    if not fused:  # rounding of the bias to int32 moves a sum by at most half of s_x * s_w: at most one step
        assert worst.pop("Conv") <= 1
        assert worst.pop("Gemm") <= 1
    assert_within(worst)
    if name in ("convs_only", "one_node_excluded"):
        assert any(isinstance(op, Float) for op in program.ops)
    else:
        assert [op for op in program.ops if isinstance(op, Float)] == []
        assert sum(isinstance(op, Conv) for op in program.ops) == 4
        assert sum(isinstance(op, Gemm) for op in program.ops) == 2


@pytest.mark.parametrize("name", ["convs_only", "one_node_excluded"])
def test_regions_left_float_give_the_same_output(name: str, tmp_path: Path) -> None:
    model = quantized(tmp_path, 17, **OPTIONS[name])
    program = read_qdq(model)
    inputs = inputs_for(program)
    expected = session(model).run(None, inputs)[0]
    assert np.abs(interpret(program, inputs)[program.outputs[0]] - expected).max() <= 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("activations", [QuantType.QInt16, QuantType.QUInt16])
def test_sixteen_bit_activations_are_integer(activations: QuantType, tmp_path: Path) -> None:
    """The runtime computes them in float, whose sums are off by some 2^-24: less than a step, so seldom another code."""
    model = quantized(tmp_path, 21, activation_type=activations, weight_type=QuantType.QInt8)
    program = read_qdq(model)
    assert not [op for op in program.ops if isinstance(op, Float)]
    assert {tensor.dtype for tensor in program.tensors.values() if tensor.qparams is not None} == {"int16"}
    inputs, step = inputs_for(program), float(program.tensors[program.ops[-1].inputs[0]].qparams.scale)  # type: ignore[union-attr]
    assert np.allclose(interpret(program, inputs)[program.outputs[0]], session(model).run(None, inputs)[0], rtol=0, atol=1.01 * step)


def test_asymmetric_weights_that_leave_int8_stay_float_with_their_reason(tmp_path: Path) -> None:
    model = quantized(tmp_path, 17, activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8, reduce_range=False)
    program = read_qdq(model)
    reasons = {op.reason for op in program.ops if isinstance(op, Float)}
    assert reasons == {"weight zero point is not 128"}
    if weight_limit() == 127:  # else the runtime's own sums saturate
        assert_within(worst_steps(model, program, inputs_for(program)))


def test_int4_weights(tmp_path: Path) -> None:
    model = quantized(tmp_path, 21, activation_type=QuantType.QInt8, weight_type=QuantType.QInt4)
    program = read_qdq(model)
    assert {op.weight_bits for op in program.ops if isinstance(op, Gemm)} == {4}
    worst = worst_steps(model, program, inputs_for(program))
    assert max(worst.values()) <= 1  # int4 weights: the runtime multiplies in float32
