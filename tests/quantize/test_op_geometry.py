"""Kernels, padding and multiply-accumulate counts, checked against the shapes that ONNX infers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, shape_inference

from mpqc.frontend.view import GraphView, view
from mpqc.quantize.geometry import geometry
from tests.onnx_models import graph_model
from tests.quant_models import weights


def graph_of(node: onnx.NodeProto, constants: dict[str, np.ndarray], shape: tuple[int, ...]) -> GraphView:
    return view(shape_inference.infer_shapes(graph_model([node], {"x": np.zeros(shape, np.float32)}, constants, ["y"])))


def conv_geometry(shape: tuple[int, ...], weight: tuple[int, ...], **attributes: Any) -> dict[str, Any]:
    graph = graph_of(helper.make_node("Conv", ["x", "w"], ["y"], "conv", **attributes), {"w": weights(*weight, seed=0)}, shape)
    return geometry(graph.nodes[0], graph)


@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER"])
def test_same_padding_is_worked_out(size: int, stride: int, auto: str) -> None:
    found = conv_geometry((1, 3, size, size), (4, 3, 3, 3), strides=[stride, stride], auto_pad=auto)
    explicit = conv_geometry((1, 3, size, size), (4, 3, 3, 3), strides=[stride, stride], pads=list(found["pads"]))
    assert found["macs"] == explicit["macs"] == 4 * (-(-size // stride)) ** 2 * 27
    top, left, bottom, right = found["pads"]
    assert (top, left) <= (bottom, right) if auto == "SAME_UPPER" else (top, left) >= (bottom, right)


def test_convolution_over_one_dimension() -> None:
    found = conv_geometry((1, 8, 20), (16, 4, 5), group=2, dilations=[2], pads=[4, 4])
    assert found["macs"] == 16 * 20 * 4 * 5
    assert (found["kernel"], found["strides"], found["dilations"], found["groups"]) == ((5,), (1,), (2,), 2)


def test_matrix_products_of_any_rank() -> None:
    graph = graph_of(helper.make_node("MatMul", ["x", "w"], ["y"], "mm"), {"w": weights(16, 4, seed=0)}, (2, 3, 16))
    assert geometry(graph.nodes[0], graph) == {"macs": 2 * 3 * 4 * 16, "bias_elements": 0}


def test_bias_elements() -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=1)
    graph = graph_of(node, {"w": weights(4, 16, seed=0), "b": weights(4, seed=1)}, (1, 16))
    assert geometry(graph.nodes[0], graph)["bias_elements"] == 4


def test_data_movement_has_no_geometry() -> None:
    graph = graph_of(helper.make_node("Transpose", ["x"], ["y"], "t", perm=[1, 0]), {}, (2, 3))
    assert geometry(graph.nodes[0], graph) == {}
