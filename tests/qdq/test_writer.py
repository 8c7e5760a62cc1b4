"""Q and DQ nodes as they stand in the file: every node, name, type and code of a network small enough to read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpqc.errors import UsageError
from mpqc.qdq.write.biases import bias_codes, raised_scales
from mpqc.qdq.write.writer import write_quantizers
from mpqc.values.qtype import QParams, QType
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable

WEIGHT = np.array([[1.0, -0.5], [0.25, 2.0]], np.float32).reshape(2, 2, 1, 1)
BIAS = np.array([0.5, -1.0], np.float32)
OFFSET = np.array([-1.0, 0.5], np.float32).reshape(2, 1, 1)


def q(bits: int, scale: float | list[float] = 0.5, zero: int = 0) -> QParams:
    """qparams; a list of scales is along axis 0."""
    scales = np.asarray(scale, np.float32)
    return QParams(QType(bits, 0 if scales.ndim else None), scales, np.full(scales.shape, zero, np.int32))


def network() -> onnx.ModelProto:
    """x > conv > relu > r; r + offset > y."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Add", ["r", "offset"], ["y"], "add"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 2, 2]) for name in ("x", "y")]
    constants = [numpy_helper.from_array(value, name) for name, value in (("w", WEIGHT), ("b", BIAS), ("offset", OFFSET))]
    return helper.make_model(helper.make_graph(nodes, "small", values[:1], values[1:], constants), opset_imports=[helper.make_opsetid("", 21)])


SHAPE = (1, 2, 2, 2)
TABLE = SiteTable(
    (*(Site(name, SiteKind.ACTIVATION, SHAPE) for name in ("x", "r", "y")), Site("w", SiteKind.WEIGHT, (2, 2, 1, 1), 0)),
    (OpNode("conv", "Conv", ("x",), "r", "w", fused="Relu"), OpNode("add", "Add", ("r",), "y")),
)


def written(bits: int, weight_bits: int = 8, opset: int = 21, relu_zero: int | None = None) -> onnx.ModelProto:
    lowest = QType(bits).qmin if relu_zero is None else relu_zero
    chosen = {"x": q(bits), "r": q(bits, 0.25, lowest), "y": q(bits, 0.5, 1), "w": q(weight_bits, [0.01, 0.02])}
    return write_quantizers(network(), TABLE, chosen, opset)


def lines(model: onnx.ModelProto) -> list[str]:
    return [f"{node.op_type} {', '.join(node.input)} > {', '.join(node.output)}" for node in model.graph.node]


def constants(model: onnx.ModelProto) -> dict[str, tuple[str, list[float]]]:
    found = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64).reshape(-1).tolist() for tensor in model.graph.initializer}
    kinds = {tensor.name: TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}
    return {name: (kinds[name], value) for name, value in found.items()}


FRONT = ["DequantizeLinear b_q, b_scale, b_zero_point > b_dq", "DequantizeLinear offset_q, offset_scale, offset_zero_point > offset_dq"]
EIGHT = [
    "DequantizeLinear w_q, w_scale, w_zero_point > w_dq",
    *FRONT,
    "QuantizeLinear x, x_scale, x_zero_point > x_q",
    "DequantizeLinear x_q, x_scale, x_zero_point > x_dq",
    "Conv x_dq, w_dq, b_dq > r",
    "QuantizeLinear r, r_scale, r_zero_point > r_q",
    "DequantizeLinear r_q, r_scale, r_zero_point > r_dq",
    "Add r_dq, offset_dq > y_real",
    "QuantizeLinear y_real, y_scale, y_zero_point > y_q",
    "DequantizeLinear y_q, y_scale, y_zero_point > y",
]
RELU = ["Conv x_dq, w_dq, b_dq > c", "Relu c > r"]
FLOAT = {"b_scale": 0.005, "offset_scale": 1.5 / 255, "x_scale": 0.5, "r_scale": 0.25, "y_scale": 0.5}


def test_eight_bits() -> None:
    model = written(8)
    assert lines(model) == EIGHT
    found = constants(model)
    assert found["w_q"] == ("INT8", [100, -50, 12, 100])  # 0.25 / 0.02 is 12.5, to the even code
    assert found["b_q"] == ("INT32", [100, -100])  # in steps of 0.5 * 0.01 and 0.5 * 0.02
    assert found["offset_q"] == ("INT8", [-128, 127])
    zeros = {"w": ("INT8", [0, 0]), "b": ("INT32", [0, 0]), "offset": ("INT8", [42]), "x": ("INT8", [0]), "r": ("INT8", [-128]), "y": ("INT8", [1])}
    assert {name: found[f"{name}_zero_point"] for name in zeros} == zeros
    assert {name: found[name][1][0] for name in FLOAT} == pytest.approx(FLOAT)
    assert set(found) == {*(f"{name}_q" for name in ("w", "b", "offset")), *(f"{n}_{part}" for n in zeros for part in ("scale", "zero_point"))}


