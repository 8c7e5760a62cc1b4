"""Whole networks: made here, from other opsets, from PyTorch, and (where present) from the shared folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_models import assert_close, check, graph_model, noise, run_network, run_ort
from torch import nn

from mpqc.errors import ModelError, UsageError
from mpqc.frontend import load_network
from mpqc.values.network import Network


class Builder:
    """Writes small networks node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Append a node; the name of its first output."""
        names = [f"t{len(self.nodes)}" + (f"_{index}" if index else "") for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, **attributes))
        return names[0]

    def store(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def conv_bn(self, x: str, channels: int, out: int, *, relu: str = "Relu", **attributes: Any) -> str:
        size = attributes.pop("size", 3)
        group = attributes.get("group", 1)
        seed = len(self.nodes)
        weight = self.store(noise(out, channels // group, size, size, seed=seed, low=-0.5, high=0.5))
        made = self.add("Conv", x, weight, pads=[size // 2] * 4, **attributes)
        parameters = [self.store(noise(out, seed=seed + index, low=0.3)) for index in range(4)]
        made = self.add("BatchNormalization", made, *parameters)
        if relu == "Relu":
            return self.add("Relu", made)
        return self.add("Clip", made, self.store(np.float32(0)), self.store(np.float32(6))) if relu else made

    def model(self, x: np.ndarray, outputs: list[str], **options: Any) -> onnx.ModelProto:
        return graph_model(self.nodes, {"x": x}, self.constants, outputs, **options)


def residual_net() -> tuple[onnx.ModelProto, np.ndarray]:
    b, x = Builder(), noise(1, 3, 16, 16)
    stem = b.conv_bn("x", 3, 8)
    block = b.conv_bn(b.conv_bn(stem, 8, 8), 8, 8, relu="")
    joined = b.add("Relu", b.add("Add", stem, block))
    down = b.conv_bn(joined, 8, 16, strides=[2, 2])
    pooled = b.add("Flatten", b.add("GlobalAveragePool", down))
    logits = b.add("Gemm", pooled, b.store(noise(10, 16)), b.store(noise(10)), transB=1)
    return b.model(x, [logits]), x


def mobile_net() -> tuple[onnx.ModelProto, np.ndarray]:
    b, x = Builder(), noise(1, 3, 20, 20)
    t = b.conv_bn("x", 3, 8, relu="Clip", strides=[2, 2])
    t = b.conv_bn(t, 8, 24, relu="Clip", size=1)
    t = b.conv_bn(t, 24, 24, relu="Clip", group=24, strides=[2, 2])
    t = b.conv_bn(t, 24, 12, relu="", size=1)
    t = b.add("Add", t, b.conv_bn(t, 12, 12, relu="Clip", group=12))
    t = b.add("ReduceMean", t, b.store(np.array([2, 3], np.int64)), keepdims=0)
    product = b.add("MatMul", t, b.store(noise(12, 5)))
    return b.model(x, [b.add("Softmax", b.add("Add", product, b.store(noise(5))))]), x


def detector(dynamic: bool) -> tuple[onnx.ModelProto, np.ndarray]:
    """Two scales joined by Resize and Concat; the head's Reshape is computed from the input's shape, as exporters write it."""
    b, x = Builder(), noise(1, 3, 24, 32)
    fine = b.conv_bn("x", 3, 8, strides=[2, 2])
    coarse = b.conv_bn(b.add("MaxPool", fine, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 8, 8)
    scales = b.store(np.array([1, 1, 2, 2], np.float32))
    up = b.add("Resize", coarse, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    head = b.conv_bn(b.add("Concat", fine, up, axis=1), 16, 6, relu="", size=1)
    batch = b.add("Gather", b.add("Shape", head), b.store(np.int64(0)))
    first = b.add("Unsqueeze", batch, b.store(np.array([0], np.int64)))
    target = b.add("Concat", first, b.store(np.array([-1, 6], np.int64)), axis=0)
    boxes = b.add("Reshape", b.add("Transpose", head, perm=[0, 2, 3, 1]), target)
    b.add("Split", boxes, b.store(np.array([2, 4], np.int64)), axis=2, outputs=2)
    first_part = b.nodes[-1].output[0]
    scores = b.add("Sigmoid", first_part)
    model = b.model(x, [scores, b.nodes[-2].output[1]])
    if dynamic:
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    return model, x


def types(network: Network) -> list[str]:
    return [node.op_type for node in network.model.graph.node]


def test_residual_net() -> None:
    network = check(*_feeds(residual_net()))
    assert types(network) == ["Conv", "Relu", "Conv", "Relu", "Conv", "Add", "Relu", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


def test_mobile_net() -> None:
    network = check(*_feeds(mobile_net()))
    assert types(network).count("BatchNormalization") == 0
    assert types(network)[-2:] == ["Gemm", "Softmax"]


@pytest.mark.parametrize("dynamic", [True, False])
def test_detector(dynamic: bool) -> None:
    model, x = detector(dynamic)
    network = check(model, {"x": x}, shapes={"x": x.shape} if dynamic else None)
    assert not {"Shape", "Gather", "Unsqueeze", "BatchNormalization"} & set(types(network))
    if dynamic:
        with pytest.raises(ModelError, match="--shape x=1x3xNxN"):
            load_network(model)


def _feeds(made: tuple[onnx.ModelProto, np.ndarray]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    return made[0], {"x": made[1]}


def test_contract_of_a_network() -> None:
    """What the rest of mpqc relies on: canonical opset, a type for every tensor, origins, parameters by initializer name."""
    network = load_network(residual_net()[0])
    model = network.model
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    onnx.checker.check_model(model, full_check=True)
    known = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    assert {name for node in model.graph.node for name in node.output} <= known
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    calls = [node for node in network.module.graph.nodes if node.op == "call_function"]
    assert [node.meta["origin"].node for node in calls] == [node.name for node in model.graph.node]
    assert [node.meta["origin"].tensor for node in calls] == [node.output[0] for node in model.graph.node]
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert set(network.attributes) == set(stored)
    for name, attribute in network.attributes.items():
        np.testing.assert_array_equal(network.module.get_parameter(attribute).detach().numpy(), stored[name])
    gets = {node.target: node.meta["origin"].tensor for node in network.module.graph.nodes if node.op == "get_attr"}
    assert gets == {attribute: name for name, attribute in network.attributes.items()}
    assert (network.inputs[0].name, network.inputs[0].shape, network.inputs[0].dtype) == ("x", (1, 3, 16, 16), "float32")


def test_same_model_same_digest() -> None:
    model = residual_net()[0]
    assert load_network(model).digest == load_network(model).digest
    assert load_network(model).digest != load_network(model, shapes={"x": (2, 3, 16, 16)}).digest


def test_gradients_reach_every_parameter() -> None:
    model, x = mobile_net()
    network = load_network(model)
    (output,) = network.module(torch.from_numpy(x))
    output.square().sum().backward()
    for name, parameter in network.module.named_parameters():
        scalar_clip_bound = parameter.numel() == 1
        assert scalar_clip_bound or parameter.grad is not None, name
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def test_unknown_operators_stay_float_and_refuse_training() -> None:
    b, x = Builder(), noise(1, 3, 8, 8)
    t = b.conv_bn("x", 3, 4)
    t = b.add("Hardmax", t, axis=1)
    outputs = [b.conv_bn(t, 4, 2)]
    network = check(b.model(x, outputs), {"x": x}, floats=["Hardmax"])
    assert "Hardmax is not known" in network.floats[0].reason
    (output,) = network.module(torch.from_numpy(x))
    with pytest.raises(ModelError, match=r"Hardmax.*cannot be trained through"):
        output.sum().backward()


def test_operators_of_other_domains_are_named() -> None:
    nodes = [helper.make_node("Magic", ["x"], ["y"], domain="com.example", name="magic")]
    model = graph_model(nodes, {"x": noise(2)}, {}, ["y"])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ModelError, match="magic"):
        load_network(model)


def test_values_decide_branches() -> None:
    def branch(name: str, op_type: str) -> onnx.GraphProto:
        return helper.make_graph([helper.make_node(op_type, ["x"], [name])], name, [], [onnx.ValueInfoProto(name=name)])

    nodes = [
        helper.make_node("Equal", ["rate", "wanted"], ["same"]),
        helper.make_node("If", ["same"], ["y"], name="choice", then_branch=branch("a", "Relu"), else_branch=branch("b", "Neg")),
    ]
    feeds = {"x": noise(3), "rate": np.array(16000, np.int64)}
    model = graph_model(nodes, feeds, {"wanted": np.array(16000, np.int64)}, ["y"])
    assert types(check(model, feeds, values={"rate": 16000})) == ["Relu"]
    assert types(check(model, {**feeds, "rate": np.array(8000, np.int64)}, values={"rate": 8000})) == ["Neg"]
    assert types(check(model, feeds)) == ["Equal", "Relu", "Neg", "Where"]
    with pytest.raises(UsageError, match="values: 'speed'"):
        load_network(model, values={"speed": 1})


def test_shape_that_depends_on_data_is_refused() -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["i"], name="find"), helper.make_node("Cast", ["i"], ["y"], to=1)]
    with pytest.raises(ModelError, match=r"find.*depends on the data"):
        load_network(graph_model(nodes, {"x": noise(4)}, {}, ["y"]))


OLD: list[tuple[int, str, dict[str, Any], int]] = [
    (7, "Upsample", {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}, 1),
    (7, "Upsample", {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}, 1),
    (8, "BatchNormalization", {"epsilon": 0.01}, 5),
    (9, "Clip", {"min": -0.5, "max": 0.5}, 1),
    (9, "Clip", {"max": 0.5}, 1),
    (9, "Pad", {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 1.5}, 1),
    (9, "Pad", {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "mode": "reflect"}, 1),
    (9, "Slice", {"starts": [0, 1], "ends": [2, 3], "axes": [1, 3]}, 1),
    (9, "Softmax", {}, 1),
    (12, "Softmax", {"axis": 2}, 1),
    (11, "LogSoftmax", {"axis": -1}, 1),
    (11, "Squeeze", {"axes": [0]}, 1),
    (11, "Unsqueeze", {"axes": [0, -1]}, 1),
    (11, "ReduceSum", {"axes": [1], "keepdims": 0}, 1),
    (13, "ReduceMean", {"axes": [-1]}, 1),
    (17, "ReduceMax", {}, 1),
    (11, "Split", {"axis": 3, "split": [1, 4]}, 1),
    (13, "Split", {"axis": 2}, 1),
    (9, "Dropout", {"ratio": 0.3}, 1),
    (9, "TopK", {"k": 2, "axis": 1}, 1),
]


@pytest.mark.parametrize(("opset", "op_type", "attributes", "inputs"), OLD)
def test_old_opsets(opset: int, op_type: str, attributes: dict[str, Any], inputs: int) -> None:
    x = noise(1, 3, 4, 5)
    outputs = 2 if op_type in ("Split", "TopK") else 1
    constants = {f"c{index}": noise(3, seed=index, low=0.2) for index in range(1, inputs)}
    node = helper.make_node(op_type, ["x", *constants], [f"y{index}" for index in range(outputs)], **attributes)
    check(graph_model([node], {"x": x}, constants, list(node.output), opset=opset, ir_version=7), {"x": x})


def test_old_opset_resize_and_scatter() -> None:
    x = noise(1, 2, 4, 5)
    node = helper.make_node("Resize", ["x", "scales"], ["y"], mode="linear")
    check(graph_model([node], {"x": x}, {"scales": np.array([1, 1, 2, 2], np.float32)}, ["y"], opset=10, ir_version=5), {"x": x})
    constants = {"i": np.array([[1, 0]], np.int64), "u": noise(1, 2)}
    x = noise(3, 2)
    check(graph_model([helper.make_node("Scatter", ["x", "i", "u"], ["y"])], {"x": x}, constants, ["y"], opset=9, ir_version=5), {"x": x})


def test_newer_operators() -> None:
    x, scale = noise(2, 3, 8), noise(8, seed=1)
    model = graph_model([helper.make_node("RMSNormalization", ["x", "s"], ["y"], name="rms")], {"x": x}, {"s": scale}, ["y"], opset=23)
    expected = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale
    assert_close(run_network(load_network(model), {"x": x}), [expected])
    rotary = helper.make_node("RotaryEmbedding", ["x", "c", "s"], ["y"], name="rope")
    angles = {"c": noise(1, 3, 2), "s": noise(1, 3, 2, seed=1)}
    check(graph_model([rotary], {"x": noise(1, 2, 3, 4)}, angles, ["y"], opset=23, ir_version=11), {"x": noise(1, 2, 3, 4)})


def test_operators_that_onnx_itself_defines_by_others() -> None:
    heads = {name: noise(1, 2, 3, 4, seed=index) for index, name in enumerate("qkv")}
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], name="attention", is_causal=1)
    check(graph_model([node], heads, {}, ["y"], opset=23, ir_version=11), heads)
    x = noise(2, 3, 4, 4)
    check(graph_model([helper.make_node("MeanVarianceNormalization", ["x"], ["y"])], {"x": x}, {}, ["y"]), {"x": x})
    check(graph_model([helper.make_node("Shrink", ["x"], ["y"], lambd=0.7, bias=0.2)], {"x": x}, {}, ["y"]), {"x": x})


def test_old_opset_inside_a_branch() -> None:
    def branch(name: str, axis: int) -> onnx.GraphProto:
        return helper.make_graph([helper.make_node("Squeeze", ["x"], [name], axes=[axis])], name, [], [onnx.ValueInfoProto(name=name)])

    nodes = [helper.make_node("If", ["flag"], ["y"], then_branch=branch("a", 0), else_branch=branch("b", 2))]
    x = noise(1, 3, 1)
    model = graph_model(nodes, {"x": x}, {"flag": np.array(True)}, ["y"], opset=11, ir_version=6)
    assert types(check(model, {"x": x})) == ["Squeeze"]


class Small(nn.Module):
    """Conv, BatchNorm with statistics, residual, pool, linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        nn.init.uniform_(self.norm.running_mean, -1, 1)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(nn.functional.hardswish(x).mean((2, 3)))  # type: ignore[no-any-return]


