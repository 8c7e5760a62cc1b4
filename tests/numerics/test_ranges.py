"""Ranges against brute force, and the corners: dead channels, points, huge and tiny values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpqc.errors import UsageError
from mpqc.numerics.integer import dequantize, quantize
from mpqc.numerics.ranges import BINS, TINY, Histogram, affine_qparams, largest_scales, mse_range, percentile_range, range_losses, weight_qparams
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


FOUND = [
    # the seeded values of `sample`, bits -> the range of least error
    ("one side", 2, (0.0, 3.3782768628473288)),
    ("one side", 3, (0.0, 4.54815383744526)),
    ("one side", 4, (0.0, 5.688337640727996)),
    ("one side", 8, (0.0, 6.994209222793579)),
    ("two sides", 2, (-0.2585821346096914, 3.8004777802361382)),
    ("two sides", 3, (-1.105695139490763, 4.775469462076823)),
    ("two sides", 4, (-1.1939664681267759, 6.229997869067722)),
    ("two sides", 8, (-1.9770418068337472, 8.954005241394043)),
    ("below zero", 3, (-4.54815383744526, 0.0)),
    ("small", 4, (-0.23879330057673967, 1.2459995738135443)),
    ("long to the right", 6, (-0.8148374012433298, 8.845824690541585)),
    ("long to the left", 3, (-12.741033426920573, 0.6199378968227056)),
]


def sample(kind: str) -> np.ndarray:
    if kind in ("two sides", "small"):
        return (np.random.default_rng(3).gumbel(0.3, 1, 4000) * (0.2 if kind == "small" else 1)).astype(np.float32)
    if kind.startswith("long"):
        rng = np.random.default_rng(11)
        parts = [np.concatenate([rng.normal(0, 0.3, 3000), sign * rng.exponential(2, 300)]) for sign in (1, -1)]
        return parts["left" in kind].astype(np.float32)
    return relu_values(3000) * (1 if kind == "one side" else -1)


@pytest.mark.parametrize(("kind", "bits", "expected"), FOUND)
def test_the_search_for_a_range_takes_its_steps(kind: str, bits: int, expected: tuple[float, float]) -> None:
    assert mse_range(histogram(sample(kind), 512), bits) == pytest.approx(expected, rel=1e-9)


SCALES = {
    2: (0.25374338030815125, 0.16271844506263733, 0.545787513256073),
    3: (0.164083331823349, 0.10703927278518677, 0.28175485134124756),
    6: (0.020215589553117752, 0.01313888467848301, 0.03228587284684181),
    7: (0.010206499136984348, 0.006464845035225153, 0.015858294442296028),
    8: (0.00503748981282115, 0.003227339359000325, 0.007888320833444595),
}
"""Bits -> scales of least error of two rows of Laplace's distribution and an even one"""


@pytest.mark.parametrize("bits", SCALES)
def test_the_search_for_scales_takes_its_steps(bits: int) -> None:
    weight = np.random.default_rng(5).laplace(0, 0.1, (3, 40)).astype(np.float32)
    weight[2] = np.linspace(-1, 1, 40)
    assert weight_qparams(weight, 0, bits, search=True).scale == pytest.approx(SCALES[bits], rel=1e-5)


@pytest.mark.parametrize(("bits", "total"), [(3, 47.02749487757683), (6, 5.532188322395086), (7, 2.7385302260518074), (8, 1.3614028673619032)])
def test_each_row_is_searched_by_itself(bits: int, total: float) -> None:
    weight = np.random.default_rng(7).laplace(0, 1, (60, 12)).astype(np.float32)
    assert weight_qparams(weight, 0, bits, search=True).scale.sum(dtype=np.float64) == pytest.approx(total, rel=1e-6)


def test_of_scales_that_lose_as_little_the_largest_is_kept() -> None:
    assert weight_qparams(np.full((1, 2), -1.0, np.float32), 0, 2, search=True).scale.tolist() == [1.0]


def test_dead_rows_divide_by_nothing() -> None:
    weight = np.zeros((2, 3), np.float32)
    weight[1] = 1.0
    with np.errstate(all="raise"):
        assert weight_qparams(weight, 0, 4, search=True).scale[1] == pytest.approx(1 / 7)


def test_scales_have_a_least_value() -> None:
    assert TINY == 2.0**-60
    assert affine_qparams(0.0, 1e-30, 8).scale == np.float32(2.0**-60)
    assert weight_qparams(np.full((1, 2), 1e-30, np.float32), 0, 8, search=False).scale[0] == np.float32(2.0**-60)


