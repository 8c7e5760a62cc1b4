"""Compiled programs give the interpreter's results bit for bit, on this machine and in the emulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from programs import Net, noise, qparams

from mpqc.errors import LoweringError, TargetError
from mpqc.lowering import build, lower
from mpqc.lowering.steps import Call, View
from mpqc.numerics.interpreter import Interpreter
from mpqc.runtime import run_emulated, run_host, write_bundle
from mpqc.targets import load_target
from mpqc.values.program import Program


def residual() -> Program:
    net = Net(1)
    x = net.conv(net.image(1, 3, 9, 11), 16)
    y = net.table(net.conv(x, 16, bits=4))
    z = net.binary("add", x, y)
    pooled = net.pool(z, "average", (9, 11), (1, 1))
    flat = net.move(pooled, lambda p: p.reshape(1, 16), "Flatten")
    return net.program(net.dequantize(net.gemm(flat, 10)), net.dequantize(z))


def flatten_of_an_image() -> Program:
    net = Net(2)
    x = net.pool(net.conv(net.image(2, 1, 12, 12), 7), "max", (2, 2))
    flat = net.move(x, lambda p: p.reshape(2, -1), "Flatten")
    return net.program(net.dequantize(net.gemm(flat, 10, bits=2)))


def channel_shuffle() -> Program:
    net = Net(3)
    x = net.conv(net.image(1, 4, 6, 5), 24, (1, 1), pads=(0, 0, 0, 0))
    apart = net.move(x, lambda p: p.reshape(1, 2, 12, 6, 5), "Reshape")
    swapped = net.move(apart, lambda p: p.transpose(0, 2, 1, 3, 4), "Transpose")
    shuffled = net.move(swapped, lambda p: p.reshape(1, 24, 6, 5), "Reshape")
    left = net.move(shuffled, lambda p: p[:, :12], "Split")
    right = net.move(shuffled, lambda p: p[:, 12:], "Split")
    right = net.conv(right, 12, groups=12)
    left = net.table(left)
    net.tensors[left] = net.tensors[right]
    joined = net.concat(1, right, net.table(right))
    return net.program(net.dequantize(joined), net.dequantize(left))


def detector_head() -> Program:
    net = Net(4)
    x = net.conv(net.image(1, 3, 16, 16), 8, strides=(2, 2), groups=1)
    top = net.resize(net.pool(x, "max", (2, 2)), 2)
    both = net.binary("add", x, top)
    padded = net.pad(both, (0, 0, 1, 2, 0, 1, 0, 3))
    rows = net.move(padded, lambda p: p.transpose(0, 2, 3, 1), "Transpose")
    boxes = net.move(rows, lambda p: p.reshape(1, -1, 9), "Reshape")
    return net.program(net.dequantize(boxes))


def one_dimensional() -> Program:
    net = Net(5)
    x = net.conv(net.image(2, 6, 40), 9, (1, 5), pads=(0, 2, 0, 2))
    y = net.binary("mul", x, net.table(x))
    z = net.constant("add", y, 9, 1)
    w = net.concat(2, z, z)
    padded = net.pad(w, (0, 0, 1, 0, 0, 2))
    pooled = net.pool(padded, "max", (1, 3), (1, 2))
    grouped = net.conv(pooled, 9, (1, 3), pads=(0, 1, 0, 1), groups=9)
    return net.program(net.dequantize(grouped))


def transformer_block() -> Program:
    net = Net(6)
    x = net.image(2, 7, 32)
    heads = net.move(net.gemm(x, 24), lambda p: p.reshape(2, 7, 4, 6), "Reshape")
    swapped = net.move(heads, lambda p: p.transpose(0, 2, 1, 3), "Transpose")
    mixed = net.gemm(swapped, 6, bits=4)
    scaled = net.constant("sub", net.table(mixed), 1, 4, 1, 1)
    back = net.move(scaled, lambda p: p.transpose(0, 2, 1, 3).reshape(2, 7, 24), "Reshape")
    return net.program(net.dequantize(net.binary("add", net.gemm(back, 32), x)))


def attention() -> Program:
    net = Net(16)
    x = net.image(1, 9, 24)
    q, k, v = (net.move(net.gemm(x, 24), lambda p: p.reshape(1, 9, 4, 6).transpose(0, 2, 1, 3), "Transpose") for _ in range(3))
    scores = net.matmul(q, net.move(k, lambda p: p.transpose(0, 1, 3, 2), "Transpose"))
    mixed = net.matmul(net.table(scores), v)
    back = net.move(mixed, lambda p: p.transpose(0, 2, 1, 3).reshape(1, 9, 24), "Reshape")
    return net.program(net.dequantize(net.binary("add", net.gemm(back, 24), x)), net.dequantize(scores))


def codes_in_and_out() -> Program:
    net = Net(7)
    a = net.input(1, 5, 6, 7, q=qparams(0.1, -3))
    b = net.input(1, 5, 1, 1, q=qparams(0.1, 9))
    y = net.binary("add", net.table(a), b)
    return net.program(net.conv(y, 8), y, net.conv(a, 5, (1, 1), pads=(0, 0, 0, 0)))


def softmax_model(x: str, y: str, s: str) -> bytes:
    nodes = [helper.make_node("Softmax", [x], [s], axis=-1), helper.make_node("ReduceMean", [s], ["m"], axes=[1], keepdims=1)]
    nodes += [helper.make_node("Sub", [s, "m"], ["d"]), helper.make_node("Mul", ["d", "k"], [y])]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 6, 12]) for name in (x, y, s)]
    scale = onnx.numpy_helper.from_array(np.linspace(1, 3, 12).astype(np.float32), "k")
    graph = helper.make_graph(nodes, "region", info[:1], info[1:], [scale])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()


def split_model(x: str, a: str, b: str) -> bytes:
    nodes = [
        helper.make_node("Split", [x], ["left", "right"], axis=1),
        helper.make_node("Tanh", ["left"], [a]),
        helper.make_node("Exp", ["right"], [b]),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, size]) for name, size in ((x, 6), (a, 3), (b, 3))]
    graph = helper.make_graph(nodes, "region", info[:1], info[1:])
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()


def vendor_model(x: str, y: str) -> bytes:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in (x, y)]
    graph = helper.make_graph([helper.make_node("Fancy", [x], [y], domain="vendor")], "region", info[:1], info[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid("vendor", 1)]).SerializeToString()


def float_middle() -> Program:
    net = Net(8)
    x = net.dequantize(net.gemm(net.image(1, 6, 20), 12))
    y, s = net.float_region(x, [(1, 6, 12)] * 2, softmax_model, ("Softmax", "ReduceMean", "Sub", "Mul"))
    return net.program(net.dequantize(net.table(net.quantize(y))), s)


EXACT = (residual, flatten_of_an_image, channel_shuffle, detector_head, one_dimensional, transformer_block, attention, codes_in_and_out)
programs = pytest.mark.parametrize("make", EXACT, ids=lambda make: make.__name__)
Make = Callable[[], Program]


@programs
def test_host_equals_interpreter(make: Make, tmp_path: Path) -> None:
    program = make()
    inputs = noise(program, samples=2)
    outputs = run_host(build(lower(program, load_target("host")), tmp_path / "model.so"), inputs)
    _equal(outputs, Interpreter(program).run(inputs))


@pytest.mark.emulator
@programs
def test_emulator_equals_interpreter(make: Make, tmp_path: Path) -> None:
    program = make()
    lowered = lower(program, load_target("cortex-a76"))
    bundle = write_bundle(tmp_path / "bundle", lowered, build(lowered, tmp_path / "model.so"))
    inputs = noise(program, samples=2)
    expected = Interpreter(program).run(inputs)
    for threads in (1, 2, 4):
        _equal(run_emulated(bundle, inputs, threads=threads), expected)


def test_float_region_is_close_to_onnxruntime(tmp_path: Path) -> None:
    program = float_middle()
    inputs = noise(program)
    lowered = lower(program, load_target("host"))
    outputs = run_host(build(lowered, tmp_path / "model.so"), inputs)
    expected = Interpreter(program).run(inputs)
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, rtol=0, atol=1e-4 if name == program.outputs[1] else 0.031)
    assert [(kept.op, kept.reason) for kept in lowered.floats] == [("region", "has no integer kernel")]


def test_a_float_region_may_have_ops_with_several_outputs(tmp_path: Path) -> None:
    net = Net(9)
    program = net.program(*net.float_region(net.input(2, 6), [(2, 3)] * 2, split_model, ("Split", "Tanh", "Exp")))
    inputs = noise(program)
    outputs = run_host(build(lower(program, load_target("host")), tmp_path / "model.so"), inputs)
    for name, values in Interpreter(program).run(inputs).items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-5, atol=1e-6)


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [build(lower(residual(), load_target("cortex-a76")), tmp_path / name) for name in ("a.so", "b.so")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_float_region_that_tvm_does_not_take_is_refused_by_name() -> None:
    net = Net()
    y = net.float_region(net.input(1, 4), [(1, 4)], vendor_model, ("Fancy",))
    with pytest.raises(LoweringError, match=r"region.*Fancy"):
        lower(net.program(*y), load_target("host"))


def test_cost_only_targets_are_refused() -> None:
    with pytest.raises(TargetError, match="no code"):
        lower(residual(), load_target("ethos-u55-256"))


def test_integer_ops_need_no_layout_conversions_and_views_no_code() -> None:
    lowered = lower(residual(), load_target("cortex-a76"))
    assert lowered.conversions == ()
    assert [step.op for step in lowered.steps if isinstance(step, View)] == ["flatten_6"]


def test_a_node_may_have_any_name() -> None:
    program = residual()
    renamed = replace(program, ops=tuple(replace(op, name=f"layout of {op.name}") for op in program.ops))
    assert lower(renamed, load_target("cortex-a76")).conversions == ()


def test_a_channel_shuffle_is_one_move_for_each_half() -> None:
    lowered = lower(channel_shuffle(), load_target("cortex-a76"))
    moves = [step.op for step in lowered.steps if isinstance(step, Call) and "move" in step.kernel.name]
    assert len(moves) == 2
    assert all("transpose" in name for name in moves)


def test_constants_shrink_with_weight_bits(tmp_path: Path) -> None:
    sizes = {}
    for bits in (8, 4, 2):
        net = Net()
        x = net.conv(net.image(1, 16, 8, 8), 256, bits=bits)
        lowered = lower(net.program(net.dequantize(net.conv(x, 256, bits=bits))), load_target("cortex-a76"))
        sizes[bits] = (lowered.constant_bytes, build(lowered, tmp_path / f"{bits}.so").stat().st_size)
    weights = 9 * 256 * (16 + 256)
    for index in (0, 1):
        assert 0.98 < (sizes[8][index] - sizes[4][index]) / (weights / 2) < 1.05
        assert 0.98 < (sizes[4][index] - sizes[2][index]) / (weights / 4) < 1.05


def test_equal_kernels_are_shared() -> None:
    net = Net()
    x = net.conv(net.image(1, 8, 6, 6), 16)
    for _ in range(3):
        x = net.conv(x, 16)
    lowered = lower(net.program(net.dequantize(x)), load_target("host"))
    kernels = [call.kernel for call in lowered.calls if call.kernel.startswith("conv")]
    assert len(kernels) == 4
    assert len(set(kernels)) == 2


def test_building_reports_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    lowered = lower(residual(), load_target("host"))
    with pytest.raises(LoweringError, match="cannot write"):
        build(lowered, tmp_path / "file" / "model.so")


def _equal(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert outputs.keys() == expected.keys()
    for name, values in expected.items():
        assert outputs[name].dtype == values.dtype
        np.testing.assert_array_equal(outputs[name], values, err_msg=name)
