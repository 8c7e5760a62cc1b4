"""Conv, Gemm and MatMul with constant quantized weights: constants folded, multipliers and the overflow proof."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from mpqc.numerics import integer
from mpqc.passes.lib.base import attribute
from mpqc.qdq.read.builder import UNQUANTIZED, Builder, Codes, Target, are_long
from mpqc.qdq.read.geometry import explicit_pads, pair
from mpqc.qdq.read.quantizers import Weight, are_odd, code_bits, weight
from mpqc.qdq.read.source import DEQUANTIZE, Source
from mpqc.values.program import Conv, Gemm, MatMul, Move, Op

INT32_MAX = 2**31 - 1
LONG_LIMIT = 2**38 - 1
"""Sums of 16-bit inputs, of which kernels hold the 256th part and the rest in int32 each"""
EXACT_SUMS = 2**53
"""Sums of products of two activations of more than 8 bits, in int64: whole numbers that float64 holds"""
_HOLDS = " int32"
_NOTHING = 0.49
"""Accumulators below this many output steps round to 0 whatever the input: such channels (pruned, or quantized from zeros with a
tiny scale) get bias 0 and, where codes have one, weight 0, which changes no output and keeps their accumulators small."""


@dataclass(frozen=True, eq=False)
class _Folded:
    codes: np.ndarray
    bias: np.ndarray
    multiplier: np.ndarray


def match_conv(builder: Builder, node: NodeProto, target: Target) -> list[Op] | str:
    """Conv over quantized input and constant weight as one Conv op, or the reason why not."""
    found = _operands(builder, node, channel_axis=0)
    if isinstance(found, str):
        return found
    x, w = found
    if w.codes.ndim not in (3, 4):
        return f"{w.codes.ndim - 2}-D convolution has no integer kernel"
    groups = int(attribute(node, "group", 1))
    if len(x.shape) != w.codes.ndim or x.shape[1] != w.codes.shape[1] * groups or w.codes.shape[0] % groups:
        return "weight does not fit the input's channels"
    folded = _fold(builder.source, x, w, node.input[2] if len(node.input) > 2 else "", target)
    if isinstance(folded, str):
        return folded
    codes = folded.codes if folded.codes.ndim == 4 else folded.codes[:, :, None, :]
    strides, dilations = pair(attribute(node, "strides", [1])), pair(attribute(node, "dilations", [1]))
    pads = explicit_pads(node, x.shape, builder.source.shapes[node.output[0]], (codes.shape[2], codes.shape[3]), strides, dilations)
    constants = (codes, code_bits(codes), folded.bias, folded.multiplier)
    return [Conv(node.name, (x.name,), (target.name,), *constants, strides, pads, dilations, groups, target.low, target.high)]


def match_gemm(builder: Builder, node: NodeProto, target: Target) -> list[Op] | str:
    """Gemm with alpha = beta = 1 and no transA as one Gemm op, or the reason why not."""
    if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1 or (len(node.input) > 2 and attribute(node, "beta", 1.0) != 1):
        return "Gemm with transA, alpha or beta has no integer kernel"
    transposed = bool(attribute(node, "transB", 0))
    return _gemm(builder, node, target, transposed, node.input[2] if len(node.input) > 2 else "")


def match_matmul(builder: Builder, node: NodeProto, target: Target, bias: str = "") -> list[Op] | str:
    """MatMul by a constant [K, N] matrix as one Gemm op, or the reason why not."""
    return _gemm(builder, node, target, False, bias)


def _gemm(builder: Builder, node: NodeProto, target: Target, transposed: bool, bias: str) -> list[Op] | str:
    if node.input[0] in builder.codes and node.input[1] in builder.codes:
        return _of_activations(builder, node, target, transposed, bias)
    found = _operands(builder, node, channel_axis=0 if transposed else 1)
    if isinstance(found, str):
        return found
    x, w = found
    if w.codes.ndim != 2:
        return "weight is not a matrix"
    rows = Weight(w.codes if transposed else np.ascontiguousarray(w.codes.T), w.scale, 0)
    folded = _fold(builder.source, x, rows, bias, target)
    if isinstance(folded, str):
        return folded
    return [
        Gemm(node.name, (x.name,), (target.name,), folded.codes, code_bits(folded.codes), folded.bias, folded.multiplier, target.low, target.high)
    ]


def _of_activations(builder: Builder, node: NodeProto, target: Target, transposed: bool, bias: str) -> list[Op] | str:
    a, b = (builder.codes[name] for name in node.input[:2])
    if bias or min(len(a.shape), len(b.shape)) < 2:
        return "both operands are activations, and there is a bias or a vector"
    reach = a.shape[-1] * np.prod([max(int(q.zero_point) - q.qtype.qmin, q.qtype.qmax - int(q.zero_point)) for q in (a.qparams, b.qparams)])
    if reach > (EXACT_SUMS if are_long(a.coding, b.coding) else INT32_MAX):
        return f"{a.shape[-1]} products of two activations may overflow{_HOLDS * (not are_long(a.coding, b.coding))}"
    before, right = _turned(builder, node, b) if transposed else ([], b)
    multiplier = float(integer.multiplier(a.qparams.scale, b.qparams.scale, target.qparams.scale))
    return [*before, MatMul(node.name, (a.name, right.name), (target.name,), multiplier, target.low, target.high)]


def _turned(builder: Builder, node: NodeProto, b: Codes) -> tuple[list[Op], Codes]:
    """A matrix of codes transposed, as Gemm's transB asks for."""
    turned = builder.new_codes(f"{b.name}_transposed", b.shape[::-1], b.coding)
    index = np.arange(b.shape[0] * b.shape[1]).reshape(b.shape).T
    return [Move(node.name, (b.name,), (turned.name,), "Transpose", np.ascontiguousarray(index), (1, 0))], turned


