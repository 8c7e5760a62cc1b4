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
        assert FORM.weights_fit(filters.reshape(1, depth, 3, 3))
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
    assert FORM.weights_fit(filters) == fits
    patch = np.full((filters.shape[1], 6, 6), -128)
    assert (computed(patch, filters[0]) == direct(patch, filters[0])).all() == fits


def test_narrower_inputs_leave_room_for_larger_weights() -> None:
    filters = limiting(2**19)
    assert not FORM.weights_fit(filters)
    assert FORM.sums_fit(*FORM.sums(filters, (-64, 63)))
    assert FORM.sums(filters, (-3, 5)) == (-3 * 2**19, 5 * 2**19)
    assert not FORM.sums_fit(*FORM.sums(filters, (0, 64)))


def test_weights_that_may_still_be_rounded_are_judged_at_both_ends() -> None:
    low, high = np.array([[-3, 2]]), np.array([[-1, 4]])
    assert FORM.sums(low, (-10, 20), high) == (-3 * 20 - 10 * 4, 3 * 10 + 4 * 20)


def test_a_filter_beyond_the_bound_is_found_among_others() -> None:
    filters = np.concatenate([limiting(100)[:, :1].repeat(limiting(2**18 + 1).shape[1], axis=1) * 0, limiting(2**18 + 1)])
    assert not FORM.weights_fit(filters)
    assert FORM.weights_fit(filters[:1])


@pytest.mark.parametrize(("weight_bits", "input_bits", "depth"), [(8, 8, 227), (7, 8, 455), (6, 8, 910), (8, 6, 910), (5, 8, 1820), (4, 4, 58254)])
def test_bits_are_sure_up_to_a_depth(weight_bits: int, input_bits: int, depth: int) -> None:
    """9 * depth * 2^(w - 1) * 2^(a - 1) < 2^25."""
    assert FORMS["tile4"].is_sure(weight_bits, input_bits, depth)
    assert not FORMS["tile4"].is_sure(weight_bits, input_bits, depth + 1)


def test_floats_have_no_form() -> None:
    assert FORM.takes(8, 8, 1)
    assert not FORM.takes(8, 32, 1)
    assert not FORM.takes(32, 8, 1)
    assert not FORM.is_sure(2, 32, 1)
