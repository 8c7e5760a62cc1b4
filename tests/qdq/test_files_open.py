"""Every file that a plan can become loads and runs in ONNX Runtime with its default options, and means what the interpreter says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpqc.data.batches import open_data
from mpqc.errors import UsageError
from mpqc.frontend import load_network
from mpqc.numerics.interpreter import Interpreter
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.batch import free_batch
from mpqc.qdq.write.export import export_qdq
from mpqc.quantize.calibration import Calibration, calibrate
from mpqc.quantize.sites import find_sites
from mpqc.values.network import Network
from mpqc.values.plan import uniform_plan
from mpqc.values.program import Conv
from mpqc.values.qtype import QParams
from mpqc.values.site import SiteTable
from tests.onnx_models import noise


class Graph:
    """Collects nodes; the input is `x` [1, 4, 8, 8]."""

    def __init__(self) -> None:
        self.rng, self.nodes, self.constants = np.random.default_rng(0), [], []

    def const(self, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def weight(self, *shape: int) -> str:
        return self.const((self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"t{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, f"n{len(self.nodes)}", **attributes))
        return names if outputs > 1 else names[0]

    def conv(self, x: str, inputs: int = 4, *, bias: bool = True, group: int = 1) -> str:
        bias_name = [self.weight(4)] if bias else []
        return str(self.op("Conv", x, self.weight(4, inputs // group, 3, 3), *bias_name, pads=[1] * 4, group=group))

    def model(self, output: str, batch: str | int = 1) -> onnx.ModelProto:
        values = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4, 8, 8]),
            helper.make_tensor_value_info(output, TensorProto.FLOAT, None),
        ]
        graph = helper.make_graph(self.nodes, "net", values[:1], values[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def functions(g: Graph, *kinds: str) -> str:
    x = g.conv("x")
    for kind in kinds:
        x = g.op(kind, x)
    return g.conv(x)


def gated(g: Graph) -> str:
    x = g.op("Relu", g.conv("x"))
    gate = g.op("HardSigmoid", g.op("Conv", g.op("GlobalAveragePool", x), g.weight(4, 4, 1, 1), g.weight(4)))
    return g.conv(g.op("Mul", x, gate))


def parts(g: Graph) -> str:
    first, second = g.op("Split", g.conv("x"), g.const([2, 2]), axis=1, outputs=2)
    return g.conv(g.op("Concat", g.conv(first, 2), second, axis=1), 6)


def attention(g: Graph) -> str:
    tokens = g.op("Reshape", g.conv("x"), g.const([1, 16, 16]))
    query, key, value = (g.op("MatMul", tokens, g.weight(16, 8)) for _ in range(3))
    scores = g.op("Softmax", g.op("MatMul", query, g.op("Transpose", key, perm=[0, 2, 1])), axis=-1)
    return str(g.op("MatMul", g.op("MatMul", scores, value), g.weight(8, 4)))


def residual(g: Graph) -> str:
    x = g.op("Relu", g.conv("x"))
    return g.conv(g.op("Relu", g.op("Add", x, g.conv(x))))


PATTERNS: dict[str, Callable[[Graph], str]] = {
    "conv": lambda g: g.conv("x"),
    "conv, conv": lambda g: g.conv(g.conv("x")),
    "no bias": lambda g: g.conv(g.conv("x", bias=False), bias=False),
    "conv, relu, conv": lambda g: g.conv(g.op("Relu", g.conv("x"))),
    "conv, clip, conv": lambda g: g.conv(g.op("Clip", g.conv("x"), g.const(np.float32(0)), g.const(np.float32(6)))),
    "depthwise": lambda g: g.conv(g.conv(g.op("Relu", g.conv("x")), group=4)),
    "one dimension": lambda g: g.op("Conv", g.op("Reshape", g.conv("x"), g.const([1, 4, 64])), g.weight(4, 4, 3), g.weight(4)),
    "gemm, relu, gemm": lambda g: g.op(
        "Gemm", g.op("Relu", g.op("Gemm", g.op("Flatten", g.conv("x")), g.weight(8, 256), g.weight(8), transB=1)), g.weight(8, 5), g.weight(5)
    ),
    "attention": attention,
    "residual": residual,
    "difference, product": lambda g: g.conv(g.op("Mul", g.op("Sub", g.conv("x"), "x"), "x")),
    "constant operands": lambda g: g.conv(g.op("Add", g.op("Mul", g.conv("x"), g.weight(1, 4, 1, 1)), g.const(np.float32(2)))),
    "concat": lambda g: g.conv(g.op("Concat", g.conv("x"), "x", axis=1), 8),
    "split": parts,
    "slice": lambda g: g.conv(g.op("Slice", g.conv("x"), g.const([0]), g.const([2]), g.const([1])), 2),
    "max pool": lambda g: g.conv(g.op("MaxPool", g.op("Relu", g.conv("x")), kernel_shape=[2, 2], strides=[2, 2])),
    "average pool": lambda g: g.conv(g.op("AveragePool", g.conv("x"), kernel_shape=[2, 2], strides=[2, 2])),
    "global average": lambda g: g.op("Gemm", g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", g.conv("x")))), g.weight(4, 5), g.weight(5)),
    "transpose, pad": lambda g: g.conv(g.op("Pad", g.op("Transpose", g.conv("x"), perm=[0, 1, 3, 2]), g.const([0, 0, 1, 1, 0, 0, 1, 1]))),
    "nearest": lambda g: g.conv(g.op("Resize", g.conv("x"), "", "", g.const([1, 4, 16, 16]), mode="nearest")),
    "linear": lambda g: g.conv(g.op("Resize", g.conv("x"), "", "", g.const([1, 4, 16, 16]), mode="linear")),
    "gate": gated,
    "swish": lambda g: g.conv(g.op("Mul", x := g.conv("x"), g.op("Sigmoid", x))),
    "functions": lambda g: functions(g, "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Erf", "Abs"),
    "more functions": lambda g: functions(g, "Softplus", "Softsign", "HardSigmoid", "Neg", "Selu", "Celu"),
    "transposed convolution": lambda g: g.conv(g.op("ConvTranspose", g.conv("x"), g.weight(4, 4, 2, 2), strides=[2, 2])),
    "softmax": lambda g: g.op("Softmax", g.op("Gemm", g.op("Flatten", g.conv("x")), g.weight(256, 5), g.weight(5)), axis=1),
}
WIDTHS = [(weights, activations, None) for weights in (1, 2, 3, 4, 5, 8, 16) for activations in (2, 4, 8, 16)]
OPSETS = [(weights, activations, opset) for weights, activations in ((2, 8), (4, 4), (8, 8)) for opset in (13, 17, 19, 21, 23, 25)]


def prepared(model: onnx.ModelProto) -> tuple[Network, SiteTable, Calibration]:
    network = load_network(model)
    table = find_sites(network)
    return network, table, calibrate(network, table, open_data(noise(8, 4, 8, 8), network.inputs, limit=8), "minmax")


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Outputs with default options, but for a quiet log and exact sums on x86 without VNNI too."""
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return np.asarray(ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-9))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_width_and_opset_opens_and_means_the_same(pattern: str) -> None:
    g = Graph()
    network, table, calibration = prepared(g.model(PATTERNS[pattern](g)))
    x = noise(1, 4, 8, 8, seed=5)
    for weights, activations, opset in (*WIDTHS, *OPSETS):
        model = export_qdq(network, table, uniform_plan(table, "test", weights, activations), calibration, opset=opset)
        found, program = run(model, x), read_qdq(model)
        expected = Interpreter(program).run({"x": x})[program.outputs[0]]
        assert np.isfinite(found).all(), (weights, activations, opset)
        if activations >= 8:  # below, the one step that ONNX Runtime's float sums may turn is a large part of the range
            assert relative(found, expected) < 0.1, (weights, activations, opset)


