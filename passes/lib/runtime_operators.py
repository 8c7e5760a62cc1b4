"""ONNX Runtime's own fused operators (domain com.microsoft) as the standard operators that they were made from.

Source: onnxruntime/docs/ContribOperators.md. Each function writes one node and returns False for what it cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx import helper

from mpqc.passes.lib.base import attribute
from mpqc.passes.lib.writer import Writer

DOMAIN = "com.microsoft"
_FUSED_ATTRIBUTES = ("activation", "activation_params", "activation_alpha", "activation_beta", "activation_gamma")


def _plain(writer: Writer) -> dict[str, Any]:
    """The attributes of the operator without those of what is fused behind it."""
    return {item.name: helper.get_attribute_value(item) for item in writer.node.attribute if item.name not in _FUSED_ATTRIBUTES}


def _activated(writer: Writer, x: str) -> bool:
    """The activation that is fused behind, to the node's output."""
    node, to = writer.node, writer.node.output[0]
    kind = attribute(node, "activation", "") or "Identity"
    numbers = list(attribute(node, "activation_params", [])) or [
        value for name in ("activation_alpha", "activation_beta") if (value := attribute(node, name, None)) is not None
    ]
    if kind in ("Identity", "Relu", "Sigmoid", "Tanh"):
        writer.add(kind, x, to=to)
    elif kind == "LeakyRelu":
        writer.add(kind, x, to=to, alpha=numbers[0] if numbers else 0.01)
    elif kind == "HardSigmoid":
        writer.add(kind, x, to=to, alpha=numbers[0] if numbers else 0.2, beta=numbers[1] if len(numbers) > 1 else 0.5)
    elif kind == "Clip" and len(numbers) == 2:
        writer.add(kind, x, *(writer.store(np.float32(number), "bound") for number in numbers), to=to)
    else:
        return False
    return True


def _fused_conv(writer: Writer) -> bool:
    """Activation(Conv(x, w, b) + z)."""
    inputs = [name for name in writer.node.input[:3] if name]
    made = writer.add("Conv", *inputs, **_plain(writer))
    return _activated(writer, writer.add("Add", made, writer.input(3)) if writer.input(3) else made)


def _fused_gemm(writer: Writer) -> bool:
    return _activated(writer, writer.add("Gemm", *[name for name in writer.node.input if name], **_plain(writer)))


def _fused_matmul(writer: Writer) -> bool:
    """alpha * a b, with the last two axes of either exchanged."""
    node = writer.node
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        return False
    operands = []
    for place, name in enumerate(("transA", "transB")):
        rank = len(writer.shape(place))
        order = [*range(rank - 2), rank - 1, rank - 2]
        turned = attribute(node, name, 0) and rank > 1
        operands.append(writer.add("Transpose", node.input[place], perm=order) if turned else node.input[place])
    alpha = float(attribute(node, "alpha", 1.0))
    if alpha == 1.0:
        writer.add("MatMul", *operands, to=node.output[0])
    else:
        writer.add("Mul", writer.add("MatMul", *operands), writer.store(np.float32(alpha), "alpha"), to=node.output[0])
    return True


def _gelu(approximate: str) -> Callable[[Writer], bool]:
    """Gelu of x and, where there is one, a bias."""

    def write(writer: Writer) -> bool:
        x = writer.add("Add", writer.node.input[0], writer.input(1)) if writer.input(1) else writer.node.input[0]
        writer.add("Gelu", x, to=writer.node.output[0], approximate=approximate)
        return True

    return write


def _quick_gelu(writer: Writer) -> bool:
    """x * sigmoid(alpha * x)."""
    x = writer.node.input[0]
    scaled = writer.add("Mul", x, writer.store(np.float32(attribute(writer.node, "alpha", 1.702)), "alpha"))
    writer.add("Mul", x, writer.add("Sigmoid", scaled), to=writer.node.output[0])
    return True


def _skip_layer_norm(writer: Writer) -> bool:
    """LayerNormalization of a sum; the sum itself is the fourth output."""
    node = writer.node
    outputs = [*node.output, "", "", ""]
    if outputs[1] or outputs[2]:
        return False
    with_bias = bool(writer.input(4))
    total = writer.add("Add", node.input[0], node.input[1], to="" if with_bias else outputs[3])
    total = writer.add("Add", total, writer.input(4), to=outputs[3]) if with_bias else total
    parameters = [name for name in node.input[2:4] if name]
    writer.add("LayerNormalization", total, *parameters, to=node.output[0], axis=-1, epsilon=attribute(node, "epsilon", 1e-12))
    return True


def _matmul_n_bits(writer: Writer) -> bool:
    """A product with weights in blocks of 4 or 8 bits, dequantized: mpqc chooses their bits itself."""
    node, packed, scales = writer.node, writer.known(1), writer.known(2)
    bits, rows, columns, block = (int(attribute(node, name, 0)) for name in ("bits", "N", "K", "block_size"))
    zeros = writer.known(3)
    if (
        packed is None
        or scales is None
        or bits not in (0, 4, 8)
        or writer.input(4)
        or (writer.input(3) and (zeros is None or zeros.dtype != np.uint8))
    ):
        return False
    bits, blocks = bits or 4, -(-columns // block)
    codes = _unpacked(packed.reshape(rows, -1), bits)[:, : blocks * block].reshape(rows, blocks, block).astype(np.float32)
    middle = np.float32(1 << (bits - 1)) if zeros is None else _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks].astype(np.float32)[..., None]
    real = (codes - middle) * scales.reshape(rows, blocks, 1).astype(np.float32)
    weight = writer.store(real.reshape(rows, blocks * block)[:, :columns].T, "weight")
    made = writer.add("MatMul", node.input[0], weight, to="" if writer.input(5) else node.output[0])
    if writer.input(5):
        writer.add("Add", made, writer.input(5), to=node.output[0])
    return True


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Codes along the last axis, the lower half of a byte first."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)


RUNTIME_RULES: Mapping[str, Callable[[Writer], bool]] = {
    "BiasGelu": _gelu("none"),
    "FastGelu": _gelu("tanh"),
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gelu("none"),
    "MatMulNBits": _matmul_n_bits,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
}
"""Operator of com.microsoft -> how it is written"""
