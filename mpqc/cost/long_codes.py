"""What kernels of codes of more than 8 bits cost where a target has no cost rows of them: times the same kernel at 8 bits.

Convolutions and fully connected layers take twice the products, as codes are summed in two bytes (lowering/kernels/contraction.py); the other kernels
are portable loops over twice the bytes. The factors are means over shapes, of benchmarks/long_codes.py (results/long_codes_a76.md, _a72, _a53).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from mpqc.cost.workload import kind_of
from mpqc.facts.kinds import OpKind
from mpqc.values.qtype import MOST_BITS
from mpqc.values.site import CHANNELS, OpNode

SHORT_BITS = 8
"""Codes of more bits are held in int16"""
LONG_WINDOW = 32767
"""Values of a window whose codes of 16 bits int32 holds the sum of (qdq/read/spatial.py)"""
_OTHERS = 2.5
"""Of kinds that have no row in the tables below"""
_TIMES: Mapping[str, Mapping[OpKind, float]] = {
    "dotprod": {
        OpKind.CONV: 2.1,
        OpKind.GEMM: 2.1,
        OpKind.DEPTHWISE: 4.5,
        OpKind.MATMUL: 7.9,
        OpKind.BINARY: 1.9,
        OpKind.TABLE: 2.5,
        OpKind.MAX_POOL: 2.2,
        OpKind.AVERAGE_POOL: 1.3,
        OpKind.NEAREST: 1.8,
        OpKind.CONCAT: 2.0,
        OpKind.PAD: 2.4,
        OpKind.MOVE: 1.9,
        OpKind.SHUFFLE: 9.7,
        OpKind.QUANTIZE: 1.0,
        OpKind.DEQUANTIZE: 1.3,
    },
    "neon": {
        OpKind.CONV: 2.1,
        OpKind.GEMM: 2.0,
        OpKind.DEPTHWISE: 2.4,
        OpKind.MATMUL: 1.4,
        OpKind.BINARY: 2.1,
        OpKind.TABLE: 1.6,
        OpKind.MAX_POOL: 2.2,
        OpKind.AVERAGE_POOL: 1.5,
        OpKind.NEAREST: 2.4,
        OpKind.CONCAT: 3.8,
        OpKind.PAD: 3.3,
        OpKind.MOVE: 1.9,
        OpKind.SHUFFLE: 5.1,
        OpKind.QUANTIZE: 1.1,
        OpKind.DEQUANTIZE: 1.1,
    },
}
"""By the form of the product"""


def is_long(bits: int) -> bool:
    """Whether codes of so many bits are held in int16; more bits are those of float."""
    return SHORT_BITS < bits <= MOST_BITS


def times(kind: OpKind, form: str) -> float:
    """Cycles at 9 to 16 bits over those at 8, on cores with this form of the product."""
    return _TIMES.get(form, {}).get(kind, _OTHERS)


def kind_at(kind: OpKind, bits: int) -> OpKind:
    """The kind of kernel that does the work at these activation bits: convolutions add residuals of short codes alone."""
    return OpKind.BINARY if kind is OpKind.RESIDUAL and is_long(bits) else kind


def lacks_long(node: OpNode, input_bits: tuple[int, ...]) -> bool:
    """Whether `node` has kernels of short codes alone and these inputs are longer: tables a channel, and means of very many values."""
    if not any(map(is_long, input_bits)):
        return False
    averages = kind_of(node) is OpKind.AVERAGE_POOL and prod(node.kernel or node.input_shape[2:]) > LONG_WINDOW
    return node.mode == CHANNELS or averages
