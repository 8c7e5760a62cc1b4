"""Plans written as QDQ ONNX: types and opsets, what stays and what goes, and refusals."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from qdq_nets import inputs_for, optimized_ops, session, worst_steps

from mpqc.errors import ModelError, PlanError, UsageError
from mpqc.numerics.interpreter import interpret
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.export import export_qdq, widen
from mpqc.qdq.write.opset import lower_opset
from mpqc.values.network import Network
from mpqc.values.plan import Choice, Plan, Proof, uniform_plan
from mpqc.values.program import Binary, Conv, Float, Gemm, Program
from mpqc.values.qtype import QParams, QType
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable

SAME = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def rng_weights(*shape: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


WEIGHTS = {
    "w0": rng_weights(8, 3, 3, 3, seed=0),
    "b0": rng_weights(8, seed=1),
    "w1": rng_weights(8, 8, 3, 3, seed=2),
    "w2": rng_weights(10, 16, seed=3),
    "b2": rng_weights(10, seed=4),
    "offset": rng_weights(8, 1, 1, seed=5),
    "half": np.array(0.5, np.float32),
}


def network(*, named_output: str = "y") -> Network:
    """conv-relu, conv, residual add-relu, add of a constant, max pool, concat, average pool, flatten, gemm; every tensor named."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "conv0", **SAME),
        node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1"], ["c1"], "conv1", **SAME),
        node("Add", ["c1", "r0"], ["a0"], "add0"),
        node("Relu", ["a0"], ["r1"], "relu1"),
        node("Add", ["r1", "offset"], ["a1"], "add1"),
        node("MaxPool", ["a1"], ["p0"], "pool0", kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", ["p0", "p0"], ["k0"], "concat0", axis=1),
        node("AveragePool", ["k0"], ["g0"], "mean0", kernel_shape=[4, 4], dilations=[1, 1]),
        node("Flatten", ["g0"], ["f0"], "flat0"),
        node("Gemm", ["f0", "w2", "b2"], [named_output], "fc", transB=1),
    ]
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8]),
        helper.make_tensor_value_info(named_output, TensorProto.FLOAT, [1, 10]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in WEIGHTS.items() if name != "half"]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return SimpleNamespace(model=model, name="small")  # type: ignore[return-value]


def op(name: str, kind: str, inputs: tuple[str, ...], output: str, weight: str | None = None, fused: str = "") -> OpNode:
    return OpNode(name, kind, inputs, output, weight, fused=fused)


def site(name: str, shape: tuple[int, ...], group: str = "") -> Site:
    return Site(name, SiteKind.ACTIVATION, shape, None, group)


TABLE = SiteTable(
    (
        site("x", (1, 3, 8, 8)),
        site("r0", (1, 8, 8, 8)),
        site("c1", (1, 8, 8, 8)),
        site("r1", (1, 8, 8, 8)),
        site("a1", (1, 8, 8, 8), "pooled"),
        site("p0", (1, 8, 4, 4), "pooled"),
        site("k0", (1, 16, 4, 4), "pooled"),
        site("g0", (1, 16, 1, 1), "mean"),
        site("f0", (1, 16), "mean"),
        site("y", (1, 10)),
        Site("w0", SiteKind.WEIGHT, (8, 3, 3, 3), 0),
        Site("w1", SiteKind.WEIGHT, (8, 8, 3, 3), 0),
        Site("w2", SiteKind.WEIGHT, (10, 16), 0),
    ),
    (
        op("conv0", "Conv", ("x",), "r0", "w0", "Relu"),
        op("conv1", "Conv", ("r0",), "c1", "w1"),
        op("add0", "Add", ("c1", "r0"), "r1", None, "Relu"),
        op("add1", "Add", ("r1",), "a1"),
        op("pool0", "MaxPool", ("a1",), "p0"),
        op("concat0", "Concat", ("p0", "p0"), "k0"),
        op("mean0", "AveragePool", ("k0",), "g0"),
        op("flat0", "Flatten", ("g0",), "f0"),
        op("fc", "Gemm", ("f0",), "y", "w2"),
    ),
)


