"""What Q and DQ nodes say: qparams in the program's signed codes, and constant weights.

Unsigned storage of b bits is shifted by 2^(b-1): code = stored - 2^(b-1), zero point likewise, so real values do not change.
A Clip between Q and DQ (QCDQ) whose bounds are a b-bit range makes the tensor a b-bit one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto

from mpqc.errors import ModelError
from mpqc.facts.kernels import stores_odd
from mpqc.numerics import integer
from mpqc.passes.lib.base import CODE_RANGES, attribute
from mpqc.qdq.read.source import DEQUANTIZE, Source
from mpqc.values.program import code_dtype
from mpqc.values.qtype import QParams, QType

WIDTHS: dict[int, int] = {
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}
UNSIGNED: set[int] = {TensorProto.UINT16, TensorProto.UINT8, TensorProto.UINT4, TensorProto.UINT2}


@dataclass(frozen=True, eq=False)
class Coding:
    """How a quantized activation is coded: `qparams` in signed codes, and the range its codes are limited to."""

    qparams: QParams
    element: int
    low: int
    high: int
    stored_zero: int = 0
    """Zero point in the file's codes"""
    parameters: tuple[str, ...] = ()
    """Names of the file's scale and zero point"""

    def reads(self, other: Coding) -> bool:
        """Whether a DQ with this coding gives back what a Q with `other` has coded."""
        mine, theirs = (self.qparams.scale, self.stored_zero, self.element), (other.qparams.scale, other.stored_zero, other.element)
        return mine == theirs

    def serves(self, other: Coding) -> bool:
        """Whether codes of this coding are, unchanged, codes of `other`."""
        same = self.qparams.scale == other.qparams.scale and self.qparams.zero_point == other.qparams.zero_point
        held = code_dtype(self.qparams.qtype.bits) == code_dtype(other.qparams.qtype.bits)
        return bool(same) and held and other.low <= self.low and self.high <= other.high


@dataclass(frozen=True, eq=False)
class Weight:
    """Constant signed codes (int8) with zero point 0. `scale` is [] or [n] along `axis`."""

    codes: np.ndarray
    scale: np.ndarray
    axis: int


@dataclass(frozen=True, eq=False)
class Constant:
    """Constant codes (int8 or int16) with one scale and zero point for the tensor: a second operand."""

    codes: np.ndarray
    scale: np.float32
    zero_point: int


def code_bits(codes: np.ndarray) -> int:
    """2, 4 or 8: the narrowest container in which kernels store the int8 weight `codes` [O, depth, ...]."""
    if stores_odd(codes.shape[1]) and are_odd(codes):
        return 2
    return next(bits for bits in (2, 4, 8) if (codes >= QType(bits).qmin).all() and (codes <= QType(bits).qmax).all())


def are_odd(codes: np.ndarray) -> bool:
    """Whether all `codes` lie on the half-integer grid of 2 bits: -3, -1, 1, 3."""
    return bool((codes % 2 == 1).all() and np.abs(codes).max(initial=0) <= QType(2, half=True).qmax)


def is_standard(node: NodeProto) -> bool:
    """Whether the node is ONNX's or ONNX Runtime's own op."""
    return node.domain in ("", "ai.onnx", "com.microsoft")


def _element(source: Source, node: NodeProto) -> int:
    if len(node.input) > 2 and node.input[2]:
        return source.elements.get(node.input[2], TensorProto.UINT8)
    if node.op_type == DEQUANTIZE:
        return source.elements.get(node.input[0], TensorProto.UINT8)
    return int(attribute(node, "output_dtype", 0)) or TensorProto.UINT8


def coding(source: Source, node: NodeProto, clip: tuple[int, int] | None = None) -> Coding | str:
    """Coding of the activation behind Q or DQ `node`, or the reason why it cannot be held in codes of at most 16 bits per tensor."""
    element = _element(source, node)
    if element not in WIDTHS:
        return f"{TensorProto.DataType.Name(element).lower()} codes have no integer kernels"
    if any(name and name not in source.constants for name in node.input[1:]):
        return "scale or zero point is not constant"
    scale = source.constants[node.input[1]]
    zero = source.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(scale.shape, dtype=np.int32)
    if scale.size != zero.size:
        raise ModelError("scale and zero point have different shapes", where=node.name, why=f"{list(scale.shape)} and {list(zero.shape)}")
    if scale.size != 1:
        return "an activation has a scale for each channel or block"
    return _per_tensor(element, scale, int(zero.reshape(())), clip, tuple(node.input[1:]))


