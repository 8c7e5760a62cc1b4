"""The peak of an accumulator is reached by the worst input, and by none surpassed."""

from __future__ import annotations

import numpy as np
from qdq_nets import Net

from mpqc.numerics import integer
from mpqc.numerics.overflow import LIMIT, accumulator_peaks
from mpqc.qdq.read.program import read_qdq
from mpqc.values.program import Conv, Gemm, Program, Tensor
from mpqc.values.qtype import QParams, QType


def test_the_worst_input_reaches_the_peak() -> None:
    net = Net()
    program = read_qdq(net.model(net.qdq(net.conv(net.qdq(net.input(1, 3, 3, 3), 0.02), 0.02, 1, 3), 0.05)))
    (conv,) = (op for op in program.ops if isinstance(op, Conv))
    peak = accumulator_peaks(program)[conv.name]
    sign = 1 if conv.bias[0] >= 0 else -1
    worst = (sign * np.where(conv.weight > 0, 127, -128)).clip(-128, 127).astype(np.int8)
    reached = int(np.abs(integer.conv2d(worst, conv.weight, conv.bias)).max())
    # codes of the other sign reach 127 only, so the bound of 128 is missed by at most sum|w|
    assert peak - int(np.abs(conv.weight.astype(int)).sum()) <= reached <= peak < LIMIT


def test_peaks_of_winograd_forms_hold_the_factor() -> None:
    net = Net()
    program = read_qdq(net.model(net.qdq(net.conv(net.qdq(net.input(1, 3, 3, 3), 0.02), 0.02, 1, 3), 0.05)))
    ((name, plain),) = accumulator_peaks(program).items()
    assert accumulator_peaks(program, {name: "tile"}) == {name: 4 * plain}
    assert accumulator_peaks(program, {name: "row"}) == {name: 2 * plain}


def test_the_peak_is_the_largest_bias_plus_what_the_least_code_makes_of_the_weights() -> None:
    q = QParams(QType(4), np.asarray(np.float32(1)), np.asarray(0, np.int32))
    program = made(np.asarray([[3, -5], [1, 1]], np.int8), np.asarray([-100, 160], np.int32), q)
    assert accumulator_peaks(program) == {"fc": max(100 + 8 * 8, 160 + 2 * 8)}
    assert accumulator_peaks(made(np.asarray([[3, -5], [1, 1]], np.int8), np.asarray([-100, 10], np.int32), q)) == {"fc": 164}
    assert accumulator_peaks(made(np.zeros((1, 2), np.int8), np.zeros(1, np.int32), q)) == {"fc": 0}
    assert LIMIT == 2_147_483_648
    assert np.iinfo(np.int32).min == -LIMIT


def made(weight: np.ndarray, bias: np.ndarray, q: QParams) -> Program:
    """A fully connected layer."""
    scales = np.ones(len(weight), np.float32)
    layer = Gemm("fc", ("x",), ("y",), weight, 8, bias, scales, -128, 127)
    tensors = {name: Tensor(name, shape, "int8", q) for name, shape in (("x", (1, 2)), ("y", (1, len(weight))))}
    return Program((layer,), tensors, ("x",), ("y",))
