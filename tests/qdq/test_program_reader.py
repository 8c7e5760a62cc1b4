"""What the reader refuses, why it says so, and how it closes float regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from qdq_nets import INT8, UINT8, Net, inputs_for, session, worst_steps

from mpqc.errors import ModelError
from mpqc.numerics.interpreter import interpret
from mpqc.qdq.read.program import read_qdq
from mpqc.values.program import Binary, Conv, Dequantize, Float, Gemm, Move, Op, Program, Quantize, Table


def floats(program: Program) -> list[Float]:
    return [op for op in program.ops if isinstance(op, Float)]


def only(program: Program, kind: type[Op]) -> Op:
    (op,) = (op for op in program.ops if isinstance(op, kind))
    return op


def assert_same_output(model: onnx.ModelProto, program: Program, steps: float = 0.0) -> None:
    inputs = inputs_for(program)
    for name, theirs in zip(program.outputs, session(model, fused=False).run(None, inputs), strict=True):
        assert np.abs(interpret(program, inputs)[name] - theirs).max() <= steps + 1e-5 * np.abs(theirs).max()


def conv_net(**changes: object) -> onnx.ModelProto:
    """One convolution between Q and DQ, with one thing changed."""
    net = Net()
    x = net.qdq(net.input(1, 4, 6, 6), 0.02, 3) if changes.get("input", True) else net.input(1, 4, 6, 6)
    codes = net.rng.integers(-60, 60, (5, 4, 3, 3))
    scale = net.rng.uniform(0.01, 0.02, 4 if changes.get("axis") == 1 else 5).astype(np.float32)
    if changes.get("zero"):
        w = net.op("DequantizeLinear", net.constant(codes, INT8), net.constant(np.float32(0.02)), net.constant(np.array(-100), INT8))
    elif changes.get("float_weight"):
        w = net.constant(codes.astype(np.float32) * np.float32(0.02))
    else:
        w = net.weight(codes, scale, axis=changes.get("axis", 0))
    y = net.op("Conv", x, w, *((net.constant(np.full(5, 1e9, np.float32)),) if changes.get("bias") else ()))
    return net.model(net.qdq(y, 0.05, 1) if changes.get("output", True) else y)


REASONS = [
    ({"input": False}, "input is not quantized"),
    ({"output": False}, "no output quantizer"),
    ({"zero": True}, "weight zero point is not 0"),
    ({"axis": 1}, "weight scales do not run along the output channels"),
    ({"float_weight": True}, "weight is not quantized"),
    ({"bias": True}, "bias does not fit int32"),
]


@pytest.mark.parametrize(("changes", "reason"), REASONS)
def test_a_convolution_that_does_not_match_stays_float_with_its_reason(changes: dict, reason: str) -> None:
    model = conv_net(**changes)
    program = read_qdq(model)
    (region,) = floats(program)
    assert region.reason == reason
    assert region.op_types == ("Conv",)
    assert_same_output(model, program, 0.05)


def test_sums_that_may_leave_int32_are_refused() -> None:
    net = Net()
    x = net.qdq(net.input(1, 140_000), 0.02)
    w = net.weight(np.full((140_000, 1), -128), np.float32(0.01))
    program = read_qdq(net.model(net.qdq(net.op("MatMul", x, w), 0.05)))
    assert [op.reason for op in floats(program)] == ["140000 products of the input and the weight may overflow int32"]


def test_a_channel_that_is_always_zero_does_not_overflow() -> None:
    """A pruned channel quantized with a tiny scale carries a saturated bias; its accumulators round to nothing and are cleared."""
    net = Net()
    x = net.qdq(net.input(1, 4, 6, 6), 0.02, 3)
    codes = net.rng.integers(-60, 60, (2, 4, 3, 3))
    scale = np.array([0.01, 1e-33], np.float32)
    w, bias = net.weight(codes, scale), net.bias(np.array([100, -(2**31)]), np.float32(0.02) * scale)
    model = net.model(net.qdq(net.op("Conv", x, w, bias), 0.05, 1))
    program = read_qdq(model)
    conv = only(program, Conv)
    assert not conv.weight[1].any()
    assert conv.weight[0].any()
    assert worst_steps(model, program, inputs_for(program))["Conv"] == 0


def test_the_zero_point_is_folded_into_the_bias() -> None:
    net = Net()
    x = net.qdq(net.input(1, 4), 0.02, 7)
    codes = net.rng.integers(-60, 60, (3, 4))
    scale = np.full(3, 0.01, np.float32)
    y = net.op("Gemm", x, net.weight(codes, scale), net.bias(np.array([5, 6, 7]), np.float32(0.02) * scale), transB=1)
    gemm = only(read_qdq(net.model(net.qdq(y, 0.05))), Gemm)
    assert gemm.bias.tolist() == (np.array([5, 6, 7]) - 7 * codes.sum(axis=1)).tolist()
    assert (gemm.multiplier == np.float32(np.float32(0.02) * np.float32(0.01)) / np.float32(0.05)).all()


def test_a_bias_with_another_scale_is_converted() -> None:
    net = Net()
    x = net.qdq(net.input(1, 4), 0.02)
    w = net.weight(net.rng.integers(-60, 60, (3, 4)), np.full(3, 0.01, np.float32))
    y = net.op("Gemm", x, w, net.bias(np.array([10, -20, 30]), np.full(3, 0.001, np.float32)), transB=1)
    gemm = only(read_qdq(net.model(net.qdq(y, 0.05))), Gemm)
    assert gemm.bias.tolist() == [50, -100, 150]


def test_uint8_becomes_signed_codes() -> None:
    net = Net(activation=UINT8)
    program = read_qdq(net.model(net.qdq(net.op("Relu", net.qdq(net.input(1, 4), 0.02, -5)), 0.01, -128)))
    assert [program.tensors[op.outputs[0]].zero_point for op in program.ops[:2]] == [-5, -128]


@pytest.mark.parametrize(("element", "bits"), [(INT8, 4), (UINT8, 4), (INT8, 6), (UINT8, 3)])
def test_a_clip_between_q_and_dq_narrows_the_type(element: int, bits: int) -> None:
    """QCDQ: 8-bit storage, Clip to the range of fewer bits. The program's codes are the signed ones of that width."""
    net = Net()
    low, high = (0, 2**bits - 1) if element == UINT8 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    scale, zero = net.constant(np.float32(0.3)), net.constant(np.array(low + 2), element)
    bounds = [net.constant(np.array(end), element) for end in (low, high)]
    codes = net.op("QuantizeLinear", net.input(1, 64), scale, zero)
    model = net.model(net.op("DequantizeLinear", net.op("Clip", codes, *bounds), scale, zero))
    program = read_qdq(model)
    q = program.tensors[only(program, Quantize).outputs[0]].qparams
    assert q is not None
    assert (q.qtype.bits, int(q.zero_point)) == (bits, q.qtype.qmin + 2)
    assert_same_output(model, program)


