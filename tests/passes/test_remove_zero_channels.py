"""Dead channels go and the function stays: float graphs against ONNX Runtime, QDQ graphs against the integer interpreter, bit for bit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mpqc.data.batches import open_data
from mpqc.frontend import load_network
from mpqc.numerics.interpreter import Interpreter
from mpqc.passes.lib.base import verify
from mpqc.passes.lib.channel_graph import ChannelGraph
from mpqc.passes.remove_zero_channels import RemoveZeroChannels
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.export import export_qdq
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.values.plan import uniform_plan
from tests.onnx_models import graph_model
from tests.passes.pass_checks import make, run, typed

SAME = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def pruned(*shape: int, seed: int, dead: tuple[int, ...] = (1, 4)) -> np.ndarray:
    weight = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.3
    weight[list(dead)] = 0
    return weight


def bias(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


X = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


def test_channels_that_arrive_as_zero_go_before_a_padded_convolution() -> None:
    constants = {"w": pruned(6, 3, 3, 3, seed=1), "b": bias(0.1, -0.2, 0.3, -0.1, 0.4, 0.2), "v": pruned(5, 6, 3, 3, seed=2, dead=())}
    model = typed([make("Conv", "x w b", "c", **SAME), make("Relu", "c", "r"), make("Conv", "r v", "y", **SAME)], X, constants)
    result = run(RemoveZeroChannels(), model, X)
    assert shapes(result.model) == {"w": (5, 3, 3, 3), "b": (5,), "v": (5, 5, 3, 3)}, "channel 4 is 0.4 and meets padding"
    assert "1 output channels" in result.notes[0]


def test_constants_join_the_bias_where_nothing_is_padded() -> None:
    constants = {"w": pruned(6, 3, 3, 3, seed=1), "b": bias(0.1, -0.2, 0.3, -0.1, 0.4, 0.2), "v": pruned(5, 6, 3, 3, seed=2, dead=())}
    nodes = [make("Conv", "x w b", "c", **SAME), make("Clip", "c lo hi", "r"), make("Conv", "r v", "y", kernel_shape=[3, 3], pads=[0, 0, 0, 0])]
    result = run(RemoveZeroChannels(), typed(nodes, X, {**constants, "lo": np.float32(-0.1), "hi": np.float32(0.3)}), X)
    found = shapes(result.model)
    assert (found["w"], found["v"]) == ((4, 3, 3, 3), (5, 4, 3, 3))


@pytest.mark.parametrize("transposed", [0, 1])
def test_through_pool_and_flatten_into_a_product(transposed: int) -> None:
    weight = pruned(7, 24, seed=3, dead=())
    constants = {
        "w": pruned(6, 3, 3, 3, seed=1),
        "b": bias(0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        "v": weight if transposed else weight.T.copy(),
        "c": bias(*range(7)),
    }
    nodes = [
        make("Conv", "x w b", "k", **SAME), make("MaxPool", "k", "p", kernel_shape=[4, 4], strides=[4, 4], pads=[0, 0, 0, 0]),
        make("Flatten", "p", "f", axis=1), make("Gemm", "f v c", "y", transB=transposed),
    ]  # fmt: skip
    result = run(RemoveZeroChannels(), typed(nodes, X, constants), X)
    assert shapes(result.model)["v"] == ((7, 16) if transposed else (16, 7))


def test_a_depthwise_layer_in_between_gets_fewer_groups() -> None:
    constants = {
        "w": pruned(6, 3, 3, 3, seed=1), "b": bias(0, -1, 0, 0, -1, 0), "d": pruned(6, 1, 3, 3, seed=5, dead=()),
        "e": bias(0.1, -0.1, 0.1, 0.1, -0.5, 0.1), "v": pruned(5, 6, 1, 1, seed=2, dead=()),
    }  # fmt: skip
    nodes = [
        make("Conv", "x w b", "c", **SAME), make("Relu", "c", "r"), make("Conv", "r d e", "h", group=6, **SAME), make("Relu", "h", "s"),
        make("Conv", "s v", "y", kernel_shape=[1, 1], pads=[0, 0, 0, 0]),
    ]  # fmt: skip
    result = run(RemoveZeroChannels(), typed(nodes, X, constants), X)
    assert shapes(result.model)["d"] == (4, 1, 3, 3)


def test_what_others_read_and_what_leaves_the_network_stays() -> None:
    constants = {"w": pruned(6, 3, 3, 3, seed=1), "v": pruned(6, 6, 3, 3, seed=2)}
    nodes = [make("Conv", "x w", "c", **SAME), make("Conv", "c v", "d", **SAME), make("Add", "c d", "y")]
    run(RemoveZeroChannels(), typed(nodes, X, constants), X, changed=False)


def test_one_channel_stays_where_all_are_dead() -> None:
    constants = {"w": np.zeros((4, 3, 3, 3), np.float32), "v": pruned(5, 4, 3, 3, seed=2, dead=())}
    result = run(RemoveZeroChannels(), typed([make("Conv", "x w", "c", **SAME), make("Conv", "c v", "y", **SAME)], X, constants), X)
    assert shapes(result.model)["w"] == (1, 3, 3, 3)


@pytest.mark.parametrize("bits", [(8, 8), (4, 4), (2, 8)])
def test_quantized_graphs_keep_every_code(bits: tuple[int, int]) -> None:
    constants = {"w": pruned(6, 3, 3, 3, seed=1, dead=()), "b": bias(0.1, -0.2, 0.3, -0.1, -0.4, 0.2), "v": pruned(5, 6, 3, 3, seed=2, dead=())}
    nodes = [make("Conv", "x w b", "c", **SAME), make("Relu", "c", "r"), make("Conv", "r v", "y", **SAME)]
    network = load_network(typed(nodes, X[:1], constants))
    table = find_sites(network)
    trained = {"w": pruned(6, 3, 3, 3, seed=1)}
    calibration = calibrate(network, table, open_data(X, network.inputs, limit=2)).with_weights(trained)
    model = export_qdq(network, table, uniform_plan(table, "abstract", *bits), calibration, weights=trained)
    result = RemoveZeroChannels().run(model)
    assert result.changed
    verify(result.model, after="remove-zero-channels")
    sizes = [numpy_helper.to_array(tensor).shape for tensor in result.model.graph.initializer]
    assert (4, 3, 3, 3) in sizes
    assert (5, 4, 3, 3) in sizes
    outputs = [Interpreter(read_qdq(item)).run({"x": X})["y"] for item in (model, result.model)]
    np.testing.assert_array_equal(*outputs)


def test_scales_of_one_value_and_vectors_without_an_axis_are_read() -> None:
    codes = np.array([3, 0, -5, 7], np.int32)
    constants = {"q": codes, "s": np.array([0.5], np.float32), "t": np.array([1, 2, 3, 4], np.float32)}
    nodes = [make("DequantizeLinear", "q s", "b"), make("DequantizeLinear", "q t", "c", axis=0), make("Add", "b c", "d"), make("Add", "x d", "y")]
    graph = ChannelGraph(graph_model(nodes, {"x": np.zeros((1, 4), np.float32)}, constants, ["y"]).graph)
    np.testing.assert_array_equal(graph.value("b"), codes * np.float32(0.5))
    np.testing.assert_array_equal(graph.value("c"), codes * constants["t"])
