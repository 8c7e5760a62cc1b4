"""The proof that no accumulator of a program leaves int32, as numbers that a report can show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mpqc.numerics.winograd import FORMS
from mpqc.values.program import Conv, Gemm, Program, Tensor

LIMIT = 2**31
"""int32 holds -LIMIT to LIMIT - 1"""


def accumulator_peaks(program: Program, forms: Mapping[str, str] | None = None) -> dict[str, int]:
    """Name of each Conv and Gemm -> the largest |accumulator| that any input and any order of summation can reach.

    max over output channels of |bias[o]| + max|q_x| * sum|w[o]|, with the range of the input's qtype (at most 128 for int8 codes). A
    program from `read_qdq` has only values below LIMIT, or exactly -LIMIT: layers that could reach more stay float. Sums of inputs of more than 8
    bits that could are held in two parts, of which the larger, the sum of high bytes, is given. forms: of
    convolutions that are computed by Winograd's algorithm, whose last sums are 2 or 4 times as large, and only those have to fit.
    """
    shifts = {name: FORMS[form].shift for name, form in (forms or {}).items()}
    peaks = {op.name: _peak(op, program.tensors) for op in program.ops if isinstance(op, Conv | Gemm)}
    return {name: peak << shifts.get(name, 0) for name, peak in peaks.items()}


def _peak(op: Conv | Gemm, tensors: Mapping[str, Tensor]) -> int:
    q = tensors[op.inputs[0]].qparams
    assert q is not None, op.name
    reach = np.abs(op.weight.astype(np.int64)).reshape(op.weight.shape[0], -1).sum(axis=1) * -q.qtype.qmin
    peak = int((np.abs(op.bias.astype(np.int64)) + reach).max(initial=0))
    return -(-peak >> 8) if tensors[op.inputs[0]].is_long and peak >= LIMIT else peak
