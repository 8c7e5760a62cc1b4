"""The peak of an accumulator is reached by the worst input, and by none surpassed."""

from __future__ import annotations

import numpy as np
from qdq_nets import Net

from mpqc.numerics import integer
from mpqc.numerics.overflow import LIMIT, accumulator_peaks
from mpqc.qdq.read.program import read_qdq
from mpqc.values.program import Conv


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
