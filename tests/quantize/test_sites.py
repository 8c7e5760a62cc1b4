"""Which tensors become sites, which share, what is fused, and what stays float with its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from mpqc.frontend import load_network
from mpqc.quantize.sites import find_sites
from mpqc.values.site import SiteKind, SiteTable
from tests.onnx_models import graph_model
from tests.quant_models import residual_network, weights

node = helper.make_node


def table_of(nodes: list[Any], constants: dict[str, np.ndarray], outputs: list[str], shape: tuple[int, ...] = (1, 4, 8, 8)) -> SiteTable:
    return find_sites(load_network(graph_model(nodes, {"x": np.zeros(shape, np.float32)}, constants, outputs)))


def conv(source: str, result: str, weight: str = "w") -> Any:
    return node("Conv", [source, weight], [result], f"conv_{result}", kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def activations(table: SiteTable) -> list[str]:
    return [site.name for site in table.sites if site.kind is SiteKind.ACTIVATION]


def reasons(table: SiteTable) -> dict[str, str]:
    return {item.op_type: item.reason for item in table.floats}


W = {"w": weights(4, 4, 3, 3, seed=0)}


def test_residual_network_sites_and_fusing() -> None:
    table = find_sites(residual_network())
    assert activations(table) == ["x", "r0", "r1", "c2", "r2", "p0", "c3", "h0", "k0", "g0", "f0", "y"]
    assert [site.name for site in table.sites if site.kind is SiteKind.WEIGHT] == ["w0", "w1", "w2", "w3", "w4"]
    assert {item.name: item.fused for item in table.nodes if item.fused} == {"conv0": "Relu", "conv1": "Relu", "add0": "Relu"}
    assert table.floats == ()


def test_residual_network_groups() -> None:
    groups = {name: [site.name for site in sites] for name, sites in find_sites(residual_network()).groups.items() if len(sites) > 1}
    assert groups == {"r2": ["r2", "p0"], "h0": ["h0", "k0"], "g0": ["g0", "f0"]}


def test_node_geometry_and_macs() -> None:
    nodes = {item.name: item for item in find_sites(residual_network()).nodes}
    first, depthwise, last = nodes["conv0"], nodes["conv3"], nodes["fc"]
    assert first.macs == 8 * 12 * 12 * 3 * 9
    assert depthwise.macs == 8 * 6 * 6 * 9
    assert (depthwise.groups, depthwise.pads, depthwise.kernel, depthwise.strides) == (8, (1, 1, 1, 1), (3, 3), (1, 1))
    assert (last.macs, last.bias_elements, last.weight_shape) == (160, 10, (10, 16))
    assert (first.inputs, first.output, first.weight, first.bias_elements) == (("x",), "r0", "w0", 8)
    assert nodes["add0"].inputs == ("c2", "r0")
    assert nodes["pool0"].kernel == (2, 2)


def test_weight_axes() -> None:
    constants = {"a": weights(16, 5, seed=1), "b": weights(7, 5, seed=2)}
    nodes = [node("MatMul", ["x", "a"], ["m"], "mm"), node("Relu", ["m"], ["r"], "relu"), node("Gemm", ["r", "b"], ["y"], "gemm", transB=1)]
    table = table_of(nodes, constants, ["y"], (1, 16))
    for item in table.nodes:
        assert item.weight is not None
        site = table.by_name[item.weight]
        assert site.axis is not None
        assert site.shape[site.axis] == item.output_shape[-1]


def test_a_weight_used_twice_is_one_site() -> None:
    table = table_of([conv("x", "a"), conv("a", "b")], W, ["b"])
    assert [site.name for site in table.sites] == ["x", "a", "b", "w"]
    assert [item.weight for item in table.nodes] == ["w", "w"]


def test_relu_is_not_fused_when_the_tensor_before_is_read_twice_or_returned() -> None:
    table = table_of([conv("x", "a"), node("Relu", ["a"], ["r"], "relu"), node("Add", ["a", "r"], ["s"], "add"), conv("s", "y")], W, ["y"])
    assert {"a", "r", "s", "y"} <= set(activations(table))
    table = table_of([conv("x", "a"), node("Relu", ["a"], ["r"], "relu"), conv("r", "y")], W, ["a", "y"])
    assert "a" in activations(table)


def test_clip_is_fused_and_a_second_clamp_is_not() -> None:
    constants = {**W, "low": np.asarray(0, np.float32), "high": np.asarray(6, np.float32), "top": np.asarray(3, np.float32)}
    nodes = [conv("x", "a"), node("Clip", ["a", "low", "high"], ["b"], "clip1"), node("Clip", ["b", "low", "top"], ["c"], "clip2"), conv("c", "y")]
    table = table_of(nodes, constants, ["y"])
    assert activations(table)[-1] == "y"
    assert next(item for item in table.nodes if item.name == "conv_a").fused == "Clip"


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (node("Softmax", ["a"], ["b"], "n", axis=1), "Softmax has no integer kernel"),
        (node("MatMul", ["left", "a"], ["b"], "n"), "the weight is on the left"),
        (node("ReduceMax", ["a", "axes"], ["b"], "n"), "ReduceMax has no integer kernel"),
        (node("ReduceMean", ["a", "axes"], ["b"], "n"), "ReduceMean over other axes than the spatial ones has no integer kernel"),
        (node("Pad", ["a", "pads", "one"], ["b"], "n"), "Pad with a value that is not finite has no integer kernel"),
        (node("LayerNormalization", ["a", "scale"], ["b"], "n"), "LayerNormalization has no integer kernel"),
    ],
)
def test_float_nodes_between_integer_ones_say_why(op: Any, reason: str) -> None:
    constants = {
        "axes": np.asarray([1]), "left": weights(8, 8, seed=2), "pads": np.asarray([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.asarray(-np.inf, np.float32),
        "scale": np.ones(8, np.float32), "v": weights(1, 1, 3, 3, seed=1),
    }  # fmt: skip
    used = {name: value for name, value in constants.items() if name in op.input}
    channels = 1 if op.op_type.startswith("Reduce") else 4
    last = "v" if channels == 1 else "w"
    table = table_of([conv("x", "a"), op, conv("b", "y", last)], {**W, **used, **({"v": constants["v"]} if channels == 1 else {})}, ["y"])
    assert reasons(table)[op.op_type] == reason
    assert {"x", "a", "b", "y"} == set(activations(table))


def test_a_product_of_two_activations_has_sites_around_it_and_no_weight() -> None:
    table = table_of([conv("x", "a"), node("MatMul", ["a", "x"], ["b"], "n"), node("Softmax", ["b"], ["y"], "s")], W, ["y"])
    product = next(item for item in table.nodes if item.name == "n")
    assert (product.weight, product.inputs, product.output, product.macs) == (None, ("a", "x"), "b", 4 * 8**3)
    assert activations(table) == ["x", "a", "b"]


def test_integer_arithmetic_stays_as_it_is() -> None:
    nodes = [
        node("Cast", ["x"], ["i"], "cast", to=7),
        node("Add", ["i", "i"], ["j"], "add"),
        node("Cast", ["j"], ["f"], "back", to=1),
        conv("f", "y"),
    ]
    table = table_of(nodes, W, ["y"])
    assert reasons(table)["Add"] == "int64 arithmetic stays as it is"
    assert activations(table) == ["f", "y"]


def test_lone_add_between_floats_is_an_island() -> None:
    nodes = [
        conv("x", "a"), node("Softmax", ["a"], ["s"], "soft", axis=1), node("Add", ["s", "s"], ["t"], "lone"), node("Exp", ["t"], ["y"], "exp"),
    ]  # fmt: skip
    table = table_of(nodes, W, ["y"])
    assert "island" in reasons(table)["Add"] or "tail" in reasons(table)["Add"]
    assert activations(table) == ["x", "a"]


def test_box_decoding_behind_the_last_convolution_stays_float() -> None:
    constants = {**W, "priors": weights(1, 4, 8, 8, seed=3)}
    nodes = [
        conv("x", "a"),
        node("Sigmoid", ["a"], ["b"], "sig"),
        node("Mul", ["b", "priors"], ["c"], "decode"),
        node("Add", ["c", "a"], ["y"], "shift"),
    ]
    table = table_of(nodes, constants, ["y"])
    assert set(activations(table)) == {"x", "a", "b"}
    assert {item.name for item in table.floats} == {"decode", "shift"}


def test_binary_with_constant_before_a_convolution_is_integer() -> None:
    table = table_of([node("Mul", ["x", "k"], ["m"], "mul"), conv("m", "y")], {**W, "k": weights(1, 4, 1, 8, seed=3)}, ["y"])
    assert "m" in activations(table)
    assert table.floats == ()


def test_data_movement_shares() -> None:
    constants = {**W, "shape": np.asarray([1, 2, 2, 64]), "back": np.asarray([1, 4, 8, 8]), "pads": np.asarray([0, 0, 1, 1, 0, 0, 1, 1])}
    nodes = [
        conv("x", "a"), node("Reshape", ["a", "shape"], ["b"], "r1"), node("Transpose", ["b"], ["c"], "t", perm=[0, 2, 1, 3]),
        node("Reshape", ["c", "back"], ["d"], "r2"), node("Split", ["d"], ["e", "f"], "split", axis=1, num_outputs=2),
        node("Concat", ["f", "e"], ["g"], "cat", axis=1), node("Pad", ["g", "pads"], ["h"], "pad"), conv("h", "y"),
    ]  # fmt: skip
    table = table_of(nodes, constants, ["y"])
    assert [site.name for site in table.groups["a"]] == ["a", "b", "c", "d", "e", "f", "g", "h"]
    split = next(item for item in table.nodes if item.op_type == "Split")
    assert (split.output, split.extra_outputs) == ("e", ("f",))


def test_add_inputs_do_not_share() -> None:
    table = table_of([conv("x", "a"), conv("a", "b"), node("Add", ["a", "b"], ["c"], "add"), conv("c", "y")], W, ["y"])
    assert all(len(sites) == 1 for sites in table.groups.values())


def test_operands_of_a_concat_that_others_read_keep_their_own_qparams() -> None:
    """A block as in C2f: what each convolution writes is read again, so that no range depends on the whole."""
    constants = {"w": weights(4, 4, 3, 3, seed=0), "v": weights(4, 12, 3, 3, seed=1)}
    nodes = [conv("x", "a"), conv("a", "b"), conv("b", "c"), node("Concat", ["a", "b", "c"], ["d"], "cat", axis=1), conv("d", "y", "v")]
    groups = {name: [site.name for site in sites] for name, sites in table_of(nodes, constants, ["y"]).groups.items() if name in "abcd"}
    assert groups == {"a": ["a"], "b": ["b"], "c": ["c", "d"]}


def test_parts_of_a_split_do_not_take_the_range_of_a_concat_behind() -> None:
    """Units as in ShuffleNet, one after the other: each Concat has a group of its own."""
    constants = {"w": weights(2, 2, 3, 3, seed=0), "v": weights(4, 4, 3, 3, seed=1)}
    nodes = [conv("x", "a0", "v")]
    for unit in range(3):
        a, p, q, c, b = (f"{name}{unit}" for name in "apqcb")
        nodes += [node("Split", [a], [p, q], f"split{unit}", axis=1, num_outputs=2), conv(q, c), node("Concat", [p, c], [b], f"cat{unit}", axis=1)]
        nodes.append(node("Transpose", [b], [f"a{unit + 1}"], f"shuffle{unit}", perm=[0, 1, 3, 2]))
    table = table_of([*nodes, conv("a3", "y", "v")], constants, ["y"])
    assert [site.name for site in table.groups["a0"]] == ["a0", "p0", "q0"]
    assert [site.name for site in table.groups["c1"]] == ["c1", "b1", "a2", "p2", "q2"]


@pytest.mark.parametrize("behind", ["Transpose", "Sigmoid"])
def test_boxes_and_scores_in_one_output_keep_their_own_ranges(behind: str) -> None:
    nodes = [
        conv("x", "a"), conv("a", "boxes"), conv("a", "b"), node("Sigmoid", ["b"], ["scores"], "sig"),
        node("Concat", ["boxes", "scores"], ["c"], "cat", axis=1), node(behind, ["c"], ["y"], "last"),
    ]  # fmt: skip
    table = table_of(nodes, W, ["y"])
    assert activations(table) == ["x", "a", "boxes", "b", "scores"]
    assert "range of its own" in reasons(table)["Concat"]
    assert behind in reasons(table)


def test_live_tensors_follow_the_residual_and_see_through_views() -> None:
    table = find_sites(residual_network())
    steps = [frozenset(step) for step in table.live]
    assert steps[0] == {"x", "r0"}
    assert frozenset({"r0", "r1", "c2"}) in steps  # the block's input waits for the Add
    assert frozenset({"c2", "r0", "r2"}) in steps
    assert steps[-1] == {"g0", "y"}  # Flatten is a view of g0
    assert len(steps) == 10


def test_every_real_network_has_a_float_reason_or_an_integer_node_for_each_node(shared: Any) -> None:
    network = load_network(shared("onnx_derived/resnet20_cifar10.onnx"))
    table = find_sites(network)
    fused = sum(1 for item in table.nodes if item.fused)
    assert len(table.nodes) + fused + len(table.floats) == len(network.model.graph.node)
    assert sum(item.macs for item in table.nodes) == 40_551_040
    assert len([site for site in table.sites if site.kind is SiteKind.WEIGHT]) == 20