def test_an_opset_that_lacks_an_op_is_refused_by_name() -> None:
    g = Graph()
    network, table, calibration = prepared(g.model(functions(g, "Mish")))
    with pytest.raises(UsageError, match="opset 17 has no Mish"):
        export_qdq(network, table, uniform_plan(table, "test", 8, 8), calibration, opset=17)


@pytest.mark.parametrize("widths", [(8, 8), (2, 8), (4, 8), (8, 16), (16, 16)])
def test_a_bias_far_beyond_its_weights_survives_in_onnx_runtime(widths: tuple[int, int]) -> None:
    """The runtime keeps bias codes at s_x * s_w whatever the file says: they must fit int32."""
    g = Graph()
    network, table, calibration = prepared(g.model(g.conv(g.op("Relu", g.conv("x")))))
    weight = next(node.weight for node in reversed(table.nodes) if node.weight)

    class Tiny:
        def qparams(self, site: str, bits: int) -> QParams:
            found = calibration.qparams(site, bits)
            return QParams(found.qtype, found.scale * np.float32(2.0**-30), found.zero_point) if site == weight else found

    model = export_qdq(network, table, uniform_plan(table, "test", *widths), Tiny())
    x = noise(1, 4, 8, 8, seed=5)
    program = read_qdq(model)
    assert relative(run(model, x), Interpreter(program).run({"x": x})[program.outputs[0]]) < 0.05