def test_a_clip_to_no_type_of_its_own_is_a_table() -> None:
    net = Net()
    scale, zero = net.constant(np.float32(0.1)), net.constant(np.array(0), INT8)
    bounds = [net.constant(np.array(end), INT8) for end in (-7, 7)]
    codes = net.op("QuantizeLinear", net.input(1, 64), scale, zero)
    model = net.model(net.op("DequantizeLinear", net.op("Clip", codes, *bounds), scale, zero))
    program = read_qdq(model)
    assert only(program, Table).function == "Clip"
    assert_same_output(model, program)


def test_regions_are_convex_and_as_large_as_that_allows() -> None:
    """Softmax feeds an integer Add whose result meets Softmax again in a float node: one region would need its own output."""
    net = Net()
    soft = net.op("Softmax", net.input(1, 8))
    inside = net.qdq(net.op("Add", *(net.qdq(net.op(kind, soft), 0.02) for kind in ("Exp", "Log"))), 0.05)
    model = net.model(net.op("Softmax", net.op("Div", soft, inside)))
    program = read_qdq(model)
    assert [sorted(op.op_types) for op in floats(program)] == [["Exp", "Log", "Softmax"], ["Div", "Softmax"]]
    assert_same_output(model, program)


def test_float_branches_without_integers_between_become_one_region() -> None:
    net = Net()
    x = net.input(1, 8)
    a, b = net.op("Softmax", x), net.op("Softmax", net.op("Exp", x))
    model = net.model(net.op("Mul", a, net.op("Add", a, b)))
    (region,) = floats(read_qdq(model))
    assert len(region.op_types) == 5
    onnx.checker.check_model(onnx.load_model_from_string(region.model))


