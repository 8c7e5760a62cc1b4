"""Passes that recognise functions written out in arithmetic, and those that change a node's spelling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx_models import check, graph_model, noise
from pass_checks import BN, bn, make, ops, run, text, typed
from torch import nn

from mpqc.frontend import load_network
from mpqc.passes.batch_norm_to_conv import BatchNormToConv
from mpqc.passes.division_to_product import DivisionToProduct
from mpqc.passes.fuse_gelu import FuseGelu
from mpqc.passes.fuse_layer_norm import FuseLayerNorm
from mpqc.passes.normalize_gemm import NormalizeGemm

Golden = Callable[[str, str], None]
X = noise(2, 4, 6, low=-4, high=4)
NUMBERS = {
    "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "root2": math.sqrt(2), "inverse2": math.sqrt(0.5), "cube": 0.044715,
    "tanh": math.sqrt(2 / math.pi), "eps": 1e-5, "third": 1 / 3,
}  # fmt: skip


def numbers(nodes: list[onnx.NodeProto]) -> dict[str, np.float32]:
    """The constants that the nodes name."""
    return {name: np.float32(value) for name, value in NUMBERS.items() if any(name in node.input for node in nodes)}


ERF = [make("Div", "x root2", "u"), make("Erf", "u", "f"), make("Add", "f one", "g")]
TANH = [
    make("Pow", "x three", "p"),
    make("Mul", "p cube", "c"),
    make("Add", "x c", "a"),
    make("Mul", "a tanh", "u"),
    make("Tanh", "u", "f"),
    make("Add", "one f", "g"),
]
GELUS = {
    "half-last": [*ERF, make("Mul", "x g", "m"), make("Mul", "m half", "y")],
    "half-first": [*ERF, make("Mul", "half x", "m"), make("Mul", "m g", "y")],
    "divided": [make("Mul", "inverse2 x", "u"), *ERF[1:], make("Mul", "g x", "m"), make("Div", "m two", "y")],
    "tanh": [*TANH, make("Mul", "x half", "m"), make("Mul", "m g", "y")],
    "tanh-products": [make("Mul", "x x", "q"), make("Mul", "q x", "p"), *TANH[1:], make("Mul", "g half", "m"), make("Mul", "m x", "y")],
}


@pytest.mark.parametrize("name", GELUS)
def test_gelu(golden: Golden, name: str) -> None:
    nodes = GELUS[name]
    model = typed(nodes, X, numbers(nodes))
    result = run(FuseGelu(), model, X)
    if name in ("half-last", "tanh"):
        golden(f"passes/fuse_gelu_{name}.txt", text(model, result.model))
    assert ops(result.model) == ["Gelu"]


def test_gelu_of_a_product() -> None:
    """x itself is a product, which must not be taken apart."""
    nodes = [make("Mul", "in in", "x"), *GELUS["half-last"]]
    feeds = {"in": X}
    network = check(graph_model(nodes, feeds, numbers(nodes), ["y"]), feeds)
    assert ops(network.model) == ["Mul", "Gelu"]


def test_mish() -> None:
    model = typed([make("Softplus", "x", "s"), make("Tanh", "s", "t"), make("Mul", "t x", "y")], X, {})
    assert ops(run(FuseGelu(), model, X).model) == ["Mish"]


@pytest.mark.parametrize(
    "nodes",
    [
        [make("Div", "x two", "u"), *ERF[1:], make("Mul", "x g", "m"), make("Mul", "m half", "y")],
        [*ERF, make("Mul", "x g", "m"), make("Mul", "m third", "y")],
        [*ERF[:2], make("Add", "f half", "g"), make("Mul", "x g", "m"), make("Mul", "m half", "y")],
        [*ERF, make("Neg", "x", "n"), make("Mul", "n g", "m"), make("Mul", "m half", "y")],
    ],
)
def test_not_gelu(nodes: list[onnx.NodeProto]) -> None:
    run(FuseGelu(), typed(nodes, X, numbers(nodes)), X, changed=False)


AXES = {"axes": np.array([-1], np.int64)}
CENTRED = [make("ReduceMean", "x axes", "mean"), make("Sub", "x mean", "d")]
ROOT = [make("Mul", "d d", "q"), make("ReduceMean", "q axes", "v"), make("Add", "v eps", "e"), make("Sqrt", "e", "r")]
NORMS = {
    "plain": [*CENTRED, *ROOT, make("Div", "d r", "y")],
    "affine": [*CENTRED, *ROOT, make("Div", "d r", "n"), make("Mul", "n scale", "m"), make("Add", "shift m", "y")],
    "power": [*CENTRED, make("Pow", "d two", "q"), *ROOT[1:], make("Div", "d r", "n"), make("Mul", "scale n", "y")],
    "reciprocal": [*CENTRED, *ROOT, make("Reciprocal", "r", "i"), make("Mul", "d i", "n"), make("Mul", "n scale", "m"), make("Add", "m shift", "y")],
    "folded": [
        *CENTRED, *ROOT, make("Reciprocal", "r", "i"), make("Mul", "i scale", "g"), make("Mul", "x g", "a"), make("Mul", "mean g", "b"),
        make("Sub", "shift b", "c"), make("Add", "a c", "y"),
    ],
}  # fmt: skip


def norm_constants(nodes: list[onnx.NodeProto]) -> dict[str, np.ndarray]:
    stored = {**AXES, "scale": noise(6, seed=1), "shift": noise(6, seed=2), **numbers(nodes)}
    return {name: value for name, value in stored.items() if any(name in node.input for node in nodes)}


@pytest.mark.parametrize("name", NORMS)
def test_layer_norm(golden: Golden, name: str) -> None:
    model = typed(NORMS[name], X, norm_constants(NORMS[name]))
    result = run(FuseLayerNorm(), model, X)
    if name in ("affine", "folded"):
        golden(f"passes/fuse_layer_norm_{name}.txt", text(model, result.model))
    assert ops(result.model) == ["LayerNormalization"]


def test_layer_norm_over_two_axes_with_a_scale_for_one() -> None:
    constants = {**norm_constants(NORMS["affine"]), "axes": np.array([1, 2], np.int64), "scale": noise(4, 1, seed=1)}
    assert ops(run(FuseLayerNorm(), typed(NORMS["affine"], X, constants), X).model) == ["LayerNormalization"]


def test_layer_norm_whose_steps_are_read_elsewhere() -> None:
    nodes = [*NORMS["affine"], make("Neg", "mean", "z")]
    model = typed(nodes, X, norm_constants(nodes), "y z")
    assert ops(run(FuseLayerNorm(), model, X).model) == ["ReduceMean", "LayerNormalization", "Neg"]


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        (NORMS["plain"], {"axes": np.array([1], np.int64)}),
        ([*CENTRED, make("Mul", "x x", "q"), *ROOT[1:], make("Div", "d r", "y")], {}),
        ([*CENTRED, *ROOT[:3], make("Div", "d e", "y")], {}),
        ([*CENTRED, *ROOT, make("Div", "x r", "y")], {}),
    ],
)
def test_not_layer_norm(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    run(FuseLayerNorm(), typed(nodes, X, {**norm_constants(nodes), **constants}), X, changed=False)


def test_layer_norm_scaled_by_each_row_stays_apart() -> None:
    """A scale that varies outside the normalised axis is no LayerNormalization's; the rest still is one."""
    constants = {**norm_constants(NORMS["power"]), "scale": noise(4, 1, seed=1)}
    assert ops(run(FuseLayerNorm(), typed(NORMS["power"], X, constants), X).model) == ["LayerNormalization", "Mul"]


