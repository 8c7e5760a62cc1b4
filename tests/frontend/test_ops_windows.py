"""Convolutions, products and pools against ONNX Runtime, with awkward attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import check, noise, one_op

CONV = [
    ((1, 3, 7, 6), (4, 3, 3, 3), {}),
    ((2, 4, 7, 6), (4, 2, 3, 2), {"group": 2, "pads": [1, 0, 2, 1]}),
    ((1, 4, 9, 9), (8, 1, 3, 3), {"group": 4, "strides": [2, 3], "dilations": [2, 1], "pads": [2, 1, 2, 1]}),
    ((1, 3, 10, 7), (2, 3, 3, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((1, 3, 10, 7), (2, 3, 4, 4), {"auto_pad": "SAME_LOWER", "strides": [3, 2]}),
    ((1, 3, 10, 7), (2, 3, 3, 3), {"auto_pad": "VALID", "kernel_shape": [3, 3]}),
    ((1, 3, 11), (5, 3, 4), {"pads": [3, 0], "strides": [2]}),
    ((1, 2, 5, 6, 4), (3, 2, 2, 3, 1), {"pads": [0, 1, 0, 1, 1, 0]}),
]


@pytest.mark.parametrize(("shape", "weight", "attributes"), CONV)
@pytest.mark.parametrize("bias", [True, False])
def test_conv(shape: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, Any], bias: bool) -> None:
    constants = {1: noise(*weight, seed=1)} | ({2: noise(weight[0], seed=2)} if bias else {})
    network = check(*one_op("Conv", [noise(*shape)], constants, **attributes))
    written = {item.name for item in network.model.graph.node[0].attribute}
    assert written == {"dilations", "group", "kernel_shape", "pads", "strides"}


def test_conv_with_a_computed_weight() -> None:
    check(*one_op("Conv", [noise(1, 2, 5, 5), noise(3, 2, 3, 3, seed=1)]))


TRANSPOSED = [
    ((1, 3, 4, 5), (3, 2, 3, 3), {}),
    ((1, 4, 4, 5), (4, 3, 3, 2), {"group": 2, "strides": [2, 2], "pads": [1, 0, 0, 1]}),
    ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 3], "output_padding": [1, 2], "pads": [1, 1, 1, 1]}),
    ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 2], "output_shape": [8, 10]}),
    ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": [3, 2], "auto_pad": "SAME_LOWER"}),
    ((1, 3, 4, 5), (3, 2, 3, 3), {"dilations": [2, 1], "auto_pad": "VALID"}),
    ((1, 3, 6), (3, 2, 4), {"strides": [2], "pads": [1, 2]}),
]


@pytest.mark.parametrize(("shape", "weight", "attributes"), TRANSPOSED)
def test_conv_transpose(shape: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, Any]) -> None:
    channels = weight[1] * attributes.get("group", 1)
    check(*one_op("ConvTranspose", [noise(*shape)], {1: noise(*weight, seed=1), 2: noise(channels, seed=2)}, **attributes))


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"transA": 1, "alpha": 0.5, "beta": 2.0}])
@pytest.mark.parametrize("bias", [(3,), (1,), (2, 3), (2, 1), None])
def test_gemm(attributes: dict[str, Any], bias: tuple[int, ...] | None) -> None:
    a = noise(4, 2) if attributes.get("transA") else noise(2, 4)
    b = noise(3, 4, seed=1) if attributes.get("transB") else noise(4, 3, seed=1)
    check(*one_op("Gemm", [a], {1: b} | ({2: noise(*bias, seed=2)} if bias else {}), **attributes))


@pytest.mark.parametrize(("a", "b"), [((2, 4), (4, 3)), ((2, 5, 4), (4, 3)), ((2, 1, 5, 4), (3, 4, 2)), ((4,), (4, 3)), ((2, 4), (4,))])
@pytest.mark.parametrize("stored", [True, False])
def test_matmul(a: tuple[int, ...], b: tuple[int, ...], stored: bool) -> None:
    weight = noise(*b, seed=1)
    check(*(one_op("MatMul", [noise(*a)], {1: weight}) if stored else one_op("MatMul", [noise(*a), weight])))


def test_einsum() -> None:
    check(*one_op("Einsum", [noise(2, 3, 4), noise(2, 4, 5, seed=1)], equation="bij,bjk->bik"))


POOL = [
    ((1, 3, 7, 6), {"kernel_shape": [3, 3]}),
    ((1, 3, 7, 6), {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [1, 0, 0, 2]}),
    ((1, 3, 7, 6), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ((1, 2, 8, 8), {"kernel_shape": [3, 3], "strides": [3, 3], "ceil_mode": 1, "pads": [1, 1, 1, 1]}),
    ((1, 2, 6, 6), {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [0, 0, 1, 1]}),
    ((1, 2, 7, 8), {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((1, 2, 7, 8), {"kernel_shape": [4, 3], "strides": [2, 3], "auto_pad": "SAME_LOWER"}),
    ((1, 2, 9), {"kernel_shape": [4], "strides": [2], "pads": [2, 1]}),
    ((1, 2, 5, 6, 7), {"kernel_shape": [2, 2, 3], "strides": [2, 1, 2]}),
]


@pytest.mark.parametrize(("shape", "attributes"), POOL)
def test_max_pool(shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    check(*one_op("MaxPool", [noise(*shape, high=-0.5)], **attributes))


def test_max_pool_dilated() -> None:
    check(*one_op("MaxPool", [noise(1, 2, 9, 8)], kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 1, 1, 1]))


@pytest.mark.parametrize(("shape", "attributes"), POOL)
@pytest.mark.parametrize("include", [0, 1])
def test_average_pool(shape: tuple[int, ...], attributes: dict[str, Any], include: int) -> None:
    check(*one_op("AveragePool", [noise(*shape)], count_include_pad=include, **attributes))


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 7)])
def test_global_pool(op_type: str, shape: tuple[int, ...]) -> None:
    check(*one_op(op_type, [noise(*shape)]))


def test_max_pool_indices_stay_float() -> None:
    check(*one_op("MaxPool", [noise(1, 2, 6, 6)], outputs=2, kernel_shape=[2, 2], strides=[2, 2]), floats=["MaxPool"])


def test_average_pool_dilated_stays_float() -> None:
    network = check(*one_op("AveragePool", [noise(1, 2, 9, 8)], kernel_shape=[2, 2], dilations=[2, 2]), floats=["AveragePool"])
    assert "dilations" in network.floats[0].reason


def test_max_pool_of_codes() -> None:
    codes = np.random.default_rng(0).integers(-128, 128, (1, 2, 6, 6)).astype(np.int8)
    check(*one_op("MaxPool", [codes], kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 0, 0]), floats=[])