def test_dequantized_weights_of_a_float_region_are_float_initializers() -> None:
    """TVM and other runtimes have no int4 or int2: a region carries what the codes mean."""
    net = Net(opset=21)
    w = net.weight(net.rng.integers(-8, 8, (4, 3)), np.full(3, 0.1, np.float32), axis=1, element=TensorProto.INT4)
    program = read_qdq(net.model(net.op("MatMul", net.input(1, 4), w)))
    (region,) = floats(program)
    graph = onnx.load_model_from_string(region.model).graph
    assert [tensor.data_type for tensor in graph.initializer] == [TensorProto.FLOAT]
    assert region.op_types == ("MatMul",)


def test_shape_arithmetic_is_folded() -> None:
    """Reshape to Concat(Gather(Shape(x)), -1), as PyTorch writes flatten."""
    net = Net()
    x = net.qdq(net.input(1, 4, 3, 3), 0.1)
    first = net.op("Gather", net.op("Shape", x), net.constant(np.array([0])))
    y = net.op("Reshape", x, net.op("Concat", first, net.constant(np.array([-1])), axis=0))
    program = read_qdq(net.model(net.qdq(net.op("Relu", y), 0.1, -128)))
    assert floats(program) == []
    assert only(program, Move).index is None


def test_functions_of_the_model_are_written_out() -> None:
    net = Net(opset=18)
    x = net.qdq(net.input(1, 8), 0.1)
    net.nodes.append(helper.make_node("Gate", [x], ["gated"], "gate", domain="local"))
    scale, zero = net.constant(np.float32(0.05)), net.constant(np.array(0), INT8)
    y = net.op("DequantizeLinear", net.op("QuantizeLinear", "gated", scale, zero), scale, zero)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    body = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])]
    output = helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 8])
    graph = helper.make_graph(net.nodes, "net", net.inputs, [output], net.constants)
    function = helper.make_function("local", "Gate", ["a"], ["b"], body, imports[:1])
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=10)
    program = read_qdq(model)
    assert only(program, Table).function == "Sigmoid+Mul"
    assert_same_output(model, program, 0.05)


def test_a_transposed_weight_is_found_behind_its_transpose() -> None:
    net = Net()
    w = net.weight(net.rng.integers(-60, 60, (3, 4)), net.rng.uniform(0.01, 0.02, 3))
    model = net.model(net.qdq(net.op("MatMul", net.qdq(net.input(2, 4), 0.02, 3), net.op("Transpose", w, perm=[1, 0])), 0.05))
    program = read_qdq(model)
    assert only(program, Gemm).weight.shape == (3, 4)
    assert_same_output(model, program, 0.05)


@pytest.mark.parametrize("clamp", [True, False])
def test_a_quantizer_behind_a_max_pool_is_moved_before_it(clamp: bool) -> None:
    """Tools that write Q/DQ in front of convolutions alone leave Conv -> Relu -> MaxPool -> Q."""
    net = Net()
    y = net.conv(net.qdq(net.input(1, 4, 9, 9), 0.02, 3), 0.02, 6, 4)
    pooled = net.op("MaxPool", net.op("Relu", y) if clamp else y, kernel_shape=[2, 2])
    model = net.model(net.qdq(net.op("Flatten", pooled), 0.05, -20))
    program = read_qdq(model)
    assert [type(op).__name__ for op in program.ops] == ["Quantize", "Conv", "Pool", "Move", "Dequantize"]
    assert only(program, Conv).low == (-20 if clamp else -128)
    assert_same_output(model, program, 0.05)


