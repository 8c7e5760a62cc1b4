"""Which convolutions are computed by Winograd's algorithm: those whose actual codes make it exact, where the cost model says that it is cheaper.

The cost model promises such a form from bits alone, or from weights that it was told of (cost/forms.py); here codes are known, so what was
promised is found again, and sometimes more.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpqc.cost.forms import KINDS, cheapest
from mpqc.cost.model import CostModel
from mpqc.cost.run import Context
from mpqc.facts.features import best_form
from mpqc.facts.kernels import is_transformable
from mpqc.lowering.kernels.winograd import refusal
from mpqc.numerics.winograd import FormName
from mpqc.targets import OpKind, Shape, Target
from mpqc.values.program import Binary, Concat, Conv, Gemm, MatMul, Move, Op, Pad, Pool, Program, Quantize, Rescale, Resize, Table, Tensor
from mpqc.values.qtype import QType

Codes = tuple[int, int]
ANY: Codes = (-128, 127)


def choose_forms(program: Program, target: Target) -> dict[str, FormName]:
    """Form of each convolution that is not computed directly, by the name of the op."""
    if not target.rows:
        return {}
    model, ranges = CostModel(target, Context(_weight_bytes(program))), code_ranges(program)
    chosen = {op.name: _form(op, program, model, ranges[op.inputs[0]]) for op in program.ops if isinstance(op, Conv)}
    return {name: form for name, form in chosen.items() if form is not None}


def _weight_bytes(program: Program) -> float:
    return float(sum(op.weight.size for op in program.ops if isinstance(op, Conv | Gemm)))


def _form(op: Conv, program: Program, model: CostModel, codes: Codes) -> FormName | None:
    if any(program.tensors[name].is_long for name in (*op.inputs, *op.outputs)):
        return None
    zero = program.tensors[op.inputs[0]].zero_point
    codes = min(codes[0], zero), max(codes[1], zero)
    exact = [kind for kind, form in KINDS.items() if _has_forms(op) and not refusal(op, codes, form)]
    if not exact:
        return None
    shape = _shape(op, program)
    prices = {OpKind.CONV: model.kernel_cycles(OpKind.CONV, shape, *_direct_bits(op, codes, model.target))}
    prices |= {kind: model.kernel_cycles(kind, shape, op.weight_bits) for kind in exact}
    known = {kind: cycles for kind, cycles in prices.items() if cycles is not None}
    return KINDS.get(cheapest(known)) if OpKind.CONV in known else None


def _direct_bits(op: Conv, codes: Codes, target: Target) -> tuple[int, int | None]:
    """Widths of weights and inputs that the direct kernel is priced by: those of the codes where products are as fast as these are narrow."""
    if best_form("product", target.features) != "neon":
        return op.weight_bits, None
    weights = op.weight_bits if op.odd else _bits((int(op.weight.min()), int(op.weight.max())))
    return weights, _bits(codes)


def _bits(codes: Codes) -> int:
    """The narrowest width, of 2 at least, that holds `codes` of int8."""
    return next(bits for bits in range(2, 9) if QType(bits).qmin <= codes[0] and codes[1] <= QType(bits).qmax)


def _has_forms(op: Conv) -> bool:
    return is_transformable(op.weight.shape, op.groups, op.strides, op.dilations, op.pads)


def _shape(op: Conv, program: Program) -> Shape:
    images, inputs, height, width = program.tensors[op.inputs[0]].shape
    _, outputs, rows, columns = program.tensors[op.outputs[0]].shape
    (kernel_h, kernel_w), (stride_h, stride_w) = op.weight.shape[2:], op.strides
    return Shape(images * height, width, inputs, images * rows, columns, outputs, kernel_h, kernel_w, stride_h, stride_w, op.groups)


def code_ranges(program: Program) -> Mapping[str, Codes]:
    """Least and largest code of every quantized tensor: what its op can write, not what its qtype says."""
    ranges: dict[str, Codes] = {name: _any(tensor) for name, tensor in program.tensors.items()}
    for op in program.ops:
        found = _written(op, program, [ranges[name] for name in op.inputs])
        ranges |= {name: found or ranges[name] for name in op.outputs}
    return ranges


def _any(tensor: Tensor) -> Codes:
    """All codes of its type."""
    return (-(2**15), 2**15 - 1) if tensor.is_long else ANY


def _written(op: Op, program: Program, inputs: list[Codes]) -> Codes | None:
    """None: any."""
    if isinstance(op, (Conv, Gemm, MatMul, Binary, Rescale)):
        return op.low, op.high
    if (isinstance(op, Pool) and op.kind == "average") or (isinstance(op, Resize) and op.mode == "linear"):
        return op.low, op.high
    if isinstance(op, Table):
        return int(op.table.min()), int(op.table.max())
    if isinstance(op, Quantize):
        q = program.tensors[op.outputs[0]].qparams
        return None if q is None else (q.qtype.qmin, q.qtype.qmax)
    return _moved(op, inputs) if inputs else None


def _moved(op: Op, inputs: list[Codes]) -> Codes | None:
    """Of an op that moves codes, and at most looks each up in a table; None for others."""
    if isinstance(op, Pad):
        inputs = [*inputs, (op.value, op.value)]
    elif isinstance(op, Concat):
        inputs = [_looked_up(op.table(index), codes) for index, codes in enumerate(inputs)]
    elif not isinstance(op, (Move, Pool, Resize)):
        return None
    return min(low for low, _ in inputs), max(high for _, high in inputs)


def _looked_up(table: np.ndarray | None, codes: Codes) -> Codes:
    if table is None:
        return codes
    reached = table[codes[0] + 128 : codes[1] + 129]
    return int(reached.min()), int(reached.max())
