"""Ranges against brute force, and the corners: dead channels, points, huge and tiny values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpqc.numerics.integer import dequantize, quantize
from mpqc.numerics.ranges import Histogram, affine_qparams, mse_range, percentile_range, range_losses, weight_qparams
from mpqc.values.qtype import QParams, QType


def histogram(values: np.ndarray, bins: int = 2048) -> Histogram:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    live = values[values != 0]
    counts, _ = np.histogram(live, bins, (low, high))
    return Histogram(low, high, counts.astype(np.float64), float(values.size - live.size))


def loss(values: np.ndarray, q: QParams) -> float:
    return float(np.sum((dequantize(quantize(values, q), q).astype(np.float64) - values) ** 2))


def relu_values(count: int = 20000) -> np.ndarray:
    return np.maximum(np.random.default_rng(0).laplace(0, 1, count), 0).astype(np.float32)


@given(low=st.floats(-1e6, 0, width=32), high=st.floats(0, 1e6, width=32), bits=st.integers(1, 16))
def test_affine_grid_holds_zero_exactly_and_covers_the_range(low: float, high: float, bits: int) -> None:
    q = affine_qparams(low, high, bits)
    assert q.scale > 0
    assert q.qtype.qmin <= q.zero_point <= q.qtype.qmax
    assert dequantize(quantize(np.zeros(1, np.float32), q), q)[0] == 0.0
    ends = np.asarray([low, high], np.float32)
    assert np.all(np.abs(dequantize(quantize(ends, q), q) - ends) <= q.scale * 1.01)


def test_after_relu_the_zero_point_is_the_smallest_code() -> None:
    for bits in (2, 4, 8):
        q = affine_qparams(0.0, 6.0, bits)
        assert int(q.zero_point) == q.qtype.qmin
        assert float(q.scale) == pytest.approx(6.0 / (2**bits - 1))


def test_a_point_gets_a_positive_scale() -> None:
    q = affine_qparams(0.0, 0.0, 8)
    assert q.scale == 1.0
    assert q.zero_point == -128


def test_range_losses_equal_numerics_on_the_bin_centers() -> None:
    seen = histogram(np.random.default_rng(1).normal(0, 1, 5000).astype(np.float32), 256)
    values = np.repeat(seen.centers, seen.counts.astype(int)).astype(np.float32)
    low, high = np.asarray([-1.0, -3.0]), np.asarray([2.0, 1.0])
    computed = range_losses(seen, low, high, QType(4))
    for index in range(2):
        assert computed[index] == pytest.approx(loss(values, affine_qparams(low[index], high[index], 4)), rel=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mse_range_of_one_side_is_within_two_percent_of_brute_force(bits: int) -> None:
    values = relu_values()
    low, high = mse_range(histogram(values), bits)
    best = min(loss(values, affine_qparams(0.0, end, bits)) for end in np.linspace(0.02, 1, 400) * values.max())
    assert low == 0.0
    assert loss(values, affine_qparams(low, high, bits)) <= best * 1.02


@pytest.mark.parametrize("bits", [2, 4])
def test_mse_range_of_two_sides_is_within_five_percent_of_brute_force(bits: int) -> None:
    values = np.random.default_rng(3).gumbel(0.3, 1, 4000).astype(np.float32)
    grid = np.linspace(0.05, 1, 40)
    best = min(loss(values, affine_qparams(a * values.min(), b * values.max(), bits)) for a in grid for b in grid)
    assert loss(values, affine_qparams(*mse_range(histogram(values), bits), bits)) <= best * 1.05


def test_mse_range_of_many_bits_is_everything() -> None:
    values = relu_values()
    assert mse_range(histogram(values), 16) == (0.0, pytest.approx(float(values.max())))


def test_an_empty_histogram_keeps_its_range() -> None:
    assert mse_range(Histogram(0.0, 2.0, np.zeros(2048), 10.0), 4) == (0.0, 2.0)
    assert percentile_range(Histogram(-1.0, 2.0, np.zeros(0)), 99.0) == (-1.0, 2.0)


def test_percentile_leaves_out_the_tails() -> None:
    values = np.random.default_rng(4).normal(0, 1, 100_000).astype(np.float32)
    low, high = percentile_range(histogram(values), 99.0)
    assert low == pytest.approx(np.quantile(values, 0.01), abs=0.02)
    assert high == pytest.approx(np.quantile(values, 0.99), abs=0.02)
    assert percentile_range(histogram(relu_values()), 99.9)[0] == 0.0


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weight_search_is_no_worse_than_a_fine_grid(bits: int) -> None:
    weight = np.random.default_rng(5).laplace(0, 0.1, (6, 3, 3, 3)).astype(np.float32)
    q = weight_qparams(weight, 0, bits, search=True)
    for channel in range(6):
        row = weight[channel]
        scales = np.linspace(0.15, 1, 300) * np.abs(row).max() / max(q.qtype.qmax, 1)
        best = min(loss(row, QParams(QType(bits), np.asarray(s, np.float32), np.asarray(0))) for s in scales)
        found = loss(row, QParams(QType(bits), q.scale[channel], np.asarray(0)))
        assert found <= best * 1.05


def test_weight_scales_follow_the_axis() -> None:
    weight = np.asarray([[1.0, 2.0, 4.0], [-1.0, 1.0, -8.0]], np.float32)
    q = weight_qparams(weight, 1, 8, search=False)
    assert np.allclose(q.scale, np.asarray([1, 2, 8]) / 127)
    assert q.zero_point.tolist() == [0, 0, 0]
    assert weight_qparams(weight, None, 8, search=False).scale.shape == ()


def test_dead_channels_get_the_scale_of_their_neighbours() -> None:
    weight = np.zeros((4, 5), np.float32)
    weight[1], weight[2] = 0.5, 1.0
    for search in (False, True):
        q = weight_qparams(weight, 0, 4, search=search)
        assert np.all(q.scale > 0)
        assert np.all(dequantize(quantize(weight, q), q)[[0, 3]] == 0)
    assert np.all(weight_qparams(np.zeros((2, 2), np.float32), 0, 8, search=True).scale == 1.0)


def test_tiny_and_huge_weights_stay_finite() -> None:
    weight = np.asarray([[1e-38, -1e-38], [1e30, 1e29]], np.float32)
    q = weight_qparams(weight, 0, 8, search=True)
    assert np.all(np.isfinite(q.scale))
    assert np.all(q.scale >= 2.0**-60)


def test_floor_raises_only_small_scales() -> None:
    weight = np.asarray([[1e-9, 1e-9], [1.0, 1.0]], np.float32)
    q = weight_qparams(weight, 0, 8, search=False, floor=np.asarray([1e-4, 1e-4], np.float32))
    assert q.scale[0] == np.float32(1e-4)
    assert q.scale[1] == pytest.approx(1 / 127)
