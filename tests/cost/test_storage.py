"""What a plan counts for activations of 4 bits is what the lowered program allocates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import helper

from mpqc.allocator.pricing import Pricing
from mpqc.cost.model import CostModel
from mpqc.cost.storage import packable
from mpqc.facts.ops import is_view
from mpqc.frontend import load_network
from mpqc.lowering import lower
from mpqc.lowering.lowered import Lowered
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.export import export_qdq
from mpqc.quantize.sites import find_sites
from mpqc.targets import load_target
from mpqc.values.budget import Resource
from mpqc.values.plan import uniform_plan
from mpqc.values.qtype import QParams, QType
from mpqc.values.site import SiteKind, SiteTable
from tests.onnx_models import graph_model
from tests.quant_models import weights

node = helper.make_node


class Builder:
    """Adds layers to a float network."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, *, relu: bool = True) -> str:
        name = f"c{len(self.nodes)}"
        self.constants[f"{name}_w"] = weights(outputs, inputs // groups, kernel, kernel, seed=len(self.nodes))
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": groups}
        self.nodes.append(node("Conv", [x, f"{name}_w"], [name], name, **shape))
        return self.op("Relu", name) if relu else name

    def op(self, kind: str, *xs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(node(kind, list(xs), [name], name, **attributes))
        return name

    def head(self, x: str, channels: int) -> onnx.ModelProto:
        self.constants["head"] = weights(10, channels, seed=99)
        y = self.op("Gemm", self.op("Flatten", self.op("GlobalAveragePool", x)), "head", transB=1)
        return graph_model(self.nodes, {"x": np.zeros((1, 3, 16, 16), np.float32)}, self.constants, [y])


def resnet() -> onnx.ModelProto:
    """ResNet-20's three stages with one block each."""
    net = Builder()
    x = net.conv("x", 3, 16)
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        stride = 1 if inputs == outputs else 2
        y = net.conv(net.conv(x, inputs, outputs, 3, stride), outputs, outputs, relu=False)
        x = net.op("Relu", net.op("Add", y, x if stride == 1 else net.conv(x, inputs, outputs, 1, stride, relu=False)))
    return net.head(x, 64)


def mobilenet() -> onnx.ModelProto:
    """Separable blocks, one of odd width, with HardSwish and a pool."""
    net = Builder()
    x = net.conv("x", 3, 16, 3, 2)
    for inputs, outputs, stride in ((16, 33, 1), (33, 24, 2), (24, 40, 1)):
        x = net.conv(net.conv(x, inputs, inputs, 3, stride, inputs), inputs, outputs, 1, relu=False)
        x = net.op("HardSwish", x)
    return net.head(net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 40)


def branches() -> onnx.ModelProto:
    """Concat of even and odd parts, a transposed detour, a grouped convolution."""
    net = Builder()
    x = net.conv("x", 3, 8)
    even = net.op("Concat", net.conv(x, 8, 6, 1), net.conv(x, 8, 10), axis=1)
    odd = net.op("Concat", net.conv(x, 8, 7, 1), net.conv(x, 8, 9), axis=1)
    both = net.op("Add", net.conv(even, 16, 16, 3, 1, 4), odd)
    turned = net.op("Transpose", both, perm=[0, 1, 3, 2])
    return net.head(net.conv(turned, 16, 12, 3, 1, 4), 12)


def products() -> onnx.ModelProto:
    """Two activations multiplied, as attention does, between convolutions."""
    net = Builder()
    x = net.conv(net.conv("x", 3, 16, 1), 16, 16, 1)
    turned = net.op("Transpose", x, perm=[0, 1, 3, 2])
    return net.head(net.conv(net.op("MatMul", x, turned), 16, 16, 1), 16)


def detours() -> onnx.ModelProto:
    """Channels cut and put together, pixels cut, padded, doubled, pooled; tables on the way."""
    net = Builder()
    x = net.conv("x", 3, 32)
    for name, values in (("s0", [0]), ("s1", [16]), ("s2", [32]), ("axis", [1]), ("pads", [0, 0, 1, 1, 0, 0, 1, 1]), ("rows", [2]), ("from1", [1])):
        net.constants[name] = np.array(values, np.int64)
    net.constants["scales"] = np.array([1, 1, 2, 2], np.float32)
    low, high = (net.op("Slice", x, *ends, "axis") for ends in (("s0", "s1"), ("s1", "s2")))
    y = net.conv(net.op("Concat", net.conv(high, 16, 16), low, axis=1), 32, 16)
    y = net.conv(net.op("Pad", y, "pads"), 16, 16)
    y = net.conv(net.op("Resize", y, "", "scales", mode="nearest"), 16, 16)
    y = net.conv(net.op("Sigmoid", net.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])), 16, 16)
    return net.head(net.op("Mul", y, net.op("Sigmoid", net.conv(y, 16, 16, relu=False))), 16)


def mixed() -> onnx.ModelProto:
    """A fully connected layer over the last axis of an image, between convolutions: copies in another layout on both sides."""
    net = Builder()
    x = net.conv("x", 3, 16)
    net.constants["dense"] = weights(16, 16, seed=7)
    y = net.op("Add", net.op("Sigmoid", net.op("MatMul", x, "dense")), net.conv(x, 16, 16))
    return net.head(net.conv(y, 16, 16), 16)