@dataclass(frozen=True)
class Ranges:
    """A calibration by hand: activations in [-3, 3], or [0, 3] behind a Relu; weights by channel."""

    relu: tuple[str, ...] = ("r0", "r1")

    def qparams(self, name: str, bits: int) -> QParams:
        if name in WEIGHTS:
            value = WEIGHTS[name]
            top = np.abs(value.reshape(len(value), -1)).max(axis=1)
            return QParams(QType(bits, 0), (top / max(QType(bits).qmax, 1)).astype(np.float32), np.zeros(len(value), np.int32))
        low = 0.0 if name in self.relu else -3.0
        scale = np.float32((3.0 - low) / (2**bits - 1))
        zero = np.rint(QType(bits).qmin - low / scale)
        return QParams(QType(bits), np.asarray(scale), np.array(zero, np.int32))


def exported(weight_bits: int = 8, activation_bits: int = 8, **options: object) -> onnx.ModelProto:
    return export_qdq(network(), TABLE, uniform_plan(TABLE, "test", weight_bits, activation_bits), Ranges(), **options)


def elements(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def all_integer(program: Program) -> bool:
    return not any(isinstance(item, Float) for item in program.ops)


CASES = [
    # weight bits, activation bits, opset asked for -> opset written, type of w1, type of r0, Clips
    (8, 8, None, 21, TensorProto.INT8, TensorProto.INT8, 0),
    (4, 8, None, 21, TensorProto.INT4, TensorProto.INT8, 0),
    (3, 4, None, 21, TensorProto.INT4, TensorProto.INT8, 10),
    (2, 8, None, 25, TensorProto.INT2, TensorProto.INT8, 0),
    (5, 6, None, 21, TensorProto.INT8, TensorProto.INT8, 10),
    (2, 2, None, 25, TensorProto.INT2, TensorProto.INT8, 10),
    (4, 4, 13, 13, TensorProto.INT8, TensorProto.INT8, 13),
    (2, 8, 13, 13, TensorProto.INT8, TensorProto.INT8, 3),
    (2, 8, 21, 21, TensorProto.INT4, TensorProto.INT8, 0),
    (8, 8, 17, 17, TensorProto.INT8, TensorProto.INT8, 0),
]


@pytest.mark.parametrize(("weights", "activations", "opset", "written", "weight_type", "activation_type", "clips"), CASES)
def test_types_opsets_and_values(
    weights: int, activations: int, opset: int | None, written: int, weight_type: int, activation_type: int, clips: int
) -> None:
    model = exported(weights, activations, opset=opset)
    types = elements(model)
    assert model.opset_import[0].version == written
    assert (types["w1_q"], types["r0_zero_point"], kinds(model)["Clip"]) == (weight_type, activation_type, clips)
    program = read_qdq(model)
    assert all_integer(program)
    inputs = inputs_for(program)
    worst = worst_steps(widen(model), program, inputs)
    assert worst["Gemm"] == 0  # and Conv below: Conv outputs behind a Relu, Add or pool can differ through Add's one step alone
    assert worst["Conv"] == 0
    assert max(worst.values()) <= 1
    expected = session(model).run(None, inputs)[0]
    # low activation widths: one step of an early Add or of a float-computed Conv may pass on to a few outputs
    step = float(program.tensors[program.ops[-1].inputs[0]].qparams.scale)
    assert np.abs(interpret(program, inputs)["y"] - expected).max() <= 2 * step


def test_eight_bit_files_run_as_integer_kernels_in_onnx_runtime(tmp_path: Path) -> None:
    ops = Counter(optimized_ops(exported(), tmp_path))
    assert (ops["QLinearConv"], ops["QGemm"], ops["QLinearAdd"], ops["QLinearAveragePool"]) == (2, 1, 2, 1)
    assert (ops["Conv"], ops["Relu"]) == (0, 0)


def test_widened_narrow_weights_run_as_integer_kernels(tmp_path: Path) -> None:
    model = exported(4, 8)
    assert Counter(optimized_ops(model, tmp_path))["QLinearConv"] == 0
    assert Counter(optimized_ops(widen(model), tmp_path))["QLinearConv"] == 2
    assert Counter(optimized_ops(exported(2, 8), tmp_path))["QLinearConv"] == 2  # int2 lies behind a Cast already


@pytest.mark.parametrize("bits", [(4, 4), (2, 4), (3, 5)])
def test_widening_changes_no_value(bits: tuple[int, int]) -> None:
    model = exported(*bits)
    inputs = inputs_for(read_qdq(model))
    before, after = (session(item, fused=False).run(None, inputs)[0] for item in (model, widen(model)))
    assert (before == after).all()
    assert not set(elements(widen(model)).values()) & {TensorProto.INT4, TensorProto.INT2}


def test_widening_refuses_a_type_without_zero_point() -> None:
    node = helper.make_node("QuantizeLinear", ["x", "s"], ["q"], "q", output_dtype=TensorProto.INT4)
    graph = helper.make_graph([node], "g", [], [], [numpy_helper.from_array(np.float32(1), "s")])
    with pytest.raises(ModelError, match="no zero point to widen"):
        widen(helper.make_model(graph))


def test_names_are_kept_and_the_tool_signs() -> None:
    model = exported()
    produced = {name for node in model.graph.node for name in node.output}
    assert {"r0", "c1", "r1", "a1", "p0", "k0", "g0", "f0", "y"} <= produced
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["x", "y"]
    assert {node.name for node in network().model.graph.node} - {node.name for node in model.graph.node} == {"relu0", "relu1"}
    assert model.producer_name == "mpqc"
    assert [entry.value for entry in model.metadata_props if entry.key == "mpqc_version"] == [model.producer_version]


@pytest.mark.parametrize(("bits", "codes_a_byte"), [(8, 1), (4, 2), (2, 4)])
def test_weights_take_their_real_width_in_the_file(bits: int, codes_a_byte: int) -> None:
    stored = {tensor.name: tensor for tensor in exported(bits).graph.initializer}["w1_q"]
    assert len(stored.raw_data) == 8 * 8 * 3 * 3 // codes_a_byte
    assert stored.ByteSize() < len(stored.raw_data) + 64


def test_a_relu_stays_where_the_codes_reach_below_zero() -> None:
    model = export_qdq(network(), TABLE, uniform_plan(TABLE, "test", 8, 8), Ranges(relu=("r1",)))
    assert kinds(model)["Relu"] == 1
    conv = next(item for item in read_qdq(model).ops if isinstance(item, Conv))
    assert (conv.low, conv.high) == (0, 127)


def test_constants_of_an_addition_are_quantized_with_it() -> None:
    program = read_qdq(exported())
    (added,) = (item for item in program.ops if isinstance(item, Binary) and item.constant is not None)
    scale = added.m_b * float(program.tensors[added.outputs[0]].qparams.scale)
    real = (added.constant.astype(np.float32) - added.constant_zero_point) * scale
    assert np.abs(real - WEIGHTS["offset"]).max() <= scale * 0.51


def test_biases_are_int32_in_steps_of_input_times_weight() -> None:
    model = exported()
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert constants["b0_q"].dtype == np.int32
    assert (constants["b0_scale"] == constants["x_scale"] * constants["w0_scale"]).all()
    assert np.abs(constants["b0_q"] * constants["b0_scale"] - WEIGHTS["b0"]).max() <= constants["b0_scale"].max() / 2 * 1.001


def test_trained_values_replace_the_files() -> None:
    trained = {"w1": WEIGHTS["w1"] * 0.5, "b2": WEIGHTS["b2"] + 1}
    model = exported(weights=trained)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    scale = Ranges().qparams("w1", 8).scale.reshape(-1, 1, 1, 1)
    assert np.abs(constants["w1_q"] * scale - trained["w1"]).max() <= scale.max() * 0.501
    with pytest.raises(PlanError, match="w9: no initializer of shape"):
        exported(weights={"w9": WEIGHTS["w1"]})
    with pytest.raises(PlanError, match="w1: no initializer of shape"):
        exported(weights={"w1": WEIGHTS["b2"]})


def plan_with(changes: dict[str, int | None]) -> Plan:
    choices = tuple(Choice(item.name, item.kind, changes.get(item.name, 8)) for item in TABLE.sites)
    return Plan("test", choices, Proof("given"))


def test_sites_that_stay_float_leave_their_nodes_float() -> None:
    model = export_qdq(network(), TABLE, plan_with({"w1": None, "y": None}), Ranges())
    program = read_qdq(model)
    reasons = {item.reason for item in program.ops if isinstance(item, Float)}
    assert reasons == {"weight is not quantized", "no output quantizer"}
    inputs = inputs_for(program)
    assert np.abs(interpret(program, inputs)["y"] - session(model).run(None, inputs)[0]).max() < 0.03


def test_widths_above_eight_bits_are_int16() -> None:
    model = exported(12, 16)
    types = elements(model)
    assert (types["w1_q"], types["r0_zero_point"]) == (TensorProto.INT16, TensorProto.INT16)
    assert not any(isinstance(item, Conv | Gemm) for item in read_qdq(model).ops)


def test_twelve_bit_activations_are_clipped_as_real_values() -> None:
    model = exported(8, 12)
    inputs = {"x": np.full((1, 3, 8, 8), 50.0, np.float32)}
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    wide.graph.output.append(onnx.ValueInfoProto(name="x_q"))
    assert session(wide, fused=False).run(["x_q"], inputs)[0].max() == 2047


def test_plans_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(PlanError, match=r"pooled: sites that share qparams have different bits: a1 8, p0 4"):
        export_qdq(network(), TABLE, plan_with({"p0": 4}), Ranges())
    foreign = Plan("test", (Choice("nowhere", SiteKind.WEIGHT, 8),), Proof("given"))
    with pytest.raises(PlanError, match="nowhere: no such site"):
        export_qdq(network(), TABLE, foreign, Ranges())


@pytest.mark.parametrize(("opset", "bits", "fault"), [(12, 8, "opset 12 has no quantization by channel"), (13, 16, "opset 13 has no 16-bit")])
def test_opsets_that_lack_a_type_are_refused(opset: int, bits: int, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        exported(8, bits, opset=opset)


def test_a_tensor_that_the_user_gives_is_quantized_for_integer_readers_alone() -> None:
    item = network()
    item.model.graph.node.append(helper.make_node("Exp", ["x"], ["e"], "exp"))
    item.model.graph.output.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, [1, 3, 8, 8]))
    model = export_qdq(item, TABLE, uniform_plan(TABLE, "test", 8, 8), Ranges())
    inputs = inputs_for(read_qdq(model))
    assert np.allclose(session(model, fused=False).run(["e"], inputs)[0], np.exp(inputs["x"]), rtol=1e-6)


