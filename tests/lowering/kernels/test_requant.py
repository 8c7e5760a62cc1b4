"""Which form of requantization is chosen, and the bounds that it rests on."""

from __future__ import annotations

import numpy as np
import pytest

from mpqc.lowering.kernels.requant import Requant, accumulator_range, channels, choose, scalars
from mpqc.values.program import Gemm


def gemm(weight: np.ndarray, *, bias: int = 0, multiplier: float = 0.001, low: int = -128, bits: int = 8) -> Gemm:
    channels = weight.shape[0]
    return Gemm(
        "g", ("x",), ("y",), weight=weight, weight_bits=bits, bias=np.full(channels, bias, np.int32),
        multiplier=np.full(channels, multiplier, np.float32), low=low, high=127,
    )  # fmt: skip


def test_range_is_reached_by_the_worst_inputs() -> None:
    weight = np.random.default_rng(0).integers(-128, 128, (5, 40)).astype(np.int8)
    least, most = accumulator_range(weight, np.full(5, 7))
    worst = np.where(weight > 0, 127, -128).astype(np.int64)
    assert most.tolist() == ((worst * weight).sum(axis=1) + 7).tolist()
    assert least.tolist() == ((np.where(weight > 0, -128, 127) * weight.astype(np.int64)).sum(axis=1) + 7).tolist()


@pytest.mark.parametrize(
    ("changes", "depth", "form"),
    [
        ({}, 64, "float"),
        ({"bias": 2**22}, 64, "float"),
        ({"bias": 2**23}, 64, "round"),
        ({}, 400, "round"),
        ({"multiplier": 1.0}, 64, "exact"),
        ({"bias": -(2**31), "multiplier": 1e-6}, 64, "round"),
    ],
)
def test_the_cheapest_exact_form(changes: dict[str, float], depth: int, form: str) -> None:
    weight = np.full((8, depth), 127, np.int8)
    plain, shifted = choose(weight, gemm(weight, **changes), 4, neon=True)
    assert plain == Requant(form, odd=False, clamp=False)
    assert shifted is None


def test_sums_far_from_zero_are_centred() -> None:
    """127 * 255 * 200 is less than 2^23: the sums fit floats with steps of one when their middle does."""
    weight = np.full((8, 200), 127, np.int8)
    op = gemm(weight, bias=1_500_000)
    assert choose(weight, op, 4, neon=True)[0] == Requant("float")
    found = channels(weight, op.bias, op.multiplier, Requant("float"))
    least, most = accumulator_range(weight, op.bias)
    assert np.all(found.start.view(np.float32) - found.base == op.bias)
    for limit in (least, most):
        inside = (limit - op.bias + found.start).astype(np.int32).view(np.float32)
        assert np.all((inside >= 2.0**23) & (inside < 2.0**24) & (inside - found.base == limit))


def test_outputs_that_end_at_their_zero_point_take_one_fused_operation() -> None:
    weight = np.full((8, 500), 100, np.int8)
    op = gemm(weight, bias=1_000_000, low=3)
    assert choose(weight, op, 3, neon=True)[0] == Requant("positive", odd=True, clamp=True)
    assert choose(weight, op, 4, neon=True)[0] == Requant("round", clamp=True)
    assert choose(weight, gemm(weight, bias=3_000_000, low=3), 3, neon=True)[0].form == "round"
    assert choose(weight, gemm(weight, multiplier=-0.001, low=3), 3, neon=True)[0].form == "round"
    found = channels(weight, op.bias, op.multiplier, Requant("positive"))
    sums = np.arange(-600_000, 7_000_000, 999)
    real = (sums + 0x4B000000).astype(np.int32).view(np.float32).astype(np.float64)
    product = (real * float(found.scale[0]) + float(found.base[0])).astype(np.float32)
    np.testing.assert_array_equal(product[sums >= 0], sums[sums >= 0].astype(np.float32) * found.scale[0])
    assert np.all(product[sums < 0] <= 0)


def test_parity_bounds_and_isa_are_part_of_the_choice() -> None:
    weight = np.ones((8, 16), np.int8)
    assert choose(weight, gemm(weight, low=-10), -3, neon=True)[0] == Requant("float", odd=True, clamp=True)
    assert choose(weight, gemm(weight, low=0), -3, neon=False)[0] == Requant("portable")


def test_shifted_sums_only_where_they_cannot_overflow() -> None:
    weight = np.full((8, 64), -8, np.int8)
    assert choose(weight, gemm(weight, bits=4), 0, neon=True)[1] == Requant("float", shift=4)
    assert choose(weight, gemm(weight, bits=4, bias=2**19), 0, neon=True) == (Requant("float"), Requant("round", shift=4))
    assert choose(weight, gemm(weight, bits=4, bias=2**27), 0, neon=True)[1] is None
    found = channels(weight[:2], np.array([3, -5], np.int32), np.array([0.3, 7e-5], np.float32), Requant("round", shift=4))
    assert found.start.tolist() == [48, -80]
    assert found.scale.tolist() == (np.array([0.3, 7e-5], np.float32) / 16).tolist()
    scales = channels(weight[:3], np.zeros(3, np.int32), np.array([1e-38, -1e-30, 1e-27], np.float32), Requant("round", shift=4)).scale
    assert scales.tolist() == [0.0, 0.0, float(np.float32(1e-27) / 16)], "what rounds to 0 whatever the sum, and is no float32 once shifted"
    start = channels(weight[:1, :8], np.array([3], np.int32), np.ones(1, np.float32), Requant("float", shift=4)).start
    assert start.view(np.float32)[0] == np.float32(12582912.0 + 48)


def test_constants() -> None:
    weight = np.ones((1, 4), np.int8)
    assert channels(weight, np.array([-1], np.int32), np.ones(1, np.float32), Requant("float")).start.view(np.float32)[0] == np.float32(12582911.0)
    values = scalars(-3, -50, 100, 7)
    assert values[[0, 1, 2, 3, 5]].tolist() == [7, -3, -50, 100, 1]
    assert values[[4, 6, 7]].view(np.float32).tolist() == [12582912.0 - 4, -47.0, 103.0]