@dataclass(frozen=True)
class Ranges:
    """A calibration by hand."""

    constants: dict[str, np.ndarray]

    def qparams(self, name: str, bits: int) -> QParams:
        if name in self.constants:
            axis = 1 if name == "dense" else 0
            top = np.abs(np.moveaxis(self.constants[name], axis, 0).reshape(self.constants[name].shape[axis], -1)).max(axis=1)
            return QParams(QType(bits, axis), (top / QType(bits).qmax).astype(np.float32), np.zeros(len(top), np.int32))
        return QParams(QType(bits), np.asarray(np.float32(6 / (2**bits - 1))), np.array(0, np.int32))


def lowered(model: onnx.ModelProto, bits: int, target: str) -> tuple[SiteTable, Lowered]:
    network = load_network(model)
    table = find_sites(network)
    constants = {value.name: onnx.numpy_helper.to_array(value) for value in network.model.graph.initializer}
    qdq = export_qdq(network, table, uniform_plan(table, target, 8, bits), Ranges(constants))
    return table, lower(read_qdq(qdq), load_target(target))


def claimed(table: SiteTable, bits: int, target: str) -> list[int]:
    """Bytes of every activation that is not another's view."""
    model = CostModel(load_target(target)).for_network(table)
    views = {op.output for op in table.nodes if is_view(op.op_type)}
    return sorted(model.activation_bytes(s, bits) for s in table.sites if s.kind is SiteKind.ACTIVATION and s.name not in views)


def allocated(found: Lowered) -> list[int]:
    """Bytes of every int8 tensor but copies in another layout, which only the program knows of."""
    copies = {call.op for call in found.conversions}
    return sorted(call.outputs[0].nbytes for call in found.calls if call.outputs[0].dtype == "int8" and call.op not in copies)


NETS = pytest.mark.parametrize("make", [resnet, mobilenet, branches, products, detours], ids=lambda make: make.__name__)


@pytest.mark.parametrize("make", [resnet, mobilenet, branches, products, detours, mixed], ids=lambda make: make.__name__)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_tensor_is_as_large_as_the_plan_says(make: object, bits: int) -> None:
    table, found = lowered(make(), bits, "host")
    assert allocated(found) == claimed(table, bits, "host")


@NETS
@pytest.mark.parametrize("bits", [8, 4])
def test_largest_activation_and_peak_are_those_of_the_program(make: object, bits: int) -> None:
    table, found = lowered(make(), bits, "host")
    largest, peak = uses(table, bits, "host", [Resource.LARGEST_ACTIVATION, Resource.PEAK_MEMORY])
    assert largest == max(allocated(found))
    assert peak == found.arena.live_bytes


def test_float_results_count_beside_their_codes_and_as_the_largest() -> None:
    net = Builder()
    y = net.conv(net.conv("x", 3, 4), 4, 6, relu=False)
    for target in ("host", "cortex-a76"):
        table, found = lowered(graph_model(net.nodes, {"x": np.zeros((1, 3, 16, 16), np.float32)}, net.constants, [y]), 8, target)
        largest, peak = uses(table, 8, target, [Resource.LARGEST_ACTIVATION, Resource.PEAK_MEMORY])
        assert largest == found.largest_bytes == 6 * 16 * 16 * 4
        assert peak == found.arena.live_bytes == 6 * 16 * 16 * 5
    assert uses(table, 8, "packed", [Resource.LARGEST_ACTIVATION, Resource.PEAK_MEMORY]) == [6 * 16 * 16, 10 * 16 * 16]


@NETS
def test_memory_is_that_of_the_program_with_fused_additions(make: object) -> None:
    table, found = lowered(make(), 4, "cortex-a76")
    largest, peak = uses(table, 4, "cortex-a76", [Resource.LARGEST_ACTIVATION, Resource.PEAK_MEMORY])
    assert (largest, peak) == (max(allocated(found)), found.arena.live_bytes)
    assert not set(allocated(found)) - set(claimed(table, 4, "cortex-a76"))


def test_packed_activations_are_half() -> None:
    table, _ = lowered(resnet(), 8, "host")
    assert sum(claimed(table, 4, "host")) < 0.55 * sum(claimed(table, 8, "host"))
    assert "x" not in packable(table), "three channels"


def uses(table: SiteTable, bits: int, target: str, resources: Sequence[Resource]) -> list[int]:
    model = CostModel(load_target(target)).for_network(table)
    pricing = Pricing(table, model, dict.fromkeys(table.groups, (bits,)))
    return [int(pricing.bound(resource, None).exact([0] * len(table.groups))) for resource in resources]


def test_sums_are_all_that_packed_stores_of_residual_additions() -> None:
    table, _ = lowered(resnet(), 8, "host")
    packed, plain = (CostModel(load_target(name)).for_network(table) for name in ("packed", "host"))
    assert packed.joined == CostModel(load_target("cortex-a76")).for_network(table).joined
    assert packed.joined
    for name in packed.joined:
        site = table.by_name[name]
        assert (packed.activation_bytes(site, 8), plain.activation_bytes(site, 8)) == (0, site.elements)