def test_new_nodes_are_named_by_their_output_and_old_ones_keep_their_names() -> None:
    names = [node.name for node in written(8).graph.node]
    assert names[:5] == [f"{name}_dq_DequantizeLinear" for name in ("w", "b", "offset")] + ["x_q_QuantizeLinear", "x_dq_DequantizeLinear"]
    assert [name for name in names if "Linear" not in name] == ["conv", "add"]
    axes = {node.name: [(part.name, part.i) for part in node.attribute] for node in written(8).graph.node}
    assert {name for name, parts in axes.items() if parts == [("axis", 0)]} == {"w_dq_DequantizeLinear", "b_dq_DequantizeLinear"}
    assert sum(map(len, axes.values())) == 2


def test_widths_without_a_type_are_clipped_as_codes() -> None:
    model = written(4, 3, opset=13)
    expected = list(EIGHT)
    for name, before in (("w", 0), ("x", 4), ("r", 7), ("y", 10)):
        at = next(i for i, line in enumerate(expected) if line.startswith(f"DequantizeLinear {name}_q"))
        expected[at : at + 1] = [f"Clip {name}_q, {name}_clipped_min, {name}_clipped_max > {name}_clipped", expected[at].replace("_q,", "_clipped,")]
        assert at >= before
    assert lines(model) == expected
    found = constants(model)
    assert found["w_q"] == ("INT8", [3, -4, 3, 3])
    ends = {"w": (-4, 3), "x": (-8, 7), "r": (-8, 7), "y": (-8, 7)}
    assert {name: (found[f"{name}_clipped_min"], found[f"{name}_clipped_max"]) for name in ends} == {
        name: (("INT8", [low]), ("INT8", [high])) for name, (low, high) in ends.items()
    }


def test_twelve_bits_are_clipped_as_values() -> None:
    found, model = constants(written(12, 12)), written(12, 12)
    clips = [line for line in lines(model) if line.startswith("Clip")]
    assert clips == [f"Clip {real}, {name}_min, {name}_max > {name}_limited" for real, name in (("x", "x"), ("r", "r"), ("y_real", "y"))]
    assert "QuantizeLinear y_limited, y_scale, y_zero_point > y_q" in lines(model)
    assert (found["x_min"], found["x_max"]) == (("FLOAT", [-1024.0]), ("FLOAT", [1023.5]))
    assert (found["r_min"], found["y_max"]) == (("FLOAT", [0.0]), ("FLOAT", [1023.0]))
    assert {found[name][0] for name in ("w_q", "x_zero_point", "w_zero_point")} == {"INT16"}


@pytest.mark.parametrize(
    ("bits", "opset", "element", "clip"),
    [
        (2, 25, "INT2", False), (2, 24, "INT4", False), (2, 20, "INT8", True), (1, 25, "INT2", False), (3, 21, "INT4", False),
        (4, 21, "INT4", False), (4, 20, "INT8", True), (5, 13, "INT8", False), (8, 13, "INT8", False), (9, 21, "INT16", False),
        (16, 21, "INT16", False),
    ],
)  # fmt: skip
def test_the_narrowest_type_that_the_opset_has(bits: int, opset: int, element: str, clip: bool) -> None:
    model = written(8, bits, opset)
    assert constants(model)["w_q"][0] == element
    assert any(line.startswith("Clip w_q,") for line in lines(model)) == clip
    assert any(line == "Cast w_q > w_int8" for line in lines(model)) == (element == "INT2")
    assert constants(model)["w_zero_point"][0] == ("INT8" if element == "INT2" else element)


@pytest.mark.parametrize(("bits", "element", "clips"), [(7, "INT8", 3), (8, "INT8", 0), (9, "INT16", 3), (15, "INT16", 3), (16, "INT16", 0)])
def test_types_of_activations(bits: int, element: str, clips: int) -> None:
    model = written(bits)
    assert constants(model)["x_zero_point"][0] == element
    assert sum(node.op_type == "Clip" for node in model.graph.node) == clips


@pytest.mark.parametrize(("bits", "weights"), [(9, 8), (16, 8), (8, 9), (8, 16)])
def test_more_than_eight_bits_need_opset_21(bits: int, weights: int) -> None:
    with pytest.raises(UsageError, match=f"opset 20 has no {max(bits, weights)}-bit integers"):
        written(bits, weights, opset=20)


