"""One multiply-add instead of a requantization: equal for every accumulator, or not offered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpqc.lowering.kernels.affine import MAGIC_BITS, Affine, _first_in_range, affine
from mpqc.numerics import integer


def fused(form: Affine, acc: np.ndarray, bias: int) -> np.ndarray:
    """What the processor makes of accumulators (bias included) of the only channel: the low halves of the sums' bits."""
    start = (acc - bias + form.start.astype(np.int64)).astype(np.int32).view(np.float32)
    exact = start.astype(np.longdouble) * np.longdouble(form.scale[0]) + np.longdouble(form.offset[0])
    return exact.astype(np.float32).view(np.int32).astype(np.int16).astype(np.int64)


@pytest.mark.parametrize("magnitude", [-4.2, -3.0, -2.5, -2.0, -1.0])
@pytest.mark.parametrize(("zero_point", "low"), [(-128, -128), (127, -128), (3, -128), (-7, -7), (0, -100)])
def test_every_accumulator_gives_the_code_of_numerics(magnitude: float, zero_point: int, low: int) -> None:
    rng = np.random.default_rng(1)
    proven = 0
    for _ in range(6):
        m = np.array([10**magnitude * rng.uniform(0.5, 2)], np.float32)
        bias = int(rng.integers(-9000, 9000))
        acc = np.arange(bias - 40000, bias + 40000)
        form = affine(acc[:1], acc[-1:], np.array([bias]), m, (zero_point, low, 127))
        assert form is not None
        if form.proven[0]:
            want = integer.requantize(acc, m, zero_point, low, 127)
            np.testing.assert_array_equal(np.clip(fused(form, acc, bias), low, 127), want)
            proven += 1
        else:
            assert (form.start[0], form.scale[0]) == (MAGIC_BITS + bias, m[0])
    assert proven >= 4


def test_most_channels_are_proven() -> None:
    rng = np.random.default_rng(2)
    weight, bias = rng.integers(-128, 128, (512, 9)), rng.integers(-3000, 3000, 512)
    reach = 128 * np.abs(weight).sum(axis=1)
    m = (1 / np.sqrt((weight.astype(float) ** 2).sum(axis=1))).astype(np.float32)
    form = affine(bias - reach, bias + reach, bias, m, (-128, -128, 127))
    assert form is not None
    assert form.proven.mean() > 0.95


@pytest.mark.parametrize("m", [0.0, -0.01, 1e-30, np.nan])
def test_odd_multipliers_are_not_offered(m: float) -> None:
    form = affine(np.array([-50]), np.array([50]), np.array([1]), np.array([m], np.float32), (0, -128, 127))
    assert form is None or not form.proven[0]


def test_accumulators_beyond_the_reach_of_floats_give_nothing() -> None:
    least, most = np.array([-(2**22)]), np.array([0])
    assert affine(least, most, np.array([0]), np.array([0.001], np.float32), (0, -128, 127)) is None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(2, 300), st.integers(0, 299), st.integers(0, 299), st.integers(0, 299))
def test_first_in_range(n: int, a: int, low: int, room: int) -> None:
    a, low, room = a % n, low % n, room % n
    want = next((x for x in range(n) if (a * x - low) % n <= room), None)
    assert _first_in_range(a, n, low, room) == want
