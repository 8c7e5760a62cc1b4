"""Files built node by node: every op of the integer program against ONNX Runtime and ONNX's own reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from qdq_nets import INT8, UINT8, Net, assert_within, inputs_for, optimized_ops, session, worst_steps

from mpqc.numerics import integer
from mpqc.numerics.interpreter import interpret, interpret_all
from mpqc.qdq.read.program import read_qdq
from mpqc.values.program import Binary, Concat, Conv, Float, Gemm, MatMul, Move, Pad, Pool, Program, Resize, Table

WINDOWS = [
    # inside, out, kernel, groups, height, window
    (3, 8, 3, 1, 9, {}),
    (3, 8, 3, 1, 9, {"pads": [1, 1, 1, 1]}),
    (4, 8, 3, 1, 10, {"pads": [1, 0, 0, 1], "strides": [2, 2]}),
    (4, 8, 3, 1, 11, {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    (8, 8, 3, 8, 9, {"pads": [1, 1, 1, 1]}),
    (8, 16, 3, 8, 9, {"pads": [1, 1, 1, 1], "strides": [2, 1]}),
    (8, 12, 3, 4, 8, {"pads": [1, 1, 1, 1]}),
    (16, 6, 1, 1, 7, {}),
    (16, 6, 1, 1, 7, {"strides": [2, 2]}),
    (4, 4, 5, 1, 12, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    (4, 4, 4, 1, 12, {"auto_pad": "SAME_LOWER"}),
]


def check(model: onnx.ModelProto, *kinds: type, inputs: dict[str, np.ndarray] | None = None, fused: bool = True) -> Program:
    """Read, compare op by op, and require `kinds` and nothing float."""
    program = read_qdq(model)
    assert [op for op in program.ops if isinstance(op, Float)] == []
    assert set(kinds) <= {type(op) for op in program.ops}
    assert_within(worst_steps(model, program, inputs or inputs_for(program), fused=fused))
    return program


@pytest.mark.parametrize("activation", [INT8, UINT8])
@pytest.mark.parametrize("channels", [True, False])
@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: f"{w[0]}to{w[1]}k{w[2]}g{w[3]}")
def test_conv(window: tuple, channels: bool, activation: int) -> None:
    inside, out, kernel, groups, height, attributes = window
    net = Net(activation=activation)
    x = net.qdq(net.input(2, inside, height, height + 1), 0.02, 7)
    y = net.conv(x, 0.02, out, inside // groups, kernel, channels=channels, group=groups, **attributes)
    check(net.model(net.qdq(y, 0.03, -11)), Conv)


@pytest.mark.parametrize(("clamp", "zero", "scale"), [("Relu", -128, 0.02), ("Relu", -20, 0.02), ("Clip", -128, 6 / 255), ("Clip", -100, 0.05)])
def test_a_fused_clamp_bounds_the_codes(clamp: str, zero: int, scale: float) -> None:
    net = Net(seed=3)
    x = net.qdq(net.input(1, 4, 8, 8), 0.02)
    y = net.conv(x, 0.02, 8, 4)
    bounds = (net.constant(np.float32(0.0).reshape(())), net.constant(np.float32(6.0).reshape(()))) if clamp == "Clip" else ()
    program = check(net.model(net.qdq(net.op(clamp, y, *bounds), scale, zero)), Conv)
    conv = next(op for op in program.ops if isinstance(op, Conv))
    assert conv.low == zero
    assert conv.high == (min(127, zero + round(6 / scale)) if clamp == "Clip" else 127)


@pytest.mark.parametrize("activation", [INT8, UINT8])
@pytest.mark.parametrize("kind", ["gemm", "gemm_transposed", "matmul", "matmul_bias", "matmul_3d"])
def test_fully_connected(kind: str, activation: int) -> None:
    net = Net(seed=4, activation=activation)
    shape = (2, 5, 24) if kind == "matmul_3d" else (3, 24)
    x = net.qdq(net.input(*shape), 0.02, -3)
    transposed = kind == "gemm_transposed"
    w, scale = net.random_weight(*((10, 24) if transposed else (24, 10)), axis=0 if transposed else 1)
    bias = net.bias(net.rng.integers(-3000, 3000, 10), np.float32(0.02) * scale)
    if kind.startswith("gemm"):
        y = net.op("Gemm", x, w, bias, **({"transB": 1} if transposed else {}))
    else:
        y = net.op("MatMul", x, w)
        y = net.op("Add", y, bias) if kind == "matmul_bias" else y
    # the runtime adds the bias behind MatMul in float: with rounding errors below 2^-20 of a step it never differed on these values
    check(net.model(net.qdq(y, 0.05, 9)), Gemm)


@pytest.mark.parametrize("activation", [INT8, UINT8])
@pytest.mark.parametrize("shapes", [((2, 3, 5, 16), (2, 3, 16, 7)), ((2, 1, 5, 16), (3, 16, 7)), ((5, 16), (16, 7))], ids=str)
def test_product_of_two_activations(shapes: tuple[tuple[int, ...], tuple[int, ...]], activation: int) -> None:
    net = Net(seed=11, activation=activation)
    a, b = (net.qdq(net.input(*shape, name=name), 0.02, zero) for shape, name, zero in zip(shapes, "ab", (7, -20), strict=True))
    check(net.model(net.qdq(net.op("MatMul", a, b), 0.05, -3)), MatMul)


def test_product_with_a_transposed_activation() -> None:
    net = Net(seed=12)
    a, b = (net.qdq(net.input(*shape, name=name), 0.02, zero) for shape, name, zero in (((5, 16), "a", 7), ((7, 16), "b", -20)))
    # the runtime multiplies in float here: its sums of 16 products are exact
    check(net.model(net.qdq(net.op("Gemm", a, b, transB=1), 0.05, -3)), MatMul)


@pytest.mark.parametrize("activation", [INT8, UINT8])
@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (6, 1, 1), (1, 1, 5, 7)], ids=str)
def test_binary(kind: str, activation: int, shape: tuple[int, ...]) -> None:
    net = Net(seed=5, activation=activation)
    a = net.qdq(net.input(2, 6, 5, 7, name="a"), 0.02, 7)
    b = net.qdq(net.input(*shape, name="b"), 0.03, -20)
    check(net.model(net.qdq(net.op("Relu", net.op(kind, a, b)), 0.04, -100)), Binary)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul"])
def test_binary_with_a_constant(kind: str, first: bool) -> None:
    net = Net(seed=6)
    x = net.qdq(net.input(1, 6, 5, 5), 0.02, 7)
    c = net.weight(net.rng.integers(-127, 128, (6, 1, 1)), np.float32(0.01))
    check(net.model(net.qdq(net.op(kind, *((c, x) if first else (x, c))), 0.03, 4)), Binary)


@pytest.mark.parametrize("function", ["Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Softplus", "Abs", "Neg", "Relu", "Erf"])
def test_a_function_is_a_table(function: str) -> None:
    net = Net(seed=7)
    x = net.qdq(net.input(2, 200), 0.03, 5)
    program = check(net.model(net.qdq(net.op(function, x), 0.01, -30)), Table, fused=False)
    assert next(op for op in program.ops if isinstance(op, Table)).function == function


def test_an_expression_of_one_tensor_is_one_table() -> None:
    net = Net(seed=8)
    x = net.qdq(net.input(2, 300), 0.03)
    half = net.constant(np.float32(0.5).reshape(()))
    gate = net.op("Sigmoid", net.op("Mul", x, half))
    program = check(net.model(net.qdq(net.op("Mul", x, gate), 0.02)), Table, fused=False)
    assert [op.function for op in program.ops if isinstance(op, Table)] == ["Mul+Sigmoid+Mul"]


def test_a_prelu_with_one_slope_is_a_table() -> None:
    net = Net(seed=9)
    x = net.qdq(net.input(1, 3, 4, 4), 0.03)
    check(net.model(net.qdq(net.op("PRelu", x, net.constant(np.full((1, 1, 1), 0.2, np.float32))), 0.02)), Table, fused=False)


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1), (4,)])
def test_a_prelu_with_a_slope_a_channel_is_a_table_for_each(shape: tuple[int, ...]) -> None:
    net = Net(seed=9)
    x = net.qdq(net.input(2, 3, 4, 4), 0.03, 3)
    slopes = net.constant(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
    program = check(net.model(net.qdq(net.op("PRelu", x, slopes), 0.02, -7)), Table, fused=False)
    assert next(op for op in program.ops if isinstance(op, Table)).axis == (1 if 3 in shape else 3)


def test_requantizing_is_a_table() -> None:
    net = Net(seed=10)
    x = net.qdq(net.input(4, 100), 0.03, 12)
    program = check(net.model(net.qdq(x, 0.013, -40)), Table)
    assert next(op for op in program.ops if isinstance(op, Table)).function == "Requantize"


POOLS = [
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [3, 2], "dilations": [2, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("GlobalAveragePool", {}),
    ("GlobalMaxPool", {}),
    ("ReduceMean", {"axes": [2, 3], "keepdims": 0}),
    ("ReduceMean", {"axes": [-1, -2]}),
]


@pytest.mark.parametrize("activation", [INT8, UINT8])
@pytest.mark.parametrize(("kind", "attributes"), POOLS, ids=[f"{kind}{i}" for i, (kind, _) in enumerate(POOLS)])
def test_pools(kind: str, attributes: dict, activation: int) -> None:
    net = Net(seed=11, activation=activation)
    x = net.qdq(net.input(2, 3, 7, 9), 0.03, 12)
    same = kind in ("MaxPool", "GlobalMaxPool")
    y = net.qdq(net.op(kind, x, **attributes), *((0.03, 12) if same else (0.02, -4)))
    check(net.model(y), Pool, fused=False)


def test_a_max_pool_that_changes_qparams_is_followed_by_a_table() -> None:
    net = Net(seed=12)
    x = net.qdq(net.input(1, 3, 8, 8), 0.03, 12)
    check(net.model(net.qdq(net.op("MaxPool", x, kernel_shape=[2, 2]), 0.02, 1)), Pool, Table, fused=False)


def test_concat_brings_its_inputs_to_one_scale() -> None:
    net = Net(seed=13)
    a = net.qdq(net.input(1, 3, 4, 4, name="a"), 0.03, 12)
    b = net.qdq(net.input(1, 5, 4, 4, name="b"), 0.02, -7)
    program = check(net.model(net.qdq(net.op("Concat", a, b, axis=1), 0.02, -7)), Concat)
    joined = next(op for op in program.ops if isinstance(op, Concat))
    assert [table is None for table in joined.tables] == [False, True]  # inside the Concat, in no memory of its own


MOVES = [
    ("Reshape", ([2, 45],), {}),
    ("Flatten", (), {"axis": 1}),
    ("Transpose", (), {"perm": [0, 2, 3, 1]}),
    ("Transpose", (), {}),
    ("Squeeze", ([],), {}),
    ("Unsqueeze", ([1],), {}),
    ("Slice", ([1, 0], [5, 3], [1, 3], [2, 1]), {}),
    ("Gather", ([2, 0],), {"axis": 1}),
    ("Expand", ([2, 5, 3, 3],), {}),
    ("Tile", ([1, 2, 1, 1],), {}),
]


@pytest.mark.parametrize("quantized", [True, False])
@pytest.mark.parametrize("activation", [INT8, UINT8])
@pytest.mark.parametrize(("kind", "parameters", "attributes"), MOVES, ids=[f"{kind}{i}" for i, (kind, _, _) in enumerate(MOVES)])
def test_moves(kind: str, parameters: tuple, attributes: dict, activation: int, quantized: bool) -> None:
    """With and without Q/DQ behind, the codes are moved and a following Conv or Add still finds them."""
    net = Net(seed=14, activation=activation)
    x = net.qdq(net.input(2, 5, 3, 3), 0.03, 12)
    used = [np.array(p, dtype=np.int64) for p in parameters]
    moved = net.op(kind, x, *(net.constant(p) for p in used if p.size), **attributes)
    moved = net.qdq(moved, 0.03, 12) if quantized else moved
    check(net.model(net.qdq(net.op("Add", moved, moved), 0.05, 3)), Move, Table, fused=False)


def test_split_and_depth_to_space() -> None:
    net = Net(seed=15, opset=13)
    x = net.qdq(net.input(1, 12, 4, 4), 0.03, 12)
    a, b = net.op("Split", x, net.constant(np.array([4, 8])), outputs=2, axis=1)
    y = net.qdq(net.op("DepthToSpace", a, blocksize=2), 0.03, 12)
    z = net.qdq(net.op("SpaceToDepth", b, blocksize=2), 0.03, 12)
    program = check(net.model(y, z), Move, fused=False)
    assert sum(isinstance(op, Move) for op in program.ops) == 4


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("value", [0.0, 0.6])
def test_pad(mode: str, value: float) -> None:
    net = Net(seed=16, opset=13)
    x = net.qdq(net.input(1, 3, 5, 5), 0.03, 12)
    pads = net.constant(np.array([0, 1, 2, 0, 0, 0, 1, 3]) if mode == "constant" else np.array([0, 0, 2, 0, 0, 0, 1, 3]))
    y = net.op("Pad", x, pads, net.constant(np.float32(value).reshape(())), mode=mode)
    check(net.model(net.qdq(y, 0.03, 12)), Pad if mode == "constant" else Move, fused=False)


RESIZES = [
    ("nearest", "asymmetric", "floor"),
    ("nearest", "half_pixel", "round_prefer_floor"),
    ("nearest", "align_corners", "ceil"),
    ("linear", "half_pixel", "floor"),
    ("linear", "align_corners", "floor"),
    ("linear", "asymmetric", "floor"),
    ("linear", "pytorch_half_pixel", "floor"),
]


@pytest.mark.parametrize(("mode", "place", "rounding"), RESIZES)
@pytest.mark.parametrize("size", [(10, 14), (3, 9), (5, 7), (1, 1)])
def test_resize(mode: str, place: str, rounding: str, size: tuple[int, int]) -> None:
    net = Net(seed=17, opset=13)
    x = net.qdq(net.input(1, 2, 5, 7), 0.03, 12)
    sizes = net.constant(np.array([1, 2, *size]))
    y = net.op("Resize", x, "", "", sizes, mode=mode, coordinate_transformation_mode=place, nearest_mode=rounding)
    program = check(net.model(net.qdq(y, 0.03, 12)), Resize, fused=False)
    assert next(op for op in program.ops if isinstance(op, Resize)).mode == mode


@pytest.mark.parametrize("kernel", [{"kernel_shape": [3], "strides": [2], "pads": [1, 1]}, {"dilations": [2], "pads": [0, 3]}])
def test_one_dimensional_convolution(kernel: dict) -> None:
    net = Net(seed=18)
    x = net.qdq(net.input(2, 4, 17), 0.02, 5)
    w, scale = net.random_weight(6, 4, 3)
    y = net.op("Conv", x, w, net.bias(net.rng.integers(-999, 999, 6), np.float32(0.02) * scale), **kernel)
    pooled = net.op("MaxPool", net.qdq(y, 0.03, 0), kernel_shape=[2])
    check(net.model(net.qdq(pooled, 0.03, 0)), Conv, Pool, fused=False)


def resnet_block(net: Net) -> onnx.ModelProto:
    x = net.qdq(net.input(1, 8, 10, 10), 0.02, 0)
    first = net.qdq(net.op("Relu", net.conv(x, 0.02, 16, 8, pads=[1, 1, 1, 1], strides=[2, 2])), 0.02, -128)
    second = net.qdq(net.conv(first, 0.02, 16, 16, pads=[1, 1, 1, 1]), 0.05, 3)
    shortcut = net.qdq(net.conv(x, 0.02, 16, 8, 1, strides=[2, 2]), 0.04, -5)
    total = net.qdq(net.op("Relu", net.op("Add", second, shortcut)), 0.05, -128)
    mean = net.qdq(net.op("GlobalAveragePool", total), 0.02, -128)
    flat = net.qdq(net.op("Flatten", mean), 0.02, -128)
    w, scale = net.random_weight(10, 16)
    bias = net.bias(net.rng.integers(-3000, 3000, 10), np.float32(0.02) * scale)
    return net.model(net.qdq(net.op("Gemm", flat, w, bias, transB=1), 0.05, 0))


def mobilenet_block(net: Net) -> onnx.ModelProto:
    bounds = [net.constant(np.float32(value).reshape(())) for value in (0, 6)]
    x = net.qdq(net.input(1, 8, 9, 9), 0.02, 0)
    wide = net.qdq(net.op("Clip", net.conv(x, 0.02, 24, 8, 1), *bounds), 6 / 255, -128)
    deep = net.qdq(net.op("Clip", net.conv(wide, 6 / 255, 24, 1, group=24, pads=[1, 1, 1, 1]), *bounds), 6 / 255, -128)
    narrow = net.qdq(net.conv(deep, 6 / 255, 8, 24, 1), 0.03, 4)
    return net.model(net.qdq(net.op("Add", x, narrow), 0.04, 0))


def feature_pyramid(net: Net) -> onnx.ModelProto:
    x = net.qdq(net.input(1, 4, 8, 8), 0.02, 0)
    small = net.qdq(net.conv(x, 0.02, 8, 4, pads=[1, 1, 1, 1], strides=[2, 2]), 0.03, 0)
    large = net.qdq(net.op("Resize", small, "", "", net.constant(np.array([1, 8, 8, 8])), mode="nearest", nearest_mode="floor"), 0.03, 0)
    both = net.qdq(net.op("Concat", large, x, axis=1), 0.03, 0)
    return net.model(net.qdq(net.conv(both, 0.03, 5, 12, 1), 0.05, 0))


@pytest.mark.parametrize("activation", [INT8, UINT8])
@pytest.mark.parametrize("build", [resnet_block, mobilenet_block, feature_pyramid])
def test_blocks_run_as_integer_kernels_in_onnx_runtime_with_the_same_codes(build, activation: int, tmp_path: Path) -> None:
    model = build(Net(seed=19, activation=activation))
    assert "QLinearConv" in optimized_ops(model, tmp_path)
    program = check(model, Conv)
    inputs = inputs_for(program)
    theirs = session(model).run(None, inputs)[0]
    step = float(
        next(op for op in program.ops[::-1] if type(op).__name__ == "Dequantize") and program.tensors[program.ops[-1].inputs[0]].qparams.scale
    )
    assert np.abs(interpret(program, inputs)[program.outputs[0]] - theirs).max() <= step * 1.001


@pytest.mark.parametrize("build", [resnet_block, mobilenet_block])
def test_the_reference_implementation_agrees_within_a_step(build) -> None:
    """ONNX's reference computes conv in float32 on dequantized values: its rounding can move a value to the next code, which later
    layers average out rather than amplify at these scales."""
    model = build(Net(seed=20, opset=21))
    program = read_qdq(model)
    inputs = inputs_for(program)
    expected = ReferenceEvaluator(model).run(None, inputs)[0]
    step = float(program.tensors[program.ops[-1].inputs[0]].qparams.scale)
    assert np.abs(interpret(program, inputs)[program.outputs[0]] - expected).max() <= step * 1.001


@pytest.mark.parametrize("element", [TensorProto.INT4, TensorProto.INT2])
def test_sub_byte_weights(element: int) -> None:
    """The runtime convolves int4/int2 weights in float32: sums below 2^24 are exact up to the scales, so at most one step differs."""
    top = 7 if element == TensorProto.INT4 else 1
    net = Net(seed=21, opset=25)
    x = net.qdq(net.input(1, 8, 9, 9), 0.02, 3)
    codes = net.rng.integers(-top - 1, top + 1, (12, 8, 3, 3))
    scale = net.rng.uniform(0.02, 0.08, 12).astype(np.float32)
    y = net.op("Conv", x, net.weight(codes, scale, element=element), net.bias(net.rng.integers(-900, 900, 12), np.float32(0.02) * scale))
    model = net.model(net.qdq(y, 0.05, 2))
    program = read_qdq(model)
    conv = next(op for op in program.ops if isinstance(op, Conv))
    assert conv.weight_bits == (4 if element == TensorProto.INT4 else 2)
    assert (conv.weight == codes).all()
    assert worst_steps(model, program, inputs_for(program), fused=False)["Conv"] <= 1


def test_weights_stored_unsigned_with_zero_point_128() -> None:
    net = Net(seed=22, activation=UINT8)
    x = net.qdq(net.input(1, 4, 8, 8), 0.02, 3)
    w, scale = net.random_weight(6, 4, 3, 3, element=UINT8, limit=63)
    y = net.op("Conv", x, w, net.bias(net.rng.integers(-900, 900, 6), np.float32(0.02) * scale))
    check(net.model(net.qdq(y, 0.05, 2)), Conv)


def test_quantized_values_are_unchanged_by_the_shift_to_signed_codes() -> None:
    net = Net(seed=23, activation=UINT8)
    model = net.model(net.qdq(net.input(3, 50), 0.07, -40))
    inputs = {"x": np.linspace(-20, 20, 150, dtype=np.float32).reshape(3, 50)}
    program = read_qdq(model)
    values = interpret_all(program, inputs)
    assert (values[program.outputs[0]] == session(model).run(None, inputs)[0]).all()
    assert (
        integer.quantize(values[program.outputs[0]], program.tensors[program.ops[0].outputs[0]].qparams) == values[program.ops[0].outputs[0]]
    ).all()