def test_normalize_gemm(golden: Golden) -> None:
    x = noise(5, 2)
    model = typed([make("Gemm", "x w b", "y", alpha=0.5, beta=2.0, transA=1)], x, {"w": noise(5, 4), "b": noise(4)})
    run(NormalizeGemm(), typed([make("Gemm", "x w b", "y", beta=2.0, transA=1)], x, {"w": noise(5, 4), "b": np.float32(0.5)}), x)
    result = run(NormalizeGemm(), model, x)
    golden("passes/normalize_gemm.txt", text(model, result.model))
    assert ops(result.model) == ["Transpose", "Gemm"]


def test_normalize_gemm_leaves_plain_and_computed_ones() -> None:
    x = noise(5, 5)
    run(NormalizeGemm(), typed([make("Gemm", "x w", "y", transB=1)], x, {"w": noise(4, 5)}), x, changed=False)
    run(NormalizeGemm(), typed([make("Gemm", "x x", "y", alpha=0.5)], x, {}), x, changed=False)
    run(NormalizeGemm(), typed([make("Gemm", "x w x", "y", beta=0.5)], x, {"w": noise(5, 5)}), x, changed=False)


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 4), (1, 3, 2, 3, 4)])
def test_batch_norm_to_conv(golden: Golden, shape: tuple[int, ...]) -> None:
    x = noise(*shape)
    model = typed([make("Relu", "x", "r"), make("BatchNormalization", f"r {BN}", "y")], x, bn(3))
    result = run(BatchNormToConv(), model, x)
    if len(shape) == 4:
        golden("passes/batch_norm_to_conv.txt", text(model, result.model))
    assert ops(result.model) == ["Relu", "Conv"]


def test_batch_norm_of_rank_two_stays() -> None:
    x = noise(2, 3)
    run(BatchNormToConv(), typed([make("BatchNormalization", f"x {BN}", "y")], x, bn(3)), x, changed=False)


def test_division_to_product(golden: Golden) -> None:
    model = typed([make("Div", "x k", "y")], X, {"k": np.float32([[1], [2], [-3], [0.1]])})
    result = run(DivisionToProduct(), model, X)
    golden("passes/division_to_product.txt", text(model, result.model))
    assert ops(result.model) == ["Mul"]
    assert ops(run(DivisionToProduct(), typed([make("Div", "x k", "y")], X, {"k": np.float32(3)}), X).model) == ["Mul"]


@pytest.mark.parametrize("divisor", [np.float32(0), np.float32(1e-45), np.float32(3e38), np.float32(np.inf)])
def test_division_that_stays(divisor: np.float32) -> None:
    assert not DivisionToProduct().run(typed([make("Div", "x k", "y")], X, {"k": divisor})).changed


def test_division_of_integers_and_by_tensors_stays() -> None:
    integers = np.arange(-4, 4, dtype=np.int64)
    run(DivisionToProduct(), typed([make("Div", "x k", "y")], integers, {"k": np.int64(3)}), integers, changed=False)
    run(DivisionToProduct(), typed([make("Exp", "x", "e"), make("Div", "x e", "y")], X, {}), X, changed=False)


class Block(nn.Module):
    """A transformer block's feed-forward half."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))  # type: ignore[no-any-return]


def test_transformer_block_from_torch() -> None:
    network = load_network(Block(), example_inputs=(torch.from_numpy(noise(1, 5, 16)),))
    assert ops(network.model) == ["LayerNormalization", "MatMul", "Add", "Gelu", "MatMul", "Add", "Add"]
    assert network.floats == ()