def _per_tensor(element: int, scale: np.ndarray, zero: int, clip: tuple[int, int] | None, parameters: tuple[str, ...]) -> Coding | str:
    if scale.dtype != np.float32:
        return f"scale is {scale.dtype}, not float32"
    step = scale.reshape(())
    if not (np.isfinite(step) and step > 0):
        return f"scale {step} is not a positive number"
    stored = CODE_RANGES[element]
    low, high = (max(clip[0], stored[0]), min(clip[1], stored[1])) if clip else stored
    bits = _range_bits(low, high, element in UNSIGNED) or WIDTHS[element]
    shift = 1 << (bits - 1) if element in UNSIGNED else 0
    qparams = QParams(QType(bits), step, np.array(zero - shift, dtype=np.int32))
    return Coding(qparams, element, low - shift, high - shift, zero, parameters)


def _range_bits(low: int, high: int, unsigned: bool) -> int | None:
    for bits in range(1, 17):
        if (low, high) == ((0, (1 << bits) - 1) if unsigned else (QType(bits).qmin, QType(bits).qmax)):
            return bits
    return None


def weight(source: Source, name: str) -> Weight | str:
    """The constant behind DQ (and a Transpose, perhaps), or the reason why it is not symmetric int8 codes."""
    node = source.producers.get(name)
    if node is not None and node.op_type == "Transpose":
        return _transposed(weight(source, node.input[0]), attribute(node, "perm", None))
    if node is None or node.op_type != DEQUANTIZE:
        return "weight is not quantized" if node is None and name in source.constants else "weight is not constant"
    if any(part and part not in source.constants for part in node.input):
        return "weight is not constant"
    if attribute(node, "block_size", 0):
        return "weight has a scale for each block"
    return _signed_weight(source, node)


def _signed_weight(source: Source, node: NodeProto) -> Weight | str:
    element = source.elements[node.input[0]]
    if WIDTHS.get(element, 32) > 8:
        return f"{TensorProto.DataType.Name(element).lower()} weights have no integer kernels"
    stored, scale = source.constants[node.input[0]].astype(np.int32), source.constants[node.input[1]]
    if scale.dtype != np.float32 or not (np.isfinite(scale).all() and (scale > 0).all()):
        return "a weight scale is not a positive float32 number"
    axis = attribute(node, "axis", 1) % max(stored.ndim, 1)
    zero = source.constants[node.input[2]].astype(np.int32) if len(node.input) > 2 and node.input[2] else np.zeros((), np.int32)
    if scale.ndim > 1 and scale.size > 1:
        return "weight has a scale for each block"
    if scale.size not in (1, stored.shape[axis] if stored.ndim else 1) or zero.size not in (1, scale.size):
        raise ModelError("scale or zero point does not fit the tensor's shape", where=node.name)
    centred = stored - integer.along(zero if zero.size > 1 else zero.reshape(()), axis, stored.ndim)
    if centred.min(initial=0) < -128 or centred.max(initial=0) > 127:
        return f"weight zero point is not {_middle(element)}"
    scale = scale.reshape(()) if scale.size == 1 else scale
    return Weight(centred.astype(np.int8), scale, axis)


def _middle(element: int) -> int:
    """The zero point of symmetric weights."""
    return 1 << (WIDTHS[element] - 1) if element in UNSIGNED else 0


def _transposed(found: Weight | str, perm: list[int] | None) -> Weight | str:
    if isinstance(found, str):
        return found
    order = perm or list(range(found.codes.ndim))[::-1]
    return Weight(np.ascontiguousarray(found.codes.transpose(order)), found.scale, order.index(found.axis))


def constant(source: Source, name: str) -> Constant | str:
    """The quantized constant behind DQ as an operand with one scale, or the reason why it is not one."""
    node = source.producers.get(name)
    if node is None or node.op_type != DEQUANTIZE or node.input[0] not in source.constants:
        return "constant operand is not quantized"
    found = coding(source, node)
    if isinstance(found, str):
        return found
    codes = (source.constants[node.input[0]].astype(np.int32) - _middle(found.element)).astype(code_dtype(found.qparams.qtype.bits))
    return Constant(codes, np.float32(found.qparams.scale), int(found.qparams.zero_point))