def test_a_network_output_keeps_its_name_and_is_quantized() -> None:
    model = exported()
    producer = next(node for node in model.graph.node if "y" in node.output)
    assert producer.op_type == "DequantizeLinear"


def lowered(node: onnx.NodeProto, opset: int, **constants: np.ndarray) -> onnx.NodeProto:
    graph = helper.make_graph([node], "g", [], [], [numpy_helper.from_array(value, name) for name, value in constants.items()])
    model = helper.make_model(graph)
    lower_opset(model, opset)
    return model.graph.node[0]


def test_lower_opsets_get_axes_as_attributes_and_lose_defaults() -> None:
    mean = lowered(helper.make_node("ReduceMean", ["x", "axes"], ["y"], noop_with_empty_axes=0), 13, axes=np.array([2, 3]))
    assert list(mean.input) == ["x"]
    assert [(item.name, list(item.ints)) for item in mean.attribute] == [("axes", [2, 3])]
    pad = lowered(helper.make_node("Pad", ["x", "pads", "", ""], ["y"]), 13)
    assert list(pad.input) == ["x", "pads"]
    pool = lowered(helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[1, 1]), 13)
    assert [item.name for item in pool.attribute] == ["kernel_shape"]
    split = lowered(helper.make_node("Split", ["x"], ["a", "b"], num_outputs=2), 13)
    assert not split.attribute


@pytest.mark.parametrize(
    ("node", "fault"),
    [
        (helper.make_node("HardSwish", ["x"], ["y"], "swish"), "swish: opset 13 has no HardSwish"),
        (helper.make_node("Pad", ["x", "p", "v", "a"], ["y"], "pad"), "pad: Pad of opset 13 has no input 4"),
        (helper.make_node("Resize", ["x", "", "s"], ["y"], "size", antialias=1), "size: Resize of opset 13 has no attribute antialias"),
        (helper.make_node("ReduceMean", ["x", "a"], ["y"], "mean"), "mean: ReduceMean of opset 13 needs constant axes"),
        (helper.make_node("AveragePool", ["x"], ["y"], "pool", kernel_shape=[2, 2], dilations=[2, 2]), "pool: AveragePool .* no attribute dilations"),
    ],
)  # fmt: skip
def test_what_a_lower_opset_cannot_say_is_refused(node: onnx.NodeProto, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        lowered(node, 13)
