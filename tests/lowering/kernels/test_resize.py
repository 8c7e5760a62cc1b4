"""Resize kernels against numerics."""

from __future__ import annotations

import numpy as np
import pytest
from checking import ISAS, check, codes, expected, quantized
from harness import core

from mpqc.lowering.kernels.resize import resize
from mpqc.numerics import integer
from mpqc.values.program import Resize, Tensor


def _case(name: str, source: tuple[np.ndarray, Tensor], result: np.ndarray, zero: int, op: Resize, isa: str) -> object:
    y = quantized(result.shape, zero)
    return expected(resize(op, source[1], y, core(isa)), [source], (result, y), name)


@pytest.mark.parametrize("isa", ISAS)
def test_resize(isa: str) -> None:
    rng, cases = np.random.default_rng(10), []
    for channels in (1, 3, 16, 21, 33):
        x, t = codes(rng, (2, channels, 6, 7)), quantized((2, channels, 6, 7), 5)
        rows, columns = np.sort(rng.integers(0, 6, 11)), np.sort(rng.integers(0, 7, 33))
        weights = [np.concatenate([[0, 1, 0.5], rng.uniform(0, 1, n - 3)]).astype(np.float32) for n in (11, 33)]
        nearest, same = integer.resize_nearest(x, rows, columns), (1.0, -128, 127)
        cases.append(_case("nearest", (x, t), nearest, 5, Resize("n", (), (), "nearest", rows, columns), isa))
        for zero, end in ((5, same), (-3, same), (7, (2.7, -20, 101)), (-128, (0.3, -128, 127))):
            result = integer.resize_linear(x, rows, columns, *weights, (5, zero), *end)
            cases.append(_case(f"linear {end}", (x, t), result, zero, Resize("n", (), (), "linear", rows, columns, *weights, *end), isa))
    check(cases, isa)
