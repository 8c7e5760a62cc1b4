"""If, Loop and Scan written out: both branches and a choice, iterations one after the other, and what is refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mpqc.errors import ModelError
from mpqc.frontend import load_network
from mpqc.passes.lib import control_flow
from tests.onnx_models import assert_close, graph_model, noise, run_network, run_ort

X = noise(2, 3)
make = helper.make_node


def value(name: str, dtype: int = TensorProto.FLOAT, shape: tuple[int, ...] | None = (2, 3)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def body(nodes: list[onnx.NodeProto], states: list[str], outputs: list[str]) -> onnx.GraphProto:
    """A Loop's body: number `i`, condition `g`, states; outputs `go` and more."""
    inputs = [value("i", TensorProto.INT64, ()), value("g", TensorProto.BOOL, ()), *(onnx.ValueInfoProto(name=name) for name in states)]
    return helper.make_graph(nodes, "body", inputs, [value("go", TensorProto.BOOL, ()), *(onnx.ValueInfoProto(name=name) for name in outputs)])


def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, [], [value(name, shape=None)])


def check(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: list[str], *feeds: np.ndarray) -> set[str]:
    """The imported network equals ONNX Runtime on the file for each of `feeds`, and nothing is left to ONNX Runtime; op types of the graph."""
    model = graph_model(nodes, {"x": feeds[0]}, constants, outputs, ir_version=9)
    network = load_network(model)
    assert network.floats == ()
    for x in feeds:
        expected = run_ort(model, {"x": x})
        assert_close(run_network(network, {"x": x}), expected)
        assert_close(run_ort(network.model, {"x": x}), expected)
    return {node.op_type for node in network.model.graph.node}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_both_branches_of_an_if_on_data(shape: tuple[int, ...]) -> None:
    then, other = branch("p", make("Relu", ["x"], ["r"]), make("Neg", ["r"], ["p"])), branch("q", make("Exp", ["x"], ["q"]))
    nodes = [
        make("ReduceSum", ["x"], ["sum"], keepdims=0), make("Reshape", ["sum", "shape"], ["one"]), make("Greater", ["one", "zero"], ["c"]),
        make("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]  # fmt: skip
    constants = {"zero": np.float32(0), "shape": np.array(shape, np.int64)}
    assert "Where" in check(nodes, constants, ["y"], np.abs(X), -np.abs(X))


def test_branches_of_different_shapes_are_refused_by_name() -> None:
    then, other = branch("p", make("Relu", ["x"], ["p"])), branch("q", make("ReduceMax", ["x"], ["q"]))
    nodes = [
        make("ReduceSum", ["x"], ["s"], keepdims=0), make("Greater", ["s", "zero"], ["c"]),
        make("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=other),
    ]  # fmt: skip
    with pytest.raises(ModelError, match=r"If 'choice'.*shapes \[2, 3\] and \[1, 1\]"):
        load_network(graph_model(nodes, {"x": X}, {"zero": np.float32(0)}, ["y"], ir_version=9))


def test_a_loop_of_known_length_with_what_it_stacks() -> None:
    inside = [
        make("Add", ["before", "x"], ["after"]), make("Identity", ["g"], ["go"]),
        make("Cast", ["i"], ["n"], to=TensorProto.FLOAT), make("Mul", ["after", "n"], ["row"]),
    ]  # fmt: skip
    nodes = [make("Loop", ["count", "", "x"], ["y", "rows"], name="turns", body=body(inside, ["before"], ["after", "row"]))]
    assert check(nodes, {"count": np.int64(4)}, ["y", "rows"], X) == {"Add", "Mul", "Unsqueeze", "Concat"}


def test_a_loop_that_counts_by_itself() -> None:
    inside = [make("Add", ["k", "one"], ["k2"]), make("Less", ["k2", "five"], ["go"]), make("Mul", ["before", "x"], ["after"])]
    nodes = [make("Loop", ["", "yes", "k0", "x"], ["k", "y"], body=body(inside, ["k", "before"], ["k2", "after"]))]
    constants = {"yes": np.array(True), "k0": np.int64(0), "one": np.int64(1), "five": np.int64(5)}
    assert check(nodes, constants, ["y"], X) == {"Mul"}


WHILE = [make("Add", ["before", "x"], ["after"]), make("ReduceSum", ["after"], ["s"], keepdims=0), make("Less", ["s", "limit"], ["go"])]


@pytest.mark.parametrize("limit", [-1.0, 3.0, 20.0, 100.0])
def test_a_loop_whose_end_depends_on_data_keeps_its_state(limit: float) -> None:
    nodes = [make("Loop", ["bound", "yes", "x"], ["y"], body=body(WHILE, ["before"], ["after"]))]
    check(nodes, {"bound": np.int64(6), "yes": np.array(True), "limit": np.float32(limit)}, ["y"], np.abs(X), np.abs(X) / 9)


def test_a_loop_that_may_not_start() -> None:
    start = [make("ReduceMax", ["x"], ["m"], keepdims=0), make("Greater", ["m", "limit"], ["first"])]
    nodes = [*start, make("Loop", ["bound", "first", "x"], ["y"], body=body(WHILE, ["before"], ["after"]))]
    check(nodes, {"bound": np.int64(3), "limit": np.float32(0.5)}, ["y"], np.abs(X) + 1, -np.abs(X))


def test_an_if_on_data_in_a_loop() -> None:
    choice = make(
        "If", ["c"], ["after"], then_branch=branch("u", make("Neg", ["before"], ["u"])), else_branch=branch("w", make("Exp", ["before"], ["w"]))
    )
    inside = [make("ReduceSum", ["before"], ["s"], keepdims=0), make("Greater", ["s", "limit"], ["c"]), choice, make("Identity", ["g"], ["go"])]
    nodes = [make("Loop", ["count", "", "x"], ["y"], body=body(inside, ["before"], ["after"]))]
    check(nodes, {"count": np.int64(3), "limit": np.float32(2)}, ["y"], X, -X)


def test_scan_forward_and_backward_along_other_axes() -> None:
    inside = [make("Add", ["state", "each"], ["next"]), make("Identity", ["next"], ["row"]), make("Neg", ["each"], ["other"])]
    graph = helper.make_graph(
        inside, "body", [value("state", shape=(4,)), value("each", shape=(4,))], [value(name, shape=(4,)) for name in ("next", "row", "other")]
    )
    options = {"scan_input_axes": [1], "scan_input_directions": [1], "scan_output_axes": [0, 1], "scan_output_directions": [0, 1]}
    nodes = [make("Scan", ["zero", "x"], ["last", "rows", "others"], body=graph, num_scan_inputs=1, **options)]
    check(nodes, {"zero": np.zeros(4, np.float32)}, ["last", "rows", "others"], noise(4, 5))


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        (["", "yes", "x"], ["y"], "how often it runs depends on data"),
        (["bound", "yes", "x"], ["y", "rows"], "how often it runs depends on data"),
        (["none", "yes", "x"], ["y", "rows"], "it stacks the results of no iteration"),
    ],
)
def test_loops_that_are_no_fixed_sequence_are_refused_by_name(inputs: list[str], outputs: list[str], reason: str) -> None:
    inside = [*WHILE, make("Identity", ["after"], ["row"])]
    nodes = [make("Loop", inputs, outputs, name="turns", body=body(inside, ["before"], ["after", "row"][: len(outputs)]))]
    constants = {"bound": np.int64(6), "none": np.int64(0), "yes": np.array(True), "limit": np.float32(9)}
    with pytest.raises(ModelError, match=f"Loop 'turns'.*{reason}"):
        load_network(graph_model(nodes, {"x": X}, constants, outputs, ir_version=9))


def test_loops_in_loops_share_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_flow, "UNROLLED", 50)
    inner = onnx.compose.add_prefix_graph(body([make("Neg", ["b"], ["a"]), make("Identity", ["g"], ["go"])], ["b"], ["a"]), "inner/")
    outer = body([make("Loop", ["many", "", "before"], ["after"], body=inner), make("Identity", ["g"], ["go"])], ["before"], ["after"])
    nodes = [make("Loop", ["many", "", "x"], ["y"], name="turns", body=outer)]
    with pytest.raises(ModelError, match="over 50 nodes"):
        load_network(graph_model(nodes, {"x": X}, {"many": np.int64(10)}, ["y"], ir_version=9))