def test_weights_of_two_bits_are_stored_in_two_bits() -> None:
    g = Graph()
    network, table, calibration = prepared(g.model(g.conv(g.conv("x"))))
    model = export_qdq(network, table, uniform_plan(table, "test", 2, 8), calibration)
    stored = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT2]
    assert [len(tensor.raw_data) for tensor in stored] == [4 * 4 * 9 // 4] * 2


BATCHED: dict[str, Callable[[Graph], str]] = {
    "views": lambda g: g.op("MatMul", g.op("Reshape", g.conv("x"), g.const([1, 16, 16])), g.weight(16, 8)),
    "merged": lambda g: g.op("MatMul", g.op("Reshape", g.conv("x"), g.const([16, 16])), g.weight(16, 8)),
    "shuffle": lambda g: g.conv(
        g.op("Reshape", g.op("Transpose", g.op("Reshape", g.conv("x"), g.const([1, 2, 2, 8, 8])), perm=[0, 2, 1, 3, 4]), g.const([1, 4, 8, 8]))
    ),
    "resize": PATTERNS["nearest"],
    "resize by no ratio": lambda g: g.op("Resize", g.op("Relu", g.conv("x")), "", "", g.const([1, 4, 13, 11]), mode="linear"),
    "residual": residual,
    "attention": attention,
}


@pytest.mark.parametrize("pattern", BATCHED)
@pytest.mark.parametrize("opset", [17, 21])
def test_an_open_batch_stays_open(pattern: str, opset: int) -> None:
    g = Graph()
    network, table, calibration = prepared(g.model(BATCHED[pattern](g), batch="frames"))
    fixed = export_qdq(network, table, uniform_plan(table, "test", 8, 8), calibration, opset=opset)
    x = noise(3, 4, 8, 8, seed=5)
    freed = free_batch(fixed, network.batch, [{"x": x[i : i + 1]} for i in range(3)])
    assert not freed.reason
    assert freed.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "frames"
    assert relative(run(freed.model, x), np.concatenate([run(fixed, x[i : i + 1]) for i in range(3)])) < 0.02
    assert [type(op) for op in read_qdq(freed.model).ops] == [type(op) for op in read_qdq(fixed).ops]


def test_a_graph_that_holds_to_its_batch_says_why() -> None:
    g = Graph()
    network, table, calibration = prepared(g.model(g.op("Concat", g.conv("x"), g.weight(1, 4, 8, 8), axis=1), batch="N"))
    fixed = export_qdq(network, table, uniform_plan(table, "test", 8, 8), calibration)
    freed = free_batch(fixed, network.batch, [{"x": noise(1, 4, 8, 8, seed=seed)} for seed in range(3)])
    assert freed.model is fixed
    assert freed.reason


def test_a_fixed_batch_stays_fixed() -> None:
    g = Graph()
    network, table, calibration = prepared(g.model(g.conv("x")))
    assert not network.batch
    fixed = export_qdq(network, table, uniform_plan(table, "test", 8, 8), calibration)
    assert free_batch(fixed, network.batch, []).model is fixed


@pytest.mark.parametrize(("bits", "element"), [(1, TensorProto.INT2), (2, TensorProto.INT4), (3, TensorProto.INT4)])
def test_odd_codes_are_stored_in_the_narrowest_type_that_holds_them(bits: int, element: int) -> None:
    """And mean the same in ONNX Runtime; kernels store 2 bits in 2 again, where the depth is whole vectors."""
    g = Graph()
    wide = g.op("Relu", g.op("Conv", "x", g.weight(8, 4, 3, 3), pads=[1] * 4))
    network, table, calibration = prepared(g.model(g.op("Conv", wide, g.weight(4, 8, 3, 3), pads=[1] * 4)))
    half = replace(calibration, method="mse").with_half((1, 2, 3))
    model = export_qdq(network, table, uniform_plan(table, "test", bits, 8), half)
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name.endswith("_q") and len(tensor.dims) == 4}
    odd = {name: numpy_helper.to_array(tensor).astype(np.int8) for name, tensor in stored.items() if tensor.data_type == element}
    codes = [values for values in odd.values() if values.shape[1] == 8]
    assert len(codes) == 1
    assert set(np.unique(codes[0])) == set(range(1 - 2**bits, 2**bits, 2))
    program, x = read_qdq(model), noise(1, 4, 8, 8, seed=5)
    convolutions = [op for op in program.ops if isinstance(op, Conv)]
    assert [op.odd for op in convolutions if op.weight.shape[1] == 8] == [bits == 2]
    assert {op.weight_bits for op in convolutions if op.weight.shape[1] == 8} == {4 if bits == 3 else 2}
    assert relative(run(model, x), Interpreter(program).run({"x": x})[program.outputs[0]]) < 0.02
