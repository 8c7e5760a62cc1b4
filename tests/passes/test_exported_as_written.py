"""What exporters leave in files: other float types, biases of one element, nodes in training mode, outputs that only training reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import assert_close, check, graph_model, noise, run_network, run_ort
from pass_checks import BN, bn, make, ops, run, typed

from mpqc.errors import ModelError
from mpqc.frontend import load_network
from mpqc.passes.normalize_gemm import NormalizeGemm
from mpqc.passes.to_float32 import DOUBLE, ToFloat32
from mpqc.passes.training_modes import TrainingModes

X = noise(2, 3, 4, 5)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_inside(kind: int) -> None:
    """Casts, constants of every form and branches."""
    branch = helper.make_graph([make("Identity", "h", "b")], "branch", [], [helper.make_tensor_value_info("b", kind, None)])
    other = helper.make_graph([make("Neg", "h", "o")], "other", [], [helper.make_tensor_value_info("o", kind, None)])
    fill = helper.make_tensor("fill", kind, [1], [0.5])
    nodes = [
        make("Cast", "x", "h", to=kind), make("Constant", "", "c", value=helper.make_tensor("c", kind, [5], [1, 2, 3, 4, 5])),
        make("ConstantOfShape", "size", "d", value=fill), helper.make_node("If", ["flag"], ["i"], then_branch=branch, else_branch=other),
        make("Mul", "i c", "e"), make("Add", "e d", "f"), make("Cast", "f", "y", to=TensorProto.FLOAT),
    ]  # fmt: skip
    model = graph_model(nodes, {"x": X}, {"size": np.array([5]), "flag": np.array(True)}, ["y"])
    network = load_network(model)
    assert len(network.notes) == 1
    assert "values may differ by the rounding" in network.notes[0]
    assert_close(run_network(network, {"x": X}), [X * np.arange(1, 6, dtype=np.float32) + np.float32(0.5)])


def test_double_precision_is_folded_in_double_precision() -> None:
    """1 + 1e-12 - 1 is nothing in single precision."""
    nodes = [make("Sub", "a one", "small"), make("Mul", "small big", "b"), make("Cast", "x", "d", to=TensorProto.DOUBLE), make("Mul", "d b", "y")]
    constants = {"a": np.float64(1 + 1e-12), "one": np.float64(1), "big": np.float64(1e12)}
    network = load_network(graph_model(nodes, {"x": X}, constants, ["y"]))
    assert_close(run_network(network, {"x": X}), [X], 1e-3)


def test_nothing_to_do_in_single_precision() -> None:
    model = typed([make("Relu", "x", "y")], X, {})
    assert ToFloat32(DOUBLE).run(model).model is model


@pytest.mark.parametrize("bias", [np.full((1,), 0.7, np.float32), np.full((1, 1), 0.7, np.float32), np.float32(0.7), noise(1, 4), noise(4)])
@pytest.mark.parametrize("options", [{}, {"beta": 0.5}, {"alpha": 2.0, "transA": 1}])
def test_biases_of_a_gemm_have_one_number_a_column(bias: np.ndarray, options: dict[str, Any]) -> None:
    x = noise(6, 2) if options.get("transA") else noise(2, 6)
    model = typed([make("Gemm", "x w b", "y", **options)], x, {"w": noise(6, 4, seed=1), "b": bias})
    result = run(NormalizeGemm(), model, x, changed=bool(options) or np.shape(bias) != (4,))
    shapes = {tensor.name: list(tensor.dims) for tensor in result.model.graph.initializer}
    assert shapes[next(node for node in result.model.graph.node if node.op_type == "Gemm").input[2]] == [4]


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 3, 4, 5), (4, 3)])
def test_batch_norm_in_training_mode_has_the_statistics_of_its_input(shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    nodes = [make("BatchNormalization", f"x {BN}", "y m v", training_mode=1)]
    model = typed(nodes, x, bn(3), "y m v")
    result = run(TrainingModes(), model, x)
    assert "BatchNormalization" not in ops(result.model)
    assert "training mode" in result.notes[0]
    check(model, {"x": x}, tolerance=1e-4)


def test_a_batch_norm_in_training_mode_whose_other_outputs_nobody_reads() -> None:
    nodes = [make("BatchNormalization", f"x {BN}", "b m v", training_mode=1), make("Relu", "b", "y")]
    network = check(graph_model(nodes, {"x": X[:1]}, bn(3), ["y"]), {"x": X[:1]}, tolerance=1e-4)
    assert [node.op_type for node in network.model.graph.node] == ["InstanceNormalization", "Relu"]


@pytest.mark.parametrize("outputs", [["y", "mask"], ["y", "z"]])
def test_the_mask_of_a_dropout_keeps_everything(outputs: list[str]) -> None:
    nodes = [make("Dropout", "x", "d mask"), make("Relu", "d", "y")] + ([make("Not", "mask", "z")] if "z" in outputs else [])
    check(graph_model(nodes, {"x": X}, {}, outputs), {"x": X})


def test_a_dropout_that_drops_is_refused() -> None:
    nodes = [make("Dropout", "x ratio mode", "y")]
    with pytest.raises(ModelError, match=r"n_y.*training mode has a random result"):
        load_network(graph_model(nodes, {"x": X}, {"ratio": np.float32(0.3), "mode": np.array(True)}, ["y"]))
    with pytest.raises(ModelError, match=r"n_y.*computed at run time.*--value mode=0"):
        load_network(graph_model(nodes, {"x": X, "mode": np.array(True)}, {"ratio": np.float32(0.3)}, ["y"]))
    check(graph_model(nodes, {"x": X}, {"ratio": np.float32(0), "mode": np.array(True)}, ["y"]), {"x": X})


def test_a_node_whose_second_output_is_used_is_left_alone() -> None:
    """A max pool of one element changes nothing, but tells where it found it."""
    nodes = [make("MaxPool", "x", "y where", kernel_shape=[1, 1])]
    model = graph_model(nodes, {"x": X}, {}, ["y", "where"])
    expected = run_ort(model, {"x": X})
    assert_close(run_ort(load_network(model).model, {"x": X}), expected)
