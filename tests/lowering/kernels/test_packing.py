"""Panels, narrow containers, and how many products fit int16."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpqc.lowering.kernels.packing import narrow, nest, pack, panel_starts, products_together, split_segments, take_panels


@given(channels=st.integers(1, 200), width=st.sampled_from([8, 16, 32]))
def test_panels_cover_every_channel_and_none_beyond(channels: int, width: int) -> None:
    starts = panel_starts(channels, width)
    covered = {start + i for start in starts for i in range(width) if start + i < channels}
    assert covered == set(range(channels))
    assert channels <= width or max(starts) + width == channels


def test_a_narrow_group_is_padded_with_zeros() -> None:
    assert take_panels(np.array([5, 6, 7], np.int32), 8).tolist() == [[5, 6, 7, 0, 0, 0, 0, 0]]


def test_segments_are_padded_to_quads() -> None:
    assert split_segments(np.arange(1, 7, dtype=np.int8)[None], 3).tolist() == [[[1, 2, 3, 0], [4, 5, 6, 0]]]


def test_quads_lie_side_by_side_for_sdot() -> None:
    quads = np.arange(64, dtype=np.int8).reshape(8, 2, 4)
    assert pack(quads, 8, 8, "quads")[0, :12].tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]
    assert pack(quads, 8, 8, "columns")[0, :9].tolist() == [0, 8, 16, 24, 32, 40, 48, 56, 1]


@pytest.mark.parametrize("bits", [4, 2])
def test_narrow_codes_come_back(bits: int) -> None:
    codes = np.random.default_rng(0).integers(-(1 << (bits - 1)), 1 << (bits - 1), (3, 100)).astype(np.int8)
    packed, fields = narrow(codes, bits), 8 // bits
    assert packed.shape == (3, -(-100 // (16 * fields)) * 16)
    words = packed.view(np.uint8).reshape(3, -1, 1, 16) >> (np.arange(fields, dtype=np.uint8) * bits)[:, None] & ((1 << bits) - 1)
    signed = (words.astype(np.int8) ^ (1 << (bits - 1))) - (1 << (bits - 1))
    np.testing.assert_array_equal(signed.reshape(3, -1)[:, :100], codes)


@given(st.lists(st.integers(-128, 127), min_size=4, max_size=4))
def test_products_together_never_overflow(weights: list[int]) -> None:
    count = products_together(np.array(weights, np.int8).reshape(1, 1, 4))
    for first in range(0, 4, count):
        run = weights[first : first + count]
        assert count == 1 or sum(127 * w if w > 0 else -128 * w for w in run) < 2**15
        assert count == 1 or sum(-128 * w if w > 0 else 127 * w for w in run) >= -(2**15)


@pytest.mark.parametrize(
    ("weights", "count"), [([-128, -128, 0, 0], 1), ([-128, -127, 0, 0], 4), ([127] * 4, 2), ([-8] * 4, 4), ([64] * 4, 4), ([-64] * 4, 2)]
)
def test_products_together_at_the_edges(weights: list[int], count: int) -> None:
    assert products_together(np.array(weights, np.int8).reshape(1, 1, 4)) == count


@pytest.mark.parametrize("bits", [4, 2])
def test_a_nested_byte_is_the_sum_of_its_fields(bits: int) -> None:
    fields = 8 // bits
    codes = np.random.default_rng(1).integers(-(1 << (bits - 1)), 1 << (bits - 1), (2, 16 * fields)).astype(np.int8)
    offset = np.array([1 << (bits - 1)] * (fields - 1) + [0])[:, None]
    weights = (1 << bits * np.arange(fields))[:, None]
    total = ((codes.reshape(2, fields, 16).astype(int) + offset) * weights).sum(axis=1)
    np.testing.assert_array_equal(nest(narrow(codes, bits), bits), total)