def test_a_selection_of_float_values_is_quantized_behind_and_a_repetition_before() -> None:
    net = Net()
    x = net.input(1, 40)
    few = net.qdq(net.op("Gather", x, net.constant(np.array([3, 7])), axis=1), 0.1)
    many = net.qdq(net.op("Tile", x, net.constant(np.array([1, 3]))), 0.1)
    program = read_qdq(net.model(few, many))
    assert [program.tensors[op.outputs[0]].shape for op in program.ops if isinstance(op, Quantize)] == [(1, 2), (1, 40)]
    assert [op.op_types for op in floats(program)] == [("Gather",)]


def test_int8_network_inputs_are_codes_themselves() -> None:
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("x", INT8, (1, 6)))
    scale, zero = net.constant(np.float32(0.1)), net.constant(np.array(3), INT8)
    program = read_qdq(net.model(net.qdq(net.op("Relu", net.op("DequantizeLinear", "x", scale, zero)), 0.1, -128)))
    assert program.tensors["x"].zero_point == 3
    assert [type(op) for op in program.ops] == [Table, Dequantize]
    codes = np.array([[-128, -1, 3, 4, 50, 127]], np.int8)
    assert np.allclose(interpret(program, {"x": codes})[program.outputs[0]], np.maximum(0.1 * (codes - np.float32(3)), 0), atol=1e-6)


@pytest.mark.parametrize("element", [INT8, UINT8])
def test_integer_network_outputs_hold_the_codes_of_the_file(element: int) -> None:
    net = Net(activation=element)
    x = net.qdq(net.input(1, 5), 0.1, 3)
    scale, zero = net.constant(np.float32(0.05)), net.constant(np.array(100 if element == UINT8 else -28), element)
    model = net.model(net.op("QuantizeLinear", net.op("Relu", x), scale, zero))
    program = read_qdq(model)
    inputs = inputs_for(program)
    theirs = session(model, fused=False).run(None, inputs)[0]
    mine = interpret(program, inputs)[program.outputs[0]]
    assert mine.dtype == theirs.dtype
    assert (mine == theirs).all()


def test_operator_form_runs_on_integers() -> None:
    net = Net()
    x, shared = net.input(1, 4), [net.constant(np.float32(0.1)), net.constant(np.array(3), UINT8)]
    w = [net.constant(net.rng.integers(0, 255, (4, 3)).astype(np.uint8)), net.constant(np.float32(0.1)), net.constant(np.array(120), UINT8)]
    product = net.op("QLinearMatMul", net.op("QuantizeLinear", x, *shared), *shared, *w, *shared)
    model = net.model(net.op("DequantizeLinear", product, *shared))
    program = read_qdq(model)
    assert not floats(program)
    assert_same_output(model, program)


def test_two_quantizers_of_one_tensor_give_two_ops() -> None:
    net = Net()
    y = net.conv(net.qdq(net.input(1, 4, 5, 5), 0.02), 0.02, 3, 4)
    model = net.model(net.qdq(y, 0.05, 1), net.qdq(y, 0.02, 5))
    program = read_qdq(model)
    assert sum(isinstance(op, Conv) for op in program.ops) == 2
    assert worst_steps(model, program, inputs_for(program), fused=False)["Conv"] <= 1


def test_a_broadcasting_function_is_no_table() -> None:
    net = Net()
    x = net.qdq(net.input(1, 4, 1, 1), 0.1)
    model = net.model(net.qdq(net.op("Add", x, net.qdq(net.input(1, 4, 3, 3, name="b"), 0.1)), 0.2))
    assert only(read_qdq(model), Binary).kind == "add"


