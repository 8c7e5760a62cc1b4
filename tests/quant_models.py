"""Small networks for the tests of sites, calibration and sensitivities."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from mpqc.frontend import load_network
from mpqc.values.network import Network
from tests.onnx_models import graph_model


def weights(*shape: int, seed: int) -> np.ndarray:
    """He-initialized float32 numbers."""
    spread = (2.0 / max(int(np.prod(shape[1:])), 1)) ** 0.5
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


def residual_model(batch: int = 1, *, softmax: bool = False) -> onnx.ModelProto:
    """Conv+Relu, a residual block with Add+Relu, MaxPool, Concat of two branches, global average, Gemm: every kind of sharing."""
    constants = {
        "w0": weights(8, 3, 3, 3, seed=0), "b0": weights(8, seed=1) * 0.1, "w1": weights(8, 8, 3, 3, seed=2), "w2": weights(8, 8, 3, 3, seed=3),
        "w3": weights(8, 1, 3, 3, seed=4), "w4": weights(10, 16, seed=5), "b4": weights(10, seed=6) * 0.1,
    }  # fmt: skip
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "conv0", **same), node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1"], ["c1"], "conv1", **same), node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2"], ["c2"], "conv2", **same), node("Add", ["c2", "r0"], ["a0"], "add0"), node("Relu", ["a0"], ["r2"], "relu2"),
        node("MaxPool", ["r2"], ["p0"], "pool0", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p0", "w3"], ["c3"], "conv3", group=8, **same), node("HardSwish", ["c3"], ["h0"], "swish0"),
        node("Concat", ["p0", "h0"], ["k0"], "concat0", axis=1), node("GlobalAveragePool", ["k0"], ["g0"], "mean0"),
        node("Flatten", ["g0"], ["f0"], "flat0"), node("Gemm", ["f0", "w4", "b4"], ["y"], "fc", transB=1),
    ]  # fmt: skip
    if softmax:
        nodes.append(node("Softmax", ["y"], ["s"], "softmax", axis=1))
    return graph_model(nodes, {"x": np.zeros((batch, 3, 12, 12), np.float32)}, constants, ["s" if softmax else "y"])


def residual_network(batch: int = 1, *, softmax: bool = False) -> Network:
    """`residual_model` loaded."""
    return load_network(residual_model(batch, softmax=softmax))


def images(count: int = 32, *, seed: int = 0, shape: tuple[int, ...] = (3, 12, 12)) -> np.ndarray:
    """Smooth random pictures: noise would make every sample look the same to a convolution."""
    generator = np.random.default_rng(seed)
    coarse = generator.standard_normal((count, shape[0], 3, 3))
    return np.repeat(np.repeat(coarse, shape[1] // 3, 2), shape[2] // 3, 3).astype(np.float32)
