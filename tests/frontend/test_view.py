"""The view of an ONNX graph: values only, with Constant nodes as constants."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper, shape_inference

from mpqc.frontend.view import view
from tests.onnx_models import graph_model


def test_view_of_a_small_graph() -> None:
    value = numpy_helper.from_array(np.asarray([2.0], np.float32), "two")
    nodes = [
        helper.make_node("Constant", [], ["k"], "const", value=value),
        helper.make_node("Mul", ["x", "k"], ["m"], "mul"),
        helper.make_node("Add", ["m", "m"], ["y"], "add"),
        helper.make_node("LRN", ["x"], ["z"], "lrn", size=3, alpha=0.5),
    ]
    model = graph_model(nodes, {"x": np.zeros((1, 4, 2, 2), np.float32)}, {"unused": np.zeros(3, np.int64)}, ["y", "z"])
    graph = view(shape_inference.infer_shapes(model))
    assert [node.name for node in graph.nodes] == ["mul", "add", "lrn"]
    assert graph.constants["k"].tolist() == [2.0]
    assert graph.dtypes["unused"] == "int64"
    assert graph.shape("m") == (1, 4, 2, 2)
    assert graph.shape("nowhere") == ()
    assert [node.name for node in graph.consumers["m"]] == ["add"]  # once, although it is read twice
    assert graph.producer["z"].name == "lrn"
    assert graph.nodes[2].attributes == {"size": 3, "alpha": 0.5}
    assert graph.data_inputs(graph.nodes[0]) == ("x",)
    assert (graph.nodes[0].input(1), graph.nodes[0].input(2)) == ("k", "")
    assert graph.inputs == ("x",)
    assert graph.outputs == ("y", "z")


def test_strings_are_decoded_and_subgraphs_left_out() -> None:
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["b"])], "body", [], [helper.make_tensor_value_info("b", 1, [2])])
    nodes = [
        helper.make_node("If", ["c"], ["y"], "if", then_branch=body, else_branch=body),
        helper.make_node("Pad", ["x", "p"], ["z"], "pad", mode="reflect"),
    ]
    inputs = {"x": np.zeros(2, np.float32), "c": np.zeros((), np.bool_)}
    graph = view(graph_model(nodes, inputs, {"p": np.asarray([1, 1])}, ["y", "z"]))
    assert graph.nodes[0].attributes == {}
    assert graph.nodes[1].attributes == {"mode": "reflect"}