def test_symbolic_dimensions_are_given_or_taken_as_one() -> None:
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 4)))
    model = net.model(net.qdq("x", 0.1))
    assert read_qdq(model).tensors["x"].shape == (1, 4)
    assert read_qdq(model, shapes={"x": (7, 4)}).tensors["x"].shape == (7, 4)
    with pytest.raises(ModelError, match="another rank"):
        read_qdq(model, shapes={"x": (7,)})


def test_other_symbolic_dimensions_are_refused_by_name() -> None:
    net = Net()
    net.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, "width")))
    with pytest.raises(ModelError, match="x: dimension 1 is symbolic"):
        read_qdq(net.model(net.qdq("x", 0.1)))


def test_shapes_that_depend_on_the_data_are_refused_by_name() -> None:
    net = Net()
    picked = net.op("NonZero", net.qdq(net.input(1, 4), 0.1))
    with pytest.raises(ModelError, match=f"{picked}: the shape depends on the data"):
        read_qdq(net.model(net.op("Cast", picked, to=TensorProto.FLOAT)))


@pytest.mark.parametrize("size", [3, 4])
def test_weight_scales_that_do_not_fit_are_refused_by_name(size: int) -> None:
    net = Net()
    w = net.weight(net.rng.integers(-60, 60, (5, 4, 3, 3)), np.full(size, 0.01, np.float32))
    model = net.model(net.qdq(net.op("Conv", net.qdq(net.input(1, 4, 5, 5), 0.02), w), 0.05))
    with pytest.raises(ModelError, match=f"{w}_node: scale or zero point does not fit"):
        read_qdq(model)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"broken\.onnx: not an ONNX file"):
        read_qdq(path)
    with pytest.raises(ModelError, match="cannot read the model"):
        read_qdq(tmp_path / "absent.onnx")


def test_a_huge_constant_is_not_materialized() -> None:
    net = Net()
    huge = net.op("ConstantOfShape", net.constant(np.array([1 << 20, 1 << 20])))
    net.op("ReduceSum", huge)
    program = read_qdq(net.model(net.qdq(net.input(1, 4), 0.1)))
    assert [type(op) for op in program.ops] == [Quantize, Dequantize]


@pytest.mark.parametrize("shape", [(2,), (4,), (0,)])
def test_a_zero_point_of_another_shape_than_its_scale_is_refused_by_name(shape: tuple[int, ...]) -> None:
    net = Net()
    scale, zero = net.constant(np.float32(0.1).reshape(())), net.constant(np.zeros(shape, np.int8))
    codes = net.op("QuantizeLinear", net.input(1, 4), scale, zero)
    result = helper.make_tensor_value_info(str(net.op("DequantizeLinear", codes, scale, zero)), TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(net.nodes, "net", net.inputs, [result], net.constants)
    with pytest.raises(ModelError, match=r"quantizelinear.*different shapes"):
        read_qdq(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10))


def test_a_tensor_without_elements_is_refused_by_name() -> None:
    net = Net()
    two, one = net.constant(np.array([2])), net.constant(np.array([1]))
    empty = net.op("Slice", net.qdq(net.input(1, 4), 0.1), two, two, one)
    with pytest.raises(ModelError, match=r"slice.*has no elements"):
        read_qdq(net.model(net.op("Relu", empty)))


def test_an_output_that_is_a_constant_is_a_stretch_that_reads_nothing() -> None:
    net = Net()
    y, k = net.qdq(net.input(1, 4), 0.1), net.op("Identity", net.constant(np.array([[True, False]])))
    model = net.model(y)
    model.graph.output.append(helper.make_tensor_value_info(k, TensorProto.BOOL, [1, 2]))
    program = read_qdq(model)
    assert [op.inputs for op in program.ops if isinstance(op, Float)] == [()]
    np.testing.assert_array_equal(interpret(program, {program.inputs[0]: np.zeros((1, 4), np.float32)})[k], [[True, False]])
