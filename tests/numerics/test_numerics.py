"""The definitions in numerics/integer.py: hand-computed values, torch as a second opinion, and algebraic properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpqc.numerics import integer
from mpqc.values.qtype import QParams, QType


def qparams(bits: int = 8, scale: float = 0.5, zero: int = 0) -> QParams:
    return QParams(QType(bits), np.array(scale, np.float32), np.array(zero, np.int32))


@pytest.mark.parametrize(("x", "code"), [(0.25, 0), (0.75, 2), (1.25, 2), (-0.25, 0), (-0.75, -2), (1e30, 127), (-np.inf, -128)])
def test_quantize_rounds_half_to_even_and_saturates(x: float, code: int) -> None:
    assert integer.quantize(np.array([x], np.float32), qparams())[0] == code


def test_quantize_along_an_axis() -> None:
    q = QParams(QType(4, axis=1), np.array([1, 2], np.float32), np.zeros(2, np.int32))
    assert integer.quantize(np.array([[3, 3], [-100, 100]], np.float32), q).tolist() == [[3, 2], [-8, 7]]


@given(
    st.integers(2, 8),
    st.floats(2.0**-20, 2.0**20, width=32),
    st.integers(-8, 7),
    hnp.arrays(np.int32, 16, elements=st.integers(-128, 127)),
)
@settings(max_examples=60, deadline=None)
def test_quantizing_dequantized_codes_gives_them_back(bits: int, scale: float, zero: int, codes: np.ndarray) -> None:
    q = qparams(bits, scale, int(np.clip(zero, QType(bits).qmin, QType(bits).qmax)))
    inside = np.clip(codes, q.qtype.qmin, q.qtype.qmax)
    assert (integer.quantize(integer.dequantize(inside, q), q) == inside).all()


@pytest.mark.parametrize(("acc", "m", "code"), [(5, 0.5, 2), (7, 0.5, 4), (-5, 0.5, -2), (2**31 - 1, 1.0, 127), (-(2**31), 1.0, -128), (0, 3.0, 0)])
def test_requantize(acc: int, m: float, code: int) -> None:
    assert integer.requantize(np.array([acc], np.int64).astype(np.int32), np.array(m, np.float32), 0, -128, 127)[0] == code


def test_requantize_adds_the_zero_point_after_rounding() -> None:
    # rne(0.5) = 0 and then + 1: rounding 1.5 would have given 2
    assert integer.requantize(np.array([1], np.int32), np.array(0.5, np.float32), 1, -128, 127)[0] == 1


CONVS = [
    (1, 8, 16, 3, 1, 1, 1),
    (2, 8, 16, 3, 2, 1, 1),
    (8, 8, 8, 3, 1, 1, 2),
    (8, 8, 16, 5, 2, 2, 1),
    (1, 3, 7, 1, 1, 0, 1),
    (1, 1200, 4, 1, 1, 0, 1),
]


@pytest.mark.parametrize(("groups", "inside", "out", "kernel", "stride", "pad", "dilation"), CONVS)
def test_convolution_is_exact(groups: int, inside: int, out: int, kernel: int, stride: int, pad: int, dilation: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (2, inside, 13, 11)).astype(np.int8)
    w = rng.integers(-128, 128, (out, inside // groups, kernel, kernel)).astype(np.int8)
    bias = rng.integers(-(10**6), 10**6, out).astype(np.int32)
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=9)
    tensors = [torch.from_numpy(part.astype(np.int64)) for part in (padded, w, bias)]
    expected = torch.nn.functional.conv2d(*tensors, stride=stride, dilation=dilation, groups=groups).numpy()
    window = {"strides": (stride, stride), "pads": (pad,) * 4, "dilations": (dilation, dilation)}
    assert (integer.conv2d(x, w, bias, groups=groups, pad_value=9, **window) == expected).all()


def test_extreme_codes_do_not_lose_a_unit() -> None:
    """2^24 is where float32 stops counting: 1200 products of 128 * 128 pass it, and the sum must still be exact."""
    x, w = np.full((1, 1200), -128, np.int8), np.full((1, 1200), -128, np.int8)
    w[0, 0] = 1
    assert integer.exact_float(w) is np.float64
    assert integer.gemm(x, w, np.array([1], np.int32))[0, 0] == 1199 * 2**14 - 128 + 1


def test_add_follows_its_order_of_roundings() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(-128, 128, (2, 500))
    m_a, m_b = np.float32(0.73), np.float32(0.31)
    sums = np.array([np.float32(np.float32(np.float32(p - 3) * m_a) + np.float32(np.float32(q + 5) * m_b)) for p, q in zip(a, b, strict=True)])
    assert (integer.add(a, b, (3, -5), m_a, m_b, 4, -128, 127) == np.clip(np.rint(sums) + 4, -128, 127)).all()


def test_subtraction_is_addition_of_the_negated_factor() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(-128, 128, (2, 500))
    difference = integer.add(a, b, (3, -5), 0.73, 0.31, 4, -128, 127, subtract=True)
    assert (difference == integer.add(a, b, (3, -5), 0.73, -0.31, 4, -128, 127)).all()


def test_multiply() -> None:
    assert integer.multiply(np.array([10]), np.array([-4]), (2, -1), 0.25, 3, -128, 127)[0] == 3 - 6


def test_max_pooling_never_takes_the_padding() -> None:
    x = np.full((1, 1, 2, 2), -120, np.int8)
    assert (integer.max_pool(x, (3, 3), pads=(1, 1, 1, 1)) == -120).all()


def test_average_pooling_divides_by_what_the_multiplier_counts() -> None:
    x = np.full((1, 1, 2, 2), 12, np.int8)
    counts = np.full((2, 2), 4)
    m = integer.average_multiplier(0.5, 0.5, counts)
    assert (integer.average_pool(x, (3, 3), (2, 0), m, -128, 127, pads=(1, 1, 1, 1)) == 10).all()
    assert (integer.average_pool(x, (2, 2), (2, 1), integer.average_multiplier(0.5, 0.25, 4), -128, 127) == 21).all()


def test_linear_resize_at_whole_positions_copies() -> None:
    x = np.arange(12).reshape(1, 1, 3, 4)
    rows, columns = np.array([2, 0]), np.array([3, 1])
    zero = np.zeros(2, np.float32)
    assert (integer.resize_linear(x, rows, columns, zero, zero) == integer.resize_nearest(x, rows, columns)).all()
    half = np.full(2, 0.5, np.float32)
    assert integer.resize_linear(x, np.array([0, 1]), np.array([0, 2]), half, half).tolist() == [[[[2, 4], [6, 8]]]]


def test_table_clamps_codes_that_cannot_occur() -> None:
    table = integer.table(lambda x: -x, qparams(4, 1.0), qparams(8, 1.0))
    assert table[128 - 8 : 128 + 8].tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0, -1, -2, -3, -4, -5, -6, -7]
    assert table[0] == 8
    assert table[255] == -7
    assert integer.lookup(np.array([-8, 7], np.int8), table).tolist() == [8, -7]


@pytest.mark.parametrize("zero", [-7, 0, 7])
def test_table_has_the_lowest_code_where_the_function_has_no_value(zero: int) -> None:
    with np.errstate(invalid="ignore", divide="ignore"):
        table = integer.table(np.log, qparams(8, 0.1), qparams(8, 0.1, zero))
    assert (table[:129] == -128).all()
    assert table[138] == zero


def test_accumulator_bound() -> None:
    assert integer.accumulator_bound(9, QType(8), -128, QType(4)) == 9 * 255 * 8