def test_ends_on_the_wrong_side_of_zero_become_zero() -> None:
    above, below = affine_qparams(2.0, 6.0, 8), affine_qparams(-6.0, -2.0, 8)
    assert (float(above.scale), int(above.zero_point)) == (pytest.approx(6 / 255), -128)
    assert (float(below.scale), int(below.zero_point)) == (pytest.approx(6 / 255), 127)
    few = Histogram(1.0, 2.0, np.ones(4)), Histogram(-2.0, -1.0, np.ones(4))
    assert [mse_range(one, 16) for one in few] == [(0.0, 2.0), (-2.0, 0.0)]
    assert [percentile_range(one, 100.0) for one in few] == [(0.0, 2.0), (-2.0, 0.0)]
    assert [percentile_range(Histogram(one.low, one.high, np.zeros(0)), 99.0) for one in few] == [(0.0, 2.0), (-2.0, 0.0)]
    assert few[0].centers.tolist() == [1.125, 1.375, 1.625, 1.875]


def test_a_range_between_two_codes_gets_a_rounded_zero_point() -> None:
    q = affine_qparams(-1.0, 2.0, 4)
    assert (float(q.scale), int(q.zero_point)) == (pytest.approx(0.2), -3)
    assert affine_qparams(-3.0, 1.0, 2).zero_point == 0


@pytest.mark.parametrize(("bits", "whole"), [(10, False), (11, True)])
def test_a_histogram_is_searched_up_to_ten_bits(bits: int, whole: bool) -> None:
    spiked = np.zeros(2048)
    spiked[0], spiked[-1] = 1e9, 1e-9
    assert (mse_range(Histogram(0.0, 1.0, spiked), bits) == (0.0, 1.0)) == whole
    assert BINS == 2048


def test_percentiles_count_the_zeros_and_whole_bins() -> None:
    seen = Histogram(-1.0, 1.0, np.asarray([10.0, 20.0, 20.0, 50.0]), zeros=100.0)
    assert percentile_range(seen, 90.0) == (-0.5, 1.0)  # 20 of 200 values go on each side
    assert percentile_range(seen, 96.0) == (-1.0, 1.0)
    assert percentile_range(seen, 70.0) == (0.0, 0.5)
    assert percentile_range(Histogram(-1.0, 1.0, np.zeros(4), zeros=9.0), 70.0) == (-1.0, 1.0)


def test_dead_rows_have_the_median_scale_or_one() -> None:
    weight = np.zeros((4, 2), np.float32)
    weight[0], weight[1], weight[2] = 1.0, 2.0, 6.0
    assert weight_qparams(weight, 0, 3, search=False).scale.tolist() == pytest.approx([1 / 3, 2 / 3, 2.0, 2 / 3])
    assert largest_scales(weight, QType(3)).tolist() == pytest.approx([1 / 3, 2 / 3, 2.0, 0.0])
    assert largest_scales(weight, QType(1)).tolist() == [1.0, 2.0, 6.0, 0.0]  # of one bit the largest code is 0


def test_floors_below_the_least_scale_do_nothing() -> None:
    weight = np.full((2, 2), 1e-30, np.float32)
    scales = weight_qparams(weight, 0, 8, search=False, floor=np.asarray([1e-25, 1e-4], np.float32)).scale
    assert scales.tolist() == [np.float32(2.0**-60), np.float32(1e-4)]
    assert weight_qparams(weight, None, 8, search=False).scale.shape == ()


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_bell_shaped_weights_lose_less_on_the_half_integer_grid(bits: int) -> None:
    weight = np.random.default_rng(4).normal(size=(8, 200)).astype(np.float32)
    plain, free = (weight_qparams(weight, 0, bits, search=True, half=half) for half in (False, True))
    assert free.qtype == QType(bits, 0, half=True)
    assert loss(weight, free) < (0.95 if bits < 3 else 1) * loss(weight, plain)


def test_sparse_weights_keep_their_zero() -> None:
    weight = np.where(np.random.default_rng(5).random((8, 200)) < 0.8, 0, 1).astype(np.float32)
    assert not weight_qparams(weight, 0, 2, search=True, half=True).qtype.half


def test_more_than_three_bits_have_no_half_integer_grid() -> None:
    weight = np.random.default_rng(6).normal(size=(8, 200)).astype(np.float32)
    assert not weight_qparams(weight, 0, 4, search=True, half=True).qtype.half
    with pytest.raises(UsageError, match="half-integer"):
        QType(4, half=True)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_half_integer_scales_against_brute_force(bits: int) -> None:
    weight = np.random.default_rng(7).laplace(size=(1, 60)).astype(np.float32)
    found = weight_qparams(weight, 0, bits, search=True, half=True)
    grids = [QType(bits, 0), QType(bits, 0, half=True)]
    tried = [QParams(grid, np.asarray([scale], np.float32), np.zeros(1, np.int32)) for grid in grids for scale in np.linspace(0.01, 5, 2000)]
    assert loss(weight, found) <= 1.02 * min(loss(weight, q) for q in tried)