def test_names_that_are_taken_get_a_number() -> None:
    model = network()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "w_q"
    model.graph.node[2].name = "w_q_2"
    table = SiteTable(TABLE.sites, (TABLE.nodes[0], replace(TABLE.nodes[1], name="w_q_2")))
    chosen = {"x": q(8), "r": q(8, 0.25, -100), "w": q(8, [0.01, 0.02])}
    found = lines(write_quantizers(model, table, chosen, 21))
    assert found[0] == "DequantizeLinear w_q_3, w_scale, w_zero_point > w_dq"


def test_the_first_number_is_two() -> None:
    model = network()
    model.graph.node[2].name = "w_q"
    table = SiteTable(TABLE.sites, (TABLE.nodes[0], replace(TABLE.nodes[1], name="w_q")))
    found = lines(write_quantizers(model, table, {"x": q(8), "w": q(8, [0.01, 0.02])}, 21))
    assert found[0] == "DequantizeLinear w_q_2, w_scale, w_zero_point > w_dq"


# ---- clamps


@pytest.mark.parametrize(("scale", "zero", "stays"), [(1e-4, -128, False), (1e-4, -127, True), (1e4, -128, False)])
def test_a_relu_begins_at_zero_whatever_the_step(scale: float, zero: int, stays: bool) -> None:
    chosen = {"x": q(8), "r": q(8, scale, zero), "w": q(8, [0.01, 0.02])}
    assert (RELU[1] in lines(write_quantizers(network(), TABLE, chosen, 21))) == stays


@pytest.mark.parametrize(
    ("kind", "ends", "zero", "stays"),
    [
        ("Relu", (), -128, False), ("Relu", (), -127, True), ("Clip", (0.0, 63.75), -128, False), ("Clip", (0.0, 63.5), -128, True),
        ("Clip", (0.0, None), -128, False), ("Clip", (0.0,), -128, False), ("Clip", (0.25, 100.0), -128, True), ("Clip", (None, 63.75), -128, False),
        ("Clip", (), -128, False), ("Clip", ("x", 63.75), -128, True), ("HardSwish", (), -128, True),
    ],
)  # fmt: skip
def test_a_clamp_goes_where_the_codes_end_as_early(kind: str, ends: tuple[float | str | None, ...], zero: int, stays: bool) -> None:
    model = network()
    names = ["" if end is None else end if isinstance(end, str) else f"end{i}" for i, end in enumerate(ends)]
    model.graph.initializer.extend(numpy_helper.from_array(np.float32(end), f"end{i}") for i, end in enumerate(ends) if isinstance(end, float))
    model.graph.node[1].CopyFrom(helper.make_node(kind, ["c", *names], ["r"], "relu"))
    chosen = {"x": q(8), "r": q(8, 0.25, zero), "y": q(8), "w": q(8, [0.01, 0.02])}
    found = lines(write_quantizers(model, TABLE, chosen, 21))
    assert any(line.startswith(kind) and line.endswith("> r") for line in found) == stays
    assert ("Conv x_dq, w_dq, b_dq > r" in found) != stays


def test_a_clamp_whose_output_stays_float_is_kept() -> None:
    chosen = {"x": q(8), "y": q(8), "w": q(8, [0.01, 0.02])}
    found = lines(write_quantizers(network(), TABLE, chosen, 21))
    assert RELU[1] in found
    assert "Add r, offset > y_real" in found  # no other operand is an integer


# ---- who reads the codes


def test_a_float_reader_of_an_input_gets_the_real_values() -> None:
    model = network()
    model.graph.node.append(helper.make_node("Exp", ["x"], ["e"], "exp"))
    model.graph.node.append(helper.make_node("Exp", ["r"], ["f"], "exp_r"))
    chosen = {"x": q(8), "r": q(8, 0.25, -128), "y": q(8), "w": q(8, [0.01, 0.02])}
    found = lines(write_quantizers(model, TABLE, chosen, 21))
    assert "Exp x > e" in found
    assert "Exp r_dq > f" in found  # what an integer node writes has codes for everyone


def test_an_input_that_no_integer_node_reads_is_left_alone() -> None:
    table = SiteTable(TABLE.sites, TABLE.nodes[1:])
    chosen = {"x": q(8), "r": q(8, 0.25, -128), "y": q(8)}
    found = lines(write_quantizers(network(), table, chosen, 21))
    assert not any("x_q" in line for line in found)
    assert "Conv x, w, b > c" in found


def test_constants_of_functions_stay_real() -> None:
    table = SiteTable(TABLE.sites, (TABLE.nodes[0], replace(TABLE.nodes[1], is_table=True)))
    found = lines(write_quantizers(network(), table, {"x": q(8), "r": q(8), "y": q(8), "w": q(8, [0.01, 0.02])}, 21))
    assert "Add r_dq, offset > y_real" in found


# ---- biases


