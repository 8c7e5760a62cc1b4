"""Resize kernels against numerics."""

from __future__ import annotations

import numpy as np
import pytest
from checking import ISAS, check, codes, expected, quantized
from harness import core

from mpqc.lowering.kernels.resize import resize
from mpqc.numerics import integer
from mpqc.values.program import Resize


@pytest.mark.parametrize("isa", ISAS)
def test_resize(isa: str) -> None:
    rng, cases = np.random.default_rng(10), []
    for channels in (1, 3, 16, 21, 33):
        x, t = codes(rng, (2, channels, 6, 7)), quantized((2, channels, 6, 7), 5)
        rows, columns = np.sort(rng.integers(0, 6, 11)), np.sort(rng.integers(0, 7, 33))
        weights = [np.concatenate([[0, 1, 0.5], rng.uniform(0, 1, n - 3)]).astype(np.float32) for n in (11, 33)]
        results = {"nearest": integer.resize_nearest(x, rows, columns), "linear": integer.resize_linear(x, rows, columns, *weights)}
        for mode, result in results.items():
            y = quantized(result.shape, 5)
            kernel = resize(Resize("n", (), (), mode, rows, columns, *weights), t, y, core(isa))
            cases.append(expected(kernel, [(x, t)], (result, y), mode))
    check(cases, isa)
