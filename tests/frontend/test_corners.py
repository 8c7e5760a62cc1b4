"""Corners of the format: names, types, outputs that are inputs, copies, sequences."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_models import assert_close, check, graph_model, noise, one_op, run_network, run_ort

from mpqc.errors import ModelError
from mpqc.frontend import load_network


def test_names_that_python_or_torch_would_trip_over() -> None:
    names = ["class", "self", "training", "forward", "graph", "1.weight", "é", "a.b", "a/b", "a b"]
    inputs = {name: noise(2, 3, seed=index) for index, name in enumerate(names)}
    nodes = [helper.make_node("Sum", names, ["sum"]), helper.make_node("Concat", ["sum", *(f"c.{name}" for name in names)], ["y"], axis=0)]
    check(graph_model(nodes, inputs, {f"c.{name}": noise(1, 3, seed=index) for index, name in enumerate(names)}, ["y"]), inputs)
    stored = {name: noise(1, 3, seed=index) for index, name in enumerate(names)}
    nodes = [helper.make_node("Concat", ["x", *names], ["y"], axis=0)]
    network = check(graph_model(nodes, {"x": noise(2, 3)}, stored, ["y"]), {"x": noise(2, 3)})
    assert set(network.attributes) == set(names)
    assert len(set(network.attributes.values())) == len(names)


def test_output_that_is_an_input_or_a_constant() -> None:
    x = noise(2, 3)
    check(graph_model([helper.make_node("Relu", ["x"], ["y"])], {"x": x}, {}, ["y", "x"]), {"x": x})
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Add", ["k", "k"], ["z"])]
    check(graph_model(nodes, {"x": x}, {"k": noise(2)}, ["y", "z"]), {"x": x})


def test_unused_inputs_stay() -> None:
    feeds = {"x": noise(2, 3), "unused": noise(4)}
    network = check(graph_model([helper.make_node("Relu", ["x"], ["y"])], feeds, {}, ["y"]), feeds)
    assert [spec.name for spec in network.inputs] == ["x", "unused"]


def test_dead_nodes_go() -> None:
    nodes = [helper.make_node("Neg", ["x"], ["dead"]), helper.make_node("Relu", ["x"], ["y"])]
    assert len(load_network(graph_model(nodes, {"x": noise(2)}, {}, ["y"])).model.graph.node) == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_become_float32(dtype: type) -> None:
    x, weight = noise(4, 6).astype(dtype), noise(6, 5, seed=1).astype(dtype)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    model = graph_model(nodes, {"x": x}, {"w": weight}, ["y"])
    network = load_network(model)
    assert [spec.dtype for spec in (*network.inputs, *network.outputs)] == ["float32", "float32"]
    assert any(f"{np.dtype(dtype).name} tensors" in note for note in network.notes)
    expected = [value.astype(np.float32) for value in run_ort(model, {"x": x})]
    feeds = {"x": x.astype(np.float32)}
    assert_close(run_network(network, feeds), expected, 2e-3)
    assert_close(run_ort(network.model, feeds), expected, 2e-3)


def test_constants_that_torch_cannot_hold() -> None:
    """4-bit constants are dequantized while folding; where they are read as they are, the node is ONNX Runtime's."""
    codes = helper.make_tensor("q", onnx.TensorProto.INT4, [4], [1, -8, 7, 0])
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), helper.make_node("Mul", ["x", "w"], ["y"])]
    model = graph_model(nodes, {"x": noise(2, 4)}, {"s": np.float32(0.5)}, ["y"])
    model.graph.initializer.append(codes)
    check(model, {"x": noise(2, 4)})


def test_quantized_operators_are_left_to_onnx_runtime() -> None:
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    feeds = {"x": noise(2, 4)}
    model = graph_model(nodes, feeds, {"s": np.float32(0.1), "z": np.int8(3)}, ["y"])
    check(model, feeds, floats=["QuantizeLinear", "DequantizeLinear"])


def test_copies_and_pickles_of_regions() -> None:
    model, feeds = one_op("Hardmax", [noise(2, 5)])
    network = load_network(model)
    x = torch.from_numpy(feeds["x0"])
    expected = network.module(x)[0]
    assert torch.equal(copy.deepcopy(network.module)(x)[0], expected)
    region = next(iter(network.module.children()))
    assert torch.equal(pickle.loads(pickle.dumps(region))(x), expected)


def test_sequences_are_refused() -> None:
    nodes = [helper.make_node("SplitToSequence", ["x"], ["s"], name="parts"), helper.make_node("ConcatFromSequence", ["s"], ["y"], axis=0)]
    with pytest.raises(ModelError, match="parts"):
        load_network(graph_model(nodes, {"x": noise(3, 2)}, {}, ["y"]))


def test_branch_that_gives_one_tensor_twice() -> None:
    def branch(op_type: str) -> onnx.GraphProto:
        outputs = [onnx.ValueInfoProto(name="b"), onnx.ValueInfoProto(name="b")]
        return helper.make_graph([helper.make_node(op_type, ["x"], ["b"])], op_type, [], outputs)

    nodes = [helper.make_node("If", ["c"], ["y", "z"], name="choice", then_branch=branch("Relu"), else_branch=branch("Neg"))]
    model = graph_model(nodes, {"x": noise(3)}, {"c": np.array(False)}, ["y", "z"])
    assert_close(run_network(load_network(model), {"x": noise(3)}), [-noise(3), -noise(3)])
    del model.graph.node[0].output[1], model.graph.output[1]
    with pytest.raises(ModelError, match=r"choice.*do not fit"):
        load_network(model)