def _operands(builder: Builder, node: NodeProto, channel_axis: int) -> tuple[Codes, Weight] | str:
    x = builder.codes.get(node.input[0])
    if x is None:
        return UNQUANTIZED
    w = weight(builder.source, node.input[1])
    if isinstance(w, str):
        return w
    if w.scale.ndim and w.axis != channel_axis:
        return "weight scales do not run along the output channels"
    return x, w


def _fold(source: Source, x: Codes, w: Weight, bias: str, target: Target) -> _Folded | str:
    scale = (np.float32(x.qparams.scale) * w.scale).astype(np.float32)
    most = LONG_LIMIT if are_long(x.coding) else INT32_MAX
    stored = _bias_codes(source, bias, scale, w.codes.shape[0], most)
    if isinstance(stored, str):
        return stored
    multiplier = np.broadcast_to(integer.multiplier(x.qparams.scale, w.scale, target.qparams.scale), (w.codes.shape[0],)).astype(np.float32)
    wide = w.codes.astype(np.int64).reshape(w.codes.shape[0], -1)
    folded = stored - int(x.qparams.zero_point) * wide.sum(axis=1)
    reach = max(abs(x.qparams.qtype.qmin), abs(x.qparams.qtype.qmax)) * np.abs(wide).sum(axis=1)
    kept = ~((np.abs(folded) + reach) * multiplier.astype(np.float64) < _NOTHING)
    if not _fits(folded, reach, most)[kept].all():
        return f"{wide.shape[1]} products of the input and the weight may overflow{_HOLDS * (not are_long(x.coding))}"
    used = kept | are_odd(w.codes)  # which are stored without a 0
    codes = np.where(used[:, None], wide, 0).reshape(w.codes.shape).astype(np.int8)
    bias_codes = np.where(kept, folded, 0)
    small = np.abs(bias_codes).max(initial=0) <= INT32_MAX
    return _Folded(codes, bias_codes.astype(np.int32 if small else np.int64), multiplier)


def _fits(bias: np.ndarray, reach: np.ndarray, most: int) -> np.ndarray:
    """For every channel: bias +- max|q_x| * sum|w| lies within `most`, so no partial sum in any order leaves it."""
    return (bias - reach >= -most - 1) & (bias + reach <= most)


def _bias_codes(source: Source, name: str, scale: np.ndarray, channels: int, most: int) -> np.ndarray | str:
    """int64 [channels], at most `most`, in units of `scale`: the file's own codes where it uses these units, rounded from real values elsewhere."""
    if not name:
        return np.zeros(channels, dtype=np.int64)
    real = source.real(name)
    if real is None:
        return "bias is not constant"
    if real.size not in (1, channels):
        return "bias is not one value for each output channel"
    stored = _stored_bias(source, name, scale)
    codes = stored if stored is not None else np.rint(real.astype(np.float64).reshape(-1) / scale.astype(np.float64))
    if not ((codes >= -most - 1) & (codes <= most)).all():
        return "bias does not fit int32"
    return np.broadcast_to(codes.reshape(-1).astype(np.int64), (channels,))


def _stored_bias(source: Source, name: str, scale: np.ndarray) -> np.ndarray | None:
    """int32 codes of a bias whose DQ has scale s_x * s_w to float32 accuracy and zero point 0: runtimes use them as they are."""
    node = source.producers.get(name)
    if node is None or node.op_type != DEQUANTIZE or source.constants[node.input[0]].dtype != np.int32:
        return None
    zero = source.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(1)
    same = source.constants[node.input[1]].reshape(-1)
    if zero.any() or not np.allclose(same, scale.reshape(-1), rtol=1e-5, atol=0):
        return None
    return source.constants[node.input[0]].astype(np.int64)
