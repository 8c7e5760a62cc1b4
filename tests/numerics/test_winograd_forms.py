"""When Winograd's algorithm is exact: the conditions against the transforms themselves, on every extreme."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpqc.numerics.winograd import SHORT as FORMS
from mpqc.numerics.winograd import WEIGHTS, FormName
from mpqc.values.qtype import QType

INPUTS = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.int64)
forms = pytest.mark.parametrize("name", FORMS)


def extremes(name: FormName, low: int, high: int) -> tuple[int, int]:
    """Least and largest transformed input, over all patches of the two ends."""
    rows = 4 if name == "tile" else 1
    found = []
    for signs in itertools.product((low, high), repeat=4):
        found.append(INPUTS @ np.array(signs))
    ends = np.array(found)
    least, most = ends.min(axis=0), ends.max(axis=0)
    if rows == 1:
        return int(least.min()), int(most.max())
    corners = [INPUTS @ np.array(pick) for a, b in zip(least, most, strict=True) for pick in itertools.product((a, b), repeat=4)]
    return int(np.min(corners)), int(np.max(corners))


@forms
@pytest.mark.parametrize(
    "codes", [(-32, 31), (-33, 31), (-32, 32), (-33, 0), (-65, -10), (0, 31), (0, 32), (-64, 63), (-65, 63), (-64, 64), (-1, 0), (-10, 53), (-10, 54)]
)
def test_inputs_fit_where_every_transformed_patch_does(name: FormName, codes: tuple[int, int]) -> None:
    least, most = extremes(name, *codes)
    assert FORMS[name].inputs_fit(codes) == (least >= -128 and most <= 127)


@pytest.mark.parametrize(("name", "bits"), [("tile", 4), ("row", 6)])
def test_bits_that_are_sure_hold_for_every_filter_of_extremes(name: FormName, bits: int) -> None:
    form, q = FORMS[name], QType(bits)
    filters = np.array(list(itertools.product((q.qmin, q.qmax), repeat=9))).reshape(-1, 1, 3, 3)
    assert form.weights_fit(filters)
    assert form.is_sure(bits, 8 - form.shift, 64)
    wider = np.full((1, 1, 3, 3), QType(bits + 1).qmin)
    assert not form.weights_fit(wider)
    assert not form.is_sure(bits + 1, 8 - form.shift, 64)
    assert not form.is_sure(bits, 9 - form.shift, 64)


@pytest.mark.parametrize(("name", "largest"), [("tile", 14), ("row", 42)])
def test_filters_of_equal_codes_fit_up_to_the_largest(name: FormName, largest: int) -> None:
    for code, fits in ((largest, True), (-largest, True), (largest + 1, False), (-largest - 1, False)):
        assert FORMS[name].weights_fit(np.full((2, 3, 3, 3), code)) == fits


def test_sums_must_leave_room_for_the_factor() -> None:
    """2 * 9 * depth * 2^(w - 1) * 2^(a - 1) * 4 up to 2^30."""
    assert FORMS["tile"].is_sure(4, 6, 2**30 // (2 * 9 * 8 * 32 * 4))
    assert not FORMS["tile"].is_sure(4, 6, 2**30 // (2 * 9 * 8 * 32 * 4) + 1)


def test_two_outputs_of_transformed_codes_are_twice_the_direct_sums() -> None:
    outputs = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
    for taps, codes in (((3, -5, 7), (2, 9, -4, 6)), ((0, 0, 1), (0, 0, 0, 1)), ((1, 0, 0), (1, 0, 0, 0)), ((-8, 7, -8), (31, -32, 31, -32))):
        direct = np.convolve(codes, taps[::-1], "valid")
        assert (outputs @ ((WEIGHTS @ taps) * (INPUTS @ codes))).tolist() == (2 * direct).tolist()


def test_the_range_of_transformed_weights() -> None:
    weight = np.arange(-9, 9).reshape(1, 2, 3, 3)
    rows = [2 * weight[..., 0], weight.sum(axis=-1), weight[..., 0] - weight[..., 1] + weight[..., 2], 2 * weight[..., 2]]
    assert FORMS["row"].transformed(weight) == (np.min(rows), np.max(rows)) == (-24, 21)
    assert FORMS["tile"].transformed(weight) == (-48, 42)  # twice the sums of the first and the last row
    assert FORMS["row"].transformed(np.zeros((0, 2, 3, 3))) == (0, 0)


@forms
def test_transformed_weights_may_be_as_large_as_int8(name: FormName) -> None:
    form = FORMS[name]
    for value, fits in ((32, True), (33, False)) if name == "tile" else ((64, True), (65, False)):
        corner = np.zeros((1, 1, 3, 3), np.int64)
        corner[..., 0, 0] = -value
        assert form.weights_fit(corner) == fits
    even = np.zeros((1, 1, 3, 3), np.int64)
    even[..., 0, 0], even[..., 0, 2], even[..., 0, 1] = 42, 42, 43  # their sum is 127
    assert FORMS["row"].weights_fit(even)
    even[..., 0, 1] = 44
    assert not FORMS["row"].weights_fit(even)


def test_codes_of_a_few_bits_are_sure_by_their_least_code() -> None:
    """Three times the least code of 6 bits is -96 and of 7 bits -192; nine times that of 4 bits -72 and of 5 bits -144."""
    assert [FORMS["row"].is_sure(bits, 4, 1) for bits in (5, 6, 7)] == [True, True, False]
    assert [FORMS["tile"].is_sure(bits, 4, 1) for bits in (3, 4, 5)] == [True, True, False]
    assert FORMS["tile"].takes(8, 6, 1)
    assert not FORMS["tile"].takes(8, 7, 1)
