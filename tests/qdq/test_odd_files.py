"""QDQ files that are too large or no networks at all: the limits of `compile` hold for `lower`, and others judge what is a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mpqc.errors import ModelError
from mpqc.frontend import load_network
from mpqc.frontend.judge import judged
from mpqc.qdq.read.program import read_qdq
from mpqc.values.program import Float
from tests.cli_runs import small_model
from tests.qdq_nets import Net


def quantized() -> onnx.ModelProto:
    """One Relu between quantizers, 1x2x3x3."""
    net = Net()
    return net.model(net.qdq(net.op("Relu", net.qdq(net.input(1, 2, 3, 3), 0.1)), 0.1))


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_an_input_of_two_to_the_forty_elements_is_refused(tmp_path: Path) -> None:
    model = quantized()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 1 << 20
    with pytest.raises(ModelError, match=r"tensor 'x'.*elements are more than"):
        read_qdq(saved(model, tmp_path))


def test_so_is_one_whose_shape_is_given(tmp_path: Path) -> None:
    model = quantized()
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "w"
    del model.graph.value_info[:]
    with pytest.raises(ModelError, match="elements are more than"):
        read_qdq(saved(model, tmp_path), shapes={"x": (1, 2, 1 << 20, 1 << 20)})


def test_so_is_a_tensor_inside(tmp_path: Path) -> None:
    net = Net()
    sizes = net.constant(np.array([1, 2, 1 << 20, 1 << 20], np.int64))
    grown = net.op("Resize", net.qdq(net.input(1, 2, 3, 3), 0.1), "", "", sizes, mode="nearest")
    with pytest.raises(ModelError, match="elements are more than"):
        read_qdq(saved(net.model(net.qdq(grown, 0.1)), tmp_path))


@pytest.mark.parametrize("element", [0, TensorProto.STRING, 77])
def test_an_input_without_a_type_is_refused_by_name(tmp_path: Path, element: int) -> None:
    model = quantized()
    model.graph.input[0].type.tensor_type.elem_type = element
    for read in (read_qdq, load_network):
        with pytest.raises(ModelError):
            read(saved(model, tmp_path))


@pytest.mark.parametrize("version", [-1, 1 << 40])
def test_versions_that_are_none_are_refused(tmp_path: Path, version: int) -> None:
    model = small_model()
    model.ir_version = version
    with pytest.raises(ModelError, match="ir_version"):
        load_network(saved(model, tmp_path))


def test_paddings_of_another_rank_are_the_files_fault(tmp_path: Path) -> None:
    model = small_model()
    pads = next(item for node in model.graph.node for item in node.attribute if item.name == "pads")
    del pads.ints[3:]
    del model.graph.value_info[:]
    with pytest.raises(ModelError, match="not a valid network"):
        load_network(saved(model, tmp_path))


def test_a_scale_of_two_dimensions_keeps_the_weight_float(tmp_path: Path) -> None:
    net = Net()
    w = net.weight(np.ones((4, 2, 1, 1), np.int64), np.float32(0.1))
    scale = next(tensor for tensor in net.constants if tensor.name == net.nodes[-1].input[1])
    scale.CopyFrom(onnx.numpy_helper.from_array(np.full((4, 1), 0.1, np.float32), scale.name))
    zero = next(tensor for tensor in net.constants if tensor.name == net.nodes[-1].input[2])
    zero.CopyFrom(helper.make_tensor(zero.name, TensorProto.INT8, (4, 1), [0] * 4))
    net.nodes[-1].attribute.append(helper.make_attribute("axis", 0))
    y = net.qdq(net.op("Conv", net.qdq(net.input(1, 2, 3, 3), 0.1), w), 0.1)
    graph = helper.make_graph(net.nodes, "net", net.inputs, [onnx.ValueInfoProto(name=y)], net.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    reasons = [op.reason for op in read_qdq(saved(model, tmp_path)).ops if isinstance(op, Float)]
    assert reasons == ["weight has a scale for each block"]


def test_a_bug_of_ours_on_a_sound_network_stays_a_bug() -> None:
    with pytest.raises(KeyError), judged(small_model()):
        raise KeyError("ours")
    broken = small_model()
    broken.graph.node[0].input[1] = "nowhere"
    with pytest.raises(ModelError, match="not a valid network"), judged(broken):
        raise KeyError("theirs")


def test_a_resize_of_channels_between_quantizers_stays_float_with_its_reason(tmp_path: Path) -> None:
    net = Net()
    factors = net.constant(np.array([1, 2, 1, 1], np.float32))
    grown = net.op("Resize", net.qdq(net.input(1, 2, 3, 3), 0.1), "", factors, mode="nearest")
    reasons = [op.reason for op in read_qdq(saved(net.model(net.qdq(grown, 0.2)), tmp_path)).ops if isinstance(op, Float)]
    assert reasons == ["Resize of other axes than height and width has no integer kernel"]


def test_what_onnx_runtime_refuses_is_told_by_nobody_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = Net()
    sizes = net.constant(np.array([1, 2, 6, 6], np.int64))
    grown = net.op("Resize", net.qdq(net.input(1, 2, 3, 3), 0.1), "", "", sizes, mode="nearest", nearest_mode="upwards")
    path = saved(net.model(net.qdq(grown, 0.1)), tmp_path)
    with pytest.raises(ModelError, match="upwards"):
        read_qdq(path)
    assert capfd.readouterr().err == ""
