"""F(4x4,3x3) in int16: the identities and the bound that make it exact, on every extreme."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpqc.numerics.winograd import FORMS
from mpqc.numerics.winograd16 import INVERSE, LIMIT, SHIFTS, LongForm

INPUTS = np.array(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]], np.int64
)
WEIGHTS = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 1]], np.int64)
OUTPUTS = np.array([[6, -4, -4, 1, 1, 0], [0, -2, 2, 1, -1, 0], [0, -1, -1, 1, 1, 0], [0, -1, 1, 2, -2, 6]], np.int64)
FACTORS = np.array([3 << shift for shift in SHIFTS])
FORM = LongForm()
INT8 = (-128, 127)


def wrapped(values: np.ndarray) -> np.ndarray:
    """Modulo 2^32, as int32 holds it."""
    return (values + 2**31) % 2**32 - 2**31


def computed(patch: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """[4, 4]: the sums of products of [K, 6, 6] and [K, 3, 3] as the kernels compute them, every step in int32."""
    products = wrapped(((INPUTS @ patch @ INPUTS.T) * (WEIGHTS @ filters @ WEIGHTS.T)).sum(axis=0))
    sums = wrapped(OUTPUTS @ wrapped(products @ OUTPUTS.T))
    return wrapped(sums * INVERSE) >> np.add.outer(SHIFTS, SHIFTS)


def direct(patch: np.ndarray, filters: np.ndarray) -> np.ndarray:
    return np.array([[(filters * patch[:, i : i + 3, j : j + 3]).sum() for j in range(4)] for i in range(4)])


def test_outputs_along_an_axis_are_multiples_of_the_direct_sums() -> None:
    for taps, codes in itertools.product(np.eye(3, dtype=np.int64), np.eye(6, dtype=np.int64)):
        wanted = np.convolve(codes, taps[::-1], "valid")
        assert (OUTPUTS @ ((WEIGHTS @ taps) * (INPUTS @ codes))).tolist() == (FACTORS * wanted).tolist()


def test_the_inverse_undoes_the_odd_factor() -> None:
    assert INVERSE * 9 % 2**32 == 1
    assert LIMIT == 2**25


def test_transformed_codes_fit_int16() -> None:
    for matrix in (INPUTS, WEIGHTS):
        assert np.abs(matrix).sum(axis=1).max() ** 2 * 128 < 2**15


@pytest.mark.parametrize("spread", [1, 30, 127])
def test_random_codes_are_exact(spread: int) -> None:
    rng = np.random.default_rng(spread)
    for depth in (1, 7, 64, 512):
        filters = np.clip(np.rint(rng.normal(0, spread / 3, (depth, 3, 3))), -128, 127).astype(np.int64)
        patch = rng.integers(-128, 128, (depth, 6, 6))
        assert FORM.share(filters.reshape(1, depth, 3, 3), INT8) >= depth
        np.testing.assert_array_equal(computed(patch, filters), direct(patch, filters))


def limiting(total: int) -> np.ndarray:
    """Filters [1, K, 3, 3] whose codes add up to `total`."""
    taps = np.zeros(-(-(abs(total) // 127 + 1) // 9) * 9, np.int64)
    taps[: abs(total) // 127] = 127
    taps[abs(total) // 127] = abs(total) % 127
    return np.sign(total) * taps.reshape(1, -1, 3, 3)


@pytest.mark.parametrize(("total", "fits"), [(2**18, True), (2**18 + 1, False), (1 - 2**18, True), (-(2**18), False)])
def test_the_bound_is_tight(total: int, fits: bool) -> None:
    """Inputs of -128: sums down to -2^25 and below 2^25 come out right, one weight more does not."""
    filters = limiting(total)
    assert FORM.sums_fit(*FORM.sums(filters, INT8)) == fits
    patch = np.full((filters.shape[1], 6, 6), -128)
    assert (computed(patch, filters[0]) == direct(patch, filters[0])).all() == fits


def test_narrower_inputs_leave_room_for_larger_weights() -> None:
    filters = limiting(2**19)
    assert not FORM.sums_fit(*FORM.sums(filters, INT8))
    assert FORM.sums_fit(*FORM.sums(filters, (-64, 63)))
    assert FORM.sums(filters, (-3, 5)) == (-3 * 2**19, 5 * 2**19)
    assert not FORM.sums_fit(*FORM.sums(filters, (0, 64)))
    assert FORM.sums(np.array([[-3, 2], [1, 1]]), (-10, 20)) == (-80, 70)


@pytest.mark.parametrize(("codes", "size"), [((-128, 127), 152), ((-64, 63), 304), ((-128, 63), 152), ((0, 127), 152)])
def test_shares_are_as_few_as_are_exact(codes: tuple[int, int], size: int) -> None:
    """300 channels of -128 are 38 vectors: 300 * 9 * 128 * 128 is 1.3 times 2^25. A filter of small codes beside it changes nothing."""
    weight = np.full((2, 300, 3, 3), -128)
    weight[0] = 1
    assert FORM.share(weight, codes) == size
    assert FORM.share(weight[:1], codes) == 304


def test_a_share_is_a_vector_at_least() -> None:
    assert FORM.share(np.zeros((1, 5, 3, 3), np.int8), INT8) == 8
    assert FORM.sums_fit(*FORM.sums(np.full((1, 8, 3, 3), -128), INT8))
    assert FORM.share(np.full((1, 2000, 3, 3), 127), INT8) == 224


def test_all_of_int8_has_the_form_and_floats_have_not() -> None:
    for name in ("takes", "is_sure"):
        assert getattr(FORMS["tile4"], name)(8, 8, 2048)
        assert getattr(FORMS["tile4"], name)(2, 2, 1)
        assert not getattr(FORMS["tile4"], name)(8, 32, 1)
        assert not getattr(FORMS["tile4"], name)(32, 8, 1)
