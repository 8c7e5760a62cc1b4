"""The integer program: what a QDQ ONNX file means, op by op, with every constant worked out.

`read_qdq` (qdq/read/) decides it, `interpret` defines its results with numerics/integer.py, and lowering/
turns it into kernels. Shapes and axes are those of the ONNX file (NCHW); memory layout is the lowering's own business.
Quantized tensors hold signed codes: up to 8 bits in int8, 9 to 16 in int16. uint8 and uint16 tensors of other tools' files are shifted
(zero point - 128 or - 32768) when read, so that every op below sees signed codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mpqc.values.qtype import QParams, QType

LONG, SHORT = "int16", "int8"
"""numpy names of the types that codes of more than 8 bits, and of up to 8, are held in"""


def code_dtype(bits: int) -> str:
    """numpy name of the type that codes of `bits` are held in."""
    return LONG if bits > 8 else SHORT


@dataclass(frozen=True)
class Tensor:
    """A value of the program. `qparams` None: a plain tensor of `dtype` (float32, int64, bool...)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """numpy name; `code_dtype` of its width for a quantized tensor"""
    qparams: QParams | None = None

    @property
    def zero_point(self) -> int:
        """Zero point of a per-tensor quantized tensor."""
        assert self.qparams is not None, self.name
        return int(self.qparams.zero_point)

    @property
    def is_long(self) -> bool:
        """Whether it holds codes of more than 8 bits."""
        return self.qparams is not None and self.dtype == LONG


@dataclass(frozen=True)
class Op:
    """One step. `name` is that of the ONNX node that does the work; inputs and outputs are tensor names."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Quantize(Op):
    """float32, or bytes (uint8) as numbers -> codes of the output tensor's qparams (numerics.quantize), after shifting where the file had uint8."""


@dataclass(frozen=True, eq=False)
class Dequantize(Op):
    """Codes -> float32 (numerics.dequantize)."""


def is_odd(codes: np.ndarray, bits: int) -> bool:
    """Whether weight codes with a container of `bits` lie beyond it: the odd numbers -3 to 3 in 2 bits."""
    plain = QType(bits)
    return bool(codes.min(initial=0) < plain.qmin or codes.max(initial=0) > plain.qmax)


@dataclass(frozen=True, eq=False)
class Conv(Op):
    """2-D (or 1-D, with height 1) convolution, int32 accumulation, requantized:

    acc[n,o,y,x] = bias[o] + sum q_x * w, padding reads the input's zero point; bias already holds -z_x * sum(w[o]).
    out = requantize(acc, multiplier[o], z_y, low, high).
    """

    weight: np.ndarray
    """int8 codes [O, I/groups, kh, kw]"""
    weight_bits: int
    """2, 4 or 8: the container that stores the codes (2 also for -3, -1, 1, 3: `odd`)"""
    bias: np.ndarray
    """int32 [O], with the input's zero point folded in; int64 where codes of more than 8 bits make it larger. Sums are exact in either."""
    multiplier: np.ndarray
    """float32 [O]"""
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    """top, left, bottom, right"""
    dilations: tuple[int, int]
    groups: int
    low: int
    """Smallest output code: the qtype's, raised by a fused Relu/Clip"""
    high: int

    @property
    def odd(self) -> bool:
        """Whether the weight's codes are stored as q, of 2q + 1 (the half-integer grid)."""
        return is_odd(self.weight, self.weight_bits)


@dataclass(frozen=True, eq=False)
class Gemm(Op):
    """Fully connected: x [..., K] times weight [N, K], bias and requantization as in Conv; output [..., N]."""

    weight: np.ndarray
    """int8 codes [N, K] (transposed from ONNX where needed)"""
    weight_bits: int
    bias: np.ndarray
    multiplier: np.ndarray
    low: int
    high: int

    @property
    def odd(self) -> bool:
        """As in Conv."""
        return is_odd(self.weight, self.weight_bits)


@dataclass(frozen=True, eq=False)
class MatMul(Op):
    """Product of two activations a [..., M, K] and b [..., K, N], batches broadcast as in numpy:

    requantize(sum (q_a - z_a) * (q_b - z_b), multiplier, z_y, low, high) with multiplier = s_a * s_b / s_y.
    """

    multiplier: float
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Binary(Op):
    """Add, Sub or Mul of two quantized tensors (numpy broadcasting), or of one and a quantized constant.

    add/sub: clamp(rne(float32(q_a - z_a) * m_a +- float32(q_b - z_b) * m_b) + z_y), m = s / s_y, one float32 rounding an operation.
    mul: requantize((q_a - z_a) * (q_b - z_b), m_a, z_y), m_a = s_a * s_b / s_y and m_b unused.
    """

    kind: str
    """add | sub | mul"""
    m_a: float
    m_b: float
    low: int
    high: int
    constant: np.ndarray | None = None
    """int8 or int16 codes of the second operand where it is a constant; then `inputs` has one name"""
    constant_zero_point: int = 0