@pytest.mark.parametrize("op_type", ["RandomNormal", "Bernoulli"])
def test_random_nodes_are_refused_by_name(op_type: str) -> None:
    drawn = helper.make_node(op_type, ["x"], ["r"]) if op_type == "Bernoulli" else helper.make_node(op_type, [], ["r"], shape=[3])
    with pytest.raises(ModelError, match=f"{op_type} 'r': it draws random numbers"):
        load_network(graph_model([drawn, helper.make_node("Add", ["x", "r"], ["y"])], {"x": noise(3)}, {}, ["y"]))


@pytest.mark.parametrize(("domain", "op_type", "tool"), [("qonnx.custom_op.general", "Quant", "Brevitas"), ("mine", "Own", "neither mpqc")])
def test_operators_of_other_domains_are_refused_by_name(domain: str, op_type: str, tool: str) -> None:
    model = graph_model([helper.make_node(op_type, ["x"], ["y"], domain=domain, name="n")], {"x": noise(3)}, {}, ["y"])
    model.opset_import.append(helper.make_opsetid(domain, 1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3]))
    with pytest.raises(ModelError, match=f"{op_type} 'n': operator {domain}:{op_type} is not known: .*{tool}"):
        load_network(model)


def test_text_is_refused_by_name() -> None:
    model = graph_model([helper.make_node("Equal", ["x", "x"], ["y"])], {"x": noise(3)}, {}, ["y"])
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    with pytest.raises(ModelError, match="'x': string tensors are not supported"):
        load_network(model)


def test_shapes_that_are_computed_are_refused_by_name() -> None:
    feeds = {"x": noise(2, 3), "wanted": np.array([3, 2])}
    model = graph_model([helper.make_node("Reshape", ["x", "wanted"], ["y"], name="n")], feeds, {}, ["y"])
    with pytest.raises(ModelError, match=r"Reshape 'n'.*'wanted' decides it.*--value wanted="):
        load_network(model)
    check(model, {"x": feeds["x"], "wanted": feeds["wanted"]}, values={"wanted": feeds["wanted"]})


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_unsigned_integers_are_computed_by_onnx_runtime(dtype: type) -> None:
    model, feeds = one_op("BitwiseAnd", [np.array([5, 7], dtype), np.array([4, 65535], dtype)])
    check(model, feeds, floats=["BitwiseAnd"])


def test_equal_values_keep_their_order() -> None:
    check(*one_op("TopK", [np.float32([[1, 2, 2, 1, 2], [0, 0, 0, 0, 1]])], {1: np.array([4])}, outputs=2))
    check(*one_op("TopK", [np.float32([[1, 2, 2, 1, 2], [0, 0, 0, 0, 1]])], {1: np.array([4])}, outputs=2, largest=0))


def test_rows_without_a_norm_stay_zero() -> None:
    x = np.float32([[0, 0], [3, 4]])
    model, feeds = one_op("LpNormalization", [x], axis=1, p=2, opset=22)
    assert_close(run_network(load_network(model), feeds), [np.float32([[0, 0], [0.6, 0.8]])])


def test_slopes_of_old_files_lie_along_the_channels() -> None:
    x, slope = -np.ones((1, 4, 2, 4), np.float32), np.float32([1, 2, 3, 4])
    model = graph_model([helper.make_node("PRelu", ["x", "s"], ["y"])], {"x": x}, {"s": slope}, ["y"], opset=6, ir_version=3)
    model.graph.input.append(helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, [4]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, list(x.shape)))
    assert_close(run_network(load_network(model), {"x": x}), [x * slope.reshape(1, 4, 1, 1)])


def test_big_constants_are_not_blown_up() -> None:
    """An Expand of a scalar to 4M elements stays a node instead of 16 MB in the file."""
    nodes = [helper.make_node("Expand", ["k", "s"], ["e"]), helper.make_node("Add", ["x", "e"], ["y"])]
    network = load_network(graph_model(nodes, {"x": noise(1)}, {"k": np.float32(1), "s": np.array([2048, 2048], np.int64)}, ["y"]))
    assert len(network.model.SerializeToString()) < 5000
    assert_close(run_network(network, {"x": np.float32([1.0])}), [np.full((2048, 2048), 2, np.float32)])


def test_sparse_initializers_are_refused() -> None:
    model, _ = one_op("Relu", [noise(3)])
    values = numpy_helper.from_array(np.float32([1]), "sparse")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0], np.int64)), [3]))
    with pytest.raises(ModelError, match="sparse"):
        load_network(model)


def test_every_node_has_shape_type_and_origin() -> None:
    network = load_network(one_op("Split", [noise(2, 6)], {1: np.array([2, 4], np.int64)}, outputs=2, axis=1)[0])
    nodes = [node for node in network.module.graph.nodes if node.op != "output"]
    assert all({"origin", "shape", "dtype"} <= set(node.meta) for node in nodes)
    assert [node.meta["origin"].tensor for node in nodes] == ["x0", "y0", "y0", "y1"]
    assert [node.meta["shape"] for node in nodes[2:]] == [(2, 2), (2, 4)]