def gemm(bias: list[float], x: QParams, w: QParams) -> tuple[onnx.ModelProto, SiteTable, dict[str, QParams]]:
    values = {"w": np.ones((2, 2), np.float32), "b": np.array(bias, np.float32)}
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=1)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in "xy"]
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 21)])
    sites = (*(Site(name, SiteKind.ACTIVATION, (1, 2)) for name in "xy"), Site("w", SiteKind.WEIGHT, (2, 2), 0))
    return model, SiteTable(sites, (OpNode("fc", "Gemm", ("x",), "y", "w"),)), {"x": x, "y": q(8), "w": w}


def raised(bias: list[float], x: QParams, w: QParams) -> dict[str, QParams]:
    model, table, chosen = gemm(bias, x, w)
    nodes = {node.name: node for node in model.graph.node}
    return raised_scales(nodes, {tensor.name: tensor for tensor in model.graph.initializer}, table, chosen)


def test_scales_rise_to_twice_what_the_bias_needs() -> None:
    least = 4.0 / (0.5 * (2**31 - 1))
    found = raised([4.0, -1.0], q(8), q(8, [1e-12, 1.0]))["w"]
    assert found.scale.tolist() == pytest.approx([2 * least, 1.0])
    assert found.scale.dtype == np.float32
    one = raised([-4.0, 1.0], q(8), q(8, 1e-12))["w"]
    assert float(one.scale) == pytest.approx(2 * least)
    assert not raised([4.0, -1.0], q(8), q(8, [1.01 * least, 1.0]))
    assert raised([4.0, -1.0], q(8), q(8, [0.99 * least, 1.0]))


def test_scales_rise_for_integer_nodes_alone() -> None:
    assert raised([4.0, 4.0], q(8), q(8, 1e-12))
    assert not raised([4.0, 4.0], q(9), q(8, 1e-12))
    assert not raised([4.0, 4.0], q(8), q(9, 1e-12))
    model, table, chosen = gemm([4.0, 4.0], q(8), q(8, 1e-12))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for without in ("x", "w"):
        assert not raised_scales({"fc": model.graph.node[0]}, constants, table, {name: one for name, one in chosen.items() if name != without})
    assert not raised_scales({"fc": model.graph.node[0]}, {"w": constants["w"]}, table, chosen)
    del model.graph.node[0].input[2]
    assert not raised_scales({"fc": model.graph.node[0]}, constants, table, chosen)


def test_codes_of_biases_are_in_steps_of_the_accumulator_until_they_fit() -> None:
    node = OpNode("fc", "Gemm", ("x",), "y", "w")
    codes, scale = bias_codes(node, np.array([1.0, -3.1]), {"x": q(8), "w": q(8, [0.5, 0.25])})
    assert (codes.tolist(), scale.tolist()) == ([4, -25], [0.25, 0.125])
    exact = 0.5 * (2.0**31 - 1)
    for value, doubled in ((exact, 1), (exact + 0.5, 2), (-(2.0**30), 1), (-(2.0**30) - 0.5, 2), (4 * exact, 4), (-4 * exact, 4)):
        codes, scale = bias_codes(node, np.array([value, 0.0]), {"x": q(8, 1.0), "w": q(8, 0.5)})
        assert float(scale) == 0.5 * doubled, value
        assert codes[0] == np.rint(value / (0.5 * doubled))


def test_a_bias_of_one_scale_is_written_without_an_axis() -> None:
    model, table, chosen = gemm([1.0, -2.0], q(8), q(8, 0.5))
    found = write_quantizers(model, table, chosen, 21)
    dq = next(node for node in found.graph.node if node.output[0] == "b_dq")
    assert not dq.attribute
    assert constants(found)["b_q"] == ("INT32", [4, -8])
    assert constants(found)["b_scale"] == ("FLOAT", [0.25])


def test_a_bias_stays_real_where_the_input_does_or_it_is_computed() -> None:
    model, table, chosen = gemm([1.0, -2.0], q(8), q(8, 0.5))
    found = lines(write_quantizers(model, table, {name: one for name, one in chosen.items() if name != "x"}, 21))
    assert "Gemm x, w_dq, b > y_real" in found


@pytest.mark.parametrize(
    ("values", "scale", "zero"), [([-1.0, 0.5], 1.5 / 255, 42), ([1.0, 2.0], 2 / 255, -128), ([-2.0, -1.0], 2 / 255, 127), ([0.0, 0.0], 1.0, -128)]
)
def test_constant_operands_span_their_values_and_zero(values: list[float], scale: float, zero: int) -> None:
    model = network()
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.array(values, np.float32).reshape(2, 1, 1), "offset"))
    found = constants(write_quantizers(model, TABLE, {"x": q(8), "r": q(8), "y": q(8), "w": q(8, [0.01, 0.02])}, 21))
    assert found["offset_scale"] == ("FLOAT", [pytest.approx(scale)])
    assert found["offset_zero_point"] == ("INT8", [zero])