@dataclass(frozen=True, eq=False)
class Table(Op):
    """Any elementwise function, or a change of qparams: out = table[q_x + n / 2], of n entries. `table` is [n] of the output's type, or [m, n] with
    one for each index along `axis`; n is 256, or 2^bits of an input of more than 8 bits.
    """

    table: np.ndarray
    function: str
    """What it computes, for the report: Sigmoid, HardSwish, Requantize, ..."""
    axis: int | None = None


@dataclass(frozen=True, eq=False)
class Rescale(Op):
    """What a Table is too large for, or too slow: a straight line, and so a change of qparams, where codes of more than 8 bits are read or written.

    clamp(rne(float32(q_x - z_x) * multiplier + offset) + z_y, low, high), one float32 rounding an operation.
    """

    multiplier: float
    offset: float
    """In output steps"""
    low: int
    high: int
    function: str
    """What it computes, for the report: Requantize, Relu, Mul, ..."""


@dataclass(frozen=True, eq=False)
class Pool(Op):
    """Max pooling of codes (padding never wins) or average pooling over the spatial axes.

    average: requantize(sum(q_x - z_x), multiplier, z_y) with multiplier = s_x / (s_y * count); per-position counts where
    padding is not counted: multiplier has shape [oh, ow] then, [] otherwise. Global pooling is a kernel of the whole input.
    """

    kind: str
    """max | average"""
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    multiplier: np.ndarray
    """float32, [] or [oh, ow]; unused (1.0) for max"""
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Concat(Op):
    """Concatenation of codes along `axis`: of tables[i][q + 128] for an input that has other qparams than the output."""

    axis: int
    tables: tuple[np.ndarray | None, ...] = ()
    """int8 [256] for each input, None for one that has the output's qparams; empty where all have"""

    def table(self, index: int) -> np.ndarray | None:
        """What brings input `index` to the output's qparams, None where it has them."""
        return self.tables[index] if self.tables else None


@dataclass(frozen=True, eq=False)
class Pad(Op):
    """Constant padding with the code `value`. `pads`: ONNX order, all begins then all ends."""

    pads: tuple[int, ...]
    value: int


@dataclass(frozen=True, eq=False)
class Resize(Op):
    """Resize of NCHW codes by explicit source positions worked out by the reader.

    nearest: out[..., i, j] = in[..., rows[i], columns[j]].
    linear: rows/columns are the lower neighbours, `row_weights`/`column_weights` float32 the weights of the upper ones; the float32 blend
    ((a*(1-wx) + b*wx)*(1-wy) + (c*(1-wx) + d*wx)*wy) of codes, one rounding an operation, is requantized once:
    clamp(rne((blend - z_x) * multiplier) + z_y, low, high) with multiplier = s_x / s_y.
    """

    mode: str
    """nearest | linear"""
    rows: np.ndarray
    columns: np.ndarray
    row_weights: np.ndarray | None = None
    column_weights: np.ndarray | None = None
    multiplier: float = 1.0
    low: int = -128
    high: int = 127


@dataclass(frozen=True, eq=False)
class Move(Op):
    """Pure data movement, of codes or of plain tensors: Reshape, Flatten, Squeeze, Unsqueeze, Transpose, Slice, Split, Gather, Expand, Tile,
    DepthToSpace, ... `kind` is the ONNX op type; output shapes are in the tensors.

    `index` is the general meaning: out.flat = in.flat[index] for the op's only input and output, int64, None where the
    op is a reshape (index would be the identity). `perm` is set for Transpose.
    """

    kind: str
    index: np.ndarray | None = None
    perm: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Float(Op):
    """A stretch of float ONNX nodes that stays float: a self-contained ONNX model with its reason."""

    model: bytes
    """serialized ModelProto whose graph inputs/outputs are `inputs`/`outputs`, initializers included"""
    op_types: tuple[str, ...]
    reason: str
    nodes: tuple[str, ...] = ()
    """Names of the ONNX nodes inside, in the order of `op_types`"""


@dataclass(frozen=True, eq=False)
class Program:
    """Ops in execution order, their tensors, and the network's inputs and outputs."""

    ops: tuple[Op, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = "main"

    @cached_property
    def uses(self) -> Mapping[str, tuple[Op, ...]]:
        """Tensor name -> ops that read it."""
        uses: dict[str, list[Op]] = {name: [] for name in self.tensors}
        for op in self.ops:
            for name in op.inputs:
                uses[name].append(op)
        return {name: tuple(ops) for name, ops in uses.items()}
