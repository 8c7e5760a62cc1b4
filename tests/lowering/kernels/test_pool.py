"""Pooling kernels against numerics."""

from __future__ import annotations

import numpy as np
import pytest
from checking import ISAS, Expected, check, codes, expected, quantized
from harness import core
from hypothesis import given, settings
from hypothesis import strategies as st

from mpqc.lowering.kernels.pool import pool
from mpqc.numerics import integer
from mpqc.values.program import Pool

SPECS = [
    ((1, 16, 9, 9), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((2, 17, 7, 8), (2, 3), (1, 2), (0, 1, 1, 1), (2, 1)),
    ((1, 1024, 7, 7), (7, 7), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((2, 33, 8, 8), (8, 8), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((1, 31, 20, 20), (20, 20), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((1, 33, 8, 8), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((1, 48, 15, 15), (3, 3), (2, 2), (0, 0, 1, 1), (1, 1)),
    ((1, 5, 6, 6), (5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
    ((1, 3, 31, 1), (3, 1), (1, 1), (1, 0, 1, 0), (1, 1)),
    ((1, 64, 33, 31), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
]


def case(rng: np.random.Generator, isa: str, spec: tuple, kind: str, *, per_position: bool = False) -> Expected:
    shape, kernel, strides, pads, dilations = spec
    zero_x, zero_y = (int(i) for i in rng.integers(-128, 128, 2))
    x, low, high = codes(rng, shape), -100 if rng.random() < 0.5 else -128, 99
    sizes = [(shape[2 + i] + pads[i] + pads[2 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in (0, 1)]
    m = np.asarray(rng.uniform(0.2, 1.5, sizes if per_position else ()) / np.prod(kernel), np.float32)
    window = {"strides": strides, "pads": pads, "dilations": dilations}
    if kind == "max":
        y = integer.max_pool(x, kernel, low=low, high=high, **window)
    else:
        y = integer.average_pool(x, kernel, (zero_x, zero_y), m, low, high, **window)
    op = Pool("n", (), (), kind, kernel, strides, pads, dilations, m, low, high)
    tx, ty = quantized(shape, zero_x), quantized(y.shape, zero_x if kind == "max" else zero_y)
    return expected(pool(op, tx, ty, core(isa)), [(x, tx)], (y, ty))


@pytest.mark.parametrize("isa", ISAS)
def test_pool(isa: str) -> None:
    rng, cases = np.random.default_rng(5), []
    for spec in SPECS:
        cases += [case(rng, isa, spec, "max"), case(rng, isa, spec, "average"), case(rng, isa, spec, "average", per_position=True)]
    check(cases, isa)


def test_pool_of_rank_3() -> None:
    rng = np.random.default_rng(6)
    x, op = codes(rng, (2, 5, 17)), Pool("n", (), (), "average", (1, 3), (1, 2), (0, 1, 0, 1), (1, 1), np.float32(0.4), -128, 127)
    y = integer.average_pool(x[:, :, None], op.kernel, (3, -4), op.multiplier, -128, 127, strides=op.strides, pads=op.pads)[:, :, 0]
    tx, ty = quantized(x.shape, 3), quantized(y.shape, -4)
    check([expected(pool(op, tx, ty, core("generic")), [(x, tx)], (y, ty))], "generic")


AXIS = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2), st.integers(1, 2), st.integers(0, 6))


@settings(max_examples=4, deadline=None, derandomize=True)
@given(AXIS, AXIS, st.integers(1, 20), st.integers(0, 2**31))
def test_any_window(rows: tuple[int, ...], columns: tuple[int, ...], channels: int, seed: int) -> None:
    (kh, sh, top, bottom, dh, extra_h), (kw, sw, left, right, dw, extra_w) = rows, columns
    pads = (min(top, kh - 1), min(left, kw - 1), min(bottom, kh - 1), min(right, kw - 1))
    shape = (1, channels, (kh - 1) * dh + 1 + extra_h, (kw - 1) * dw + 1 + extra_w)
    rng = np.random.default_rng(seed)
    check([case(rng, "generic", (shape, (kh, kw), (sh, sw), pads, (dh, dw)), kind) for kind in ("max", "average")], "generic")
