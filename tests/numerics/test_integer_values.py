"""Further definitions of numerics/integer.py against loops and values worked out by hand, with windows, pads and zero points that differ by axis."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpqc.numerics import integer
from mpqc.values.qtype import QParams, QType

WINDOW = {"strides": (2, 1), "pads": (1, 0, 2, 3), "dilations": (1, 2)}
"""Every pair differs: rows and columns, or two of the pads, are not to be mixed up"""


def codes(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


def places(x: np.ndarray, kernel: tuple[int, int], value: int) -> np.ndarray:
    """int64 [N, C, oh, ow, kh, kw] that a loop reads with WINDOW from `x` [N, C, H, W]; `value` outside."""
    (sh, sw), (top, left, bottom, right), (dh, dw) = WINDOW["strides"], WINDOW["pads"], WINDOW["dilations"]
    n, c, h, w = x.shape
    oh = (h + top + bottom - (kernel[0] - 1) * dh - 1) // sh + 1
    ow = (w + left + right - (kernel[1] - 1) * dw - 1) // sw + 1
    out = np.full((n, c, oh, ow, *kernel), value, np.int64)
    for i, j, p, q in itertools.product(range(oh), range(ow), *map(range, kernel)):
        row, column = i * sh + p * dh - top, j * sw + q * dw - left
        if 0 <= row < h and 0 <= column < w:
            out[:, :, i, j, p, q] = x[:, :, row, column]
    return out


@pytest.mark.parametrize(("axis", "shape"), [(0, (3, 1, 1)), (1, (1, 3, 1)), (-1, (1, 1, 3)), (None, ())])
def test_values_along_an_axis(axis: int | None, shape: tuple[int, ...]) -> None:
    values = np.arange(3 if axis is not None else 1)
    assert integer.along(values, axis, 3).shape == shape
    assert integer.along(np.array(7), 1, 3).shape == ()


def test_huge_values_saturate_whatever_the_zero_point() -> None:
    q = QParams(QType(8), np.array(1e-9, np.float32), np.array(-128, np.int32))
    assert integer.quantize(np.array([1.0, -1.0, np.inf, 255e-9], np.float32), q).tolist() == [127, -128, 127, 127]
    assert integer.requantize(np.array([2**30, -(2**30), 200], np.int32), np.float32([1e9, 1e9, 1.0]), -100, -128, 127).tolist() == [127, -128, 100]
    big = np.full(2, 127, np.int8)
    assert integer.add(big, big, (0, 0), 1e12, 1e12, -128, -128, 127).tolist() == [127, 127]
    assert integer.add(big, big, (0, 0), 0.5, 0.5, -100, -128, 127).tolist() == [27, 27]
    assert integer.add(-big, big, (0, 0), 1e12, 1e12, 127, -128, 127, subtract=True).tolist() == [-128, -128]


def test_multipliers_round_once_an_operation() -> None:
    scales = np.float32([0.1, 0.7]), np.float32([0.3, 0.01]), np.float32(0.9)
    expected = [np.float32(np.float32(a * b) / scales[2]) for a, b in zip(*scales[:2], strict=True)]
    assert integer.multiplier(*scales).tolist() == expected
    assert integer.ratio(0.1, 0.3) == np.float32(0.1) / np.float32(0.3)
    assert integer.average_multiplier(0.1, 0.3, 7) == np.float32(0.1) / (np.float32(0.3) * np.float32(7))
    assert integer.average_multiplier(0.5, 0.25, np.array([[1, 2]])).tolist() == [[2.0, 1.0]]


def test_multiply_subtracts_both_zero_points() -> None:
    a, b = codes(0, 40), codes(1, 40)
    products = (a.astype(np.int64) - 3) * (b.astype(np.int64) + 7)
    expected = np.clip(np.rint((products.astype(np.float32) * np.float32(0.01)).astype(np.float64)) - 5, -100, 90)
    assert (integer.multiply(a, b, (3, -7), 0.01, -5, -100, 90) == expected).all()


@pytest.mark.parametrize("axis", [1, -2])
def test_lookups_read_the_table_of_their_index(axis: int) -> None:
    x, tables = codes(2, 2, 3, 5), codes(3, 3, 256)
    expected = np.stack([integer.lookup(x[:, at], tables[at]) for at in range(3)], axis=1)
    assert (integer.lookup_along(x, tables, axis) == expected).all()
    assert integer.lookup(np.array([-128, -1, 127], np.int8), np.arange(-128, 128).astype(np.int8)).tolist() == [-128, -1, 127]


def test_a_table_holds_every_code_in_order() -> None:
    q = QParams(QType(8), np.array(0.5, np.float32), np.array(0, np.int32))
    assert integer.table(lambda x: x, q, q).tolist() == list(range(-128, 128))


def test_pads_are_top_left_bottom_right() -> None:
    x = np.array([[[1, 2]]])
    assert integer.pad_spatial(x, (1, 2, 0, 1), 9).tolist() == [[[9, 9, 9, 9, 9], [9, 9, 1, 2, 9]]]
    assert integer.pad_spatial(x[0], (0, 0, 1, 0), 9).tolist() == [[1, 2], [9, 9]]
    assert integer.pad_spatial(x, (0, 0, 0, 0), 9) is x


def test_windows_step_by_strides_and_dilations() -> None:
    x = integer.pad_spatial(codes(4, 2, 3, 7, 6), WINDOW["pads"], 5)
    view = integer.windows(x, (3, 2), WINDOW["strides"], WINDOW["dilations"])
    assert (view == places(codes(4, 2, 3, 7, 6), (3, 2), 5)).all()
    assert (integer.windows(x[0, 0], (3, 2), WINDOW["strides"], WINDOW["dilations"]) == view[0, 0]).all()


@pytest.mark.parametrize(("rows", "real"), [([[131071]], np.float32), ([[131072]], np.float64), ([[9, -9]], np.float32)])
def test_float32_is_left_where_a_sum_may_pass_its_integers(rows: list[list[int]], real: type[np.floating]) -> None:
    assert integer.exact_float(np.array(rows)) is real
    assert integer.exact_float(np.array([*rows, [0] * len(rows[0])])) is real


def test_weights_without_output_channels_sum_to_nothing() -> None:
    weight = np.zeros((0, 3, 1, 1), np.int8)
    assert integer.exact_float(weight) is np.float32
    assert integer.conv2d(codes(3, 2, 3, 4, 4), weight, np.zeros(0, np.int32)).shape == (2, 0, 4, 4)
    assert integer.gemm(codes(3, 2, 5), np.zeros((0, 5), np.int8), np.zeros(0, np.int32)).shape == (2, 0)


def test_float32_holds_many_small_rows() -> None:
    assert integer.exact_float(np.full((64, 2, 32, 32), 60)) is np.float32  # 122,880 a row
    assert integer.exact_float(np.full((2, 2, 33, 32), 64)) is np.float64  # 135,168 a row


@pytest.mark.parametrize(("groups", "inside", "out"), [(1, 3, 4), (2, 4, 6), (4, 4, 4), (4, 4, 8), (1, 1, 3)])
def test_convolutions_whose_axes_differ(groups: int, inside: int, out: int) -> None:
    x, w, bias = codes(5, 2, inside, 7, 6), codes(6, out, inside // groups, 3, 2), np.arange(out, dtype=np.int32) * 1000
    read, shares = places(x, (3, 2), -7), np.split(np.arange(out), groups)
    parts = np.split(read, groups, axis=1)
    sums = [np.einsum("nchwpq,ocpq->nohw", part, w[rows].astype(np.int64)) for part, rows in zip(parts, shares, strict=True)]
    found = integer.conv2d(x, w, bias, groups=groups, pad_value=-7, **WINDOW)
    assert (found == np.concatenate(sums, axis=1) + bias[:, None, None]).all()
    assert found.dtype == np.int32


def test_a_convolution_without_options_has_stride_1_and_no_pads() -> None:
    x, w = np.arange(12, dtype=np.int8).reshape(1, 1, 3, 4), np.array([[[[1, 0], [0, 1]]]], np.int8)
    assert integer.conv2d(x, w, np.array([0])).tolist() == [[[[5, 7, 9], [13, 15, 17]]]]


def test_matrix_products() -> None:
    a, b, bias = codes(7, 2, 5, 6), codes(8, 2, 6, 3), np.array([1, -2, 3])
    exact = (a.astype(np.int64) - 4) @ (b.astype(np.int64) + 9)
    assert (integer.matmul(a, b, (4, -9)) == exact).all()
    assert (integer.gemm(a, b[0].T, bias) == a.astype(np.int64) @ b[0].astype(np.int64) + bias).all()


def test_pools_whose_axes_differ() -> None:
    x = codes(9, 2, 3, 7, 6)
    largest = places(x, (3, 2), -128).max(axis=(-2, -1))
    assert (integer.max_pool(x, (3, 2), **WINDOW) == largest).all()
    assert (integer.max_pool(x, (3, 2), low=-20, high=50, **WINDOW) == np.clip(largest, -20, 50)).all()
    assert integer.max_pool(np.full((1, 1, 1, 1), -128, np.int8), (1, 1)).tolist() == [[[[-128]]]]
    assert integer.max_pool(np.full((1, 1, 1, 1), 127, np.int8), (1, 1)).tolist() == [[[[127]]]]
    sums = (places(x, (3, 2), 11) - 11).sum(axis=(-2, -1))
    expected = np.clip(np.rint(sums * 0.125) - 3, -90, 80)
    assert (integer.average_pool(x, (3, 2), (11, -3), np.float32(0.125), -90, 80, **WINDOW) == expected).all()


def test_a_linear_resize_by_hand() -> None:
    x = np.array([[[[0, 40], [80, 120], [-100, 7]]]], np.int8)
    rows, columns = np.array([0, 1, 2]), np.array([0, 1])
    down, right = np.float32([0.25, 0.5, 0.75]), np.float32([0.5, 0.25])
    blended = np.array([[40, 60], [26.75, 63.5], [-46.5, 7]])
    assert (integer.resize_linear(x, rows, columns, down, right) == np.rint(blended)).all()
    assert (integer.resize_linear(x[0, 0], rows, columns, down, right) == np.rint(blended)).all()
    expected = np.clip(np.rint((blended - 4) * 2.0) + 6, -60, 125)
    assert (integer.resize_linear(x, rows, columns, down, right, (4, 6), 2.0, -60, 125) == expected).all()
    assert (integer.resize_linear(x, rows, columns, down, right, (4, -100), 1e12) == np.where(blended > 4, 127, -128)).all()


def test_a_nearest_resize_reads_rows_then_columns() -> None:
    x = np.arange(6).reshape(1, 2, 3)
    assert integer.resize_nearest(x, np.array([1, 0, 0]), np.array([2, 0])).tolist() == [[[5, 3], [2, 0], [2, 0]]]