def test_torch_module() -> None:
    module, x = Small().train(), torch.from_numpy(noise(1, 3, 8, 8))
    network = load_network(module, example_inputs=(x,))
    assert module.training, "the caller's module is left as it was"
    with torch.no_grad():
        assert_close(run_network(network, {network.inputs[0].name: x.numpy()}), [module.eval()(x).numpy()])
    assert "BatchNormalization" not in types(network)
    assert network.name == "Small"
    assert {"head.weight", "head.bias"} <= set(network.attributes)
    with pytest.raises(UsageError, match="example inputs"):
        load_network(module)


def test_torch_graph_module() -> None:
    module, x = Small().eval(), torch.from_numpy(noise(1, 3, 8, 8))
    network = load_network(torch.fx.symbolic_trace(module), example_inputs=x)
    with torch.no_grad():
        assert_close(run_network(network, {network.inputs[0].name: x.numpy()}), [module(x).numpy()])


@pytest.mark.parametrize(
    "name", ["onnx/mnist_cntk.onnx", "onnx/ultraface_rfb_320.onnx", "onnx_derived/resnet20_cifar10.onnx", "onnx/magika_standard_v3_3.onnx"]
)
def test_shared_models(shared: Callable[[str], Path], name: str) -> None:
    path = shared(name)
    network = load_network(path)
    assert network.floats == ()
    spec = network.inputs[0]
    x = noise(*spec.shape, low=0.0, high=1.0) if spec.dtype == "float32" else np.random.default_rng(0).integers(0, 256, spec.shape).astype(spec.dtype)
    assert_close(run_network(network, {spec.name: x}), run_ort(onnx.load(path), {spec.name: x}), 1e-4)
