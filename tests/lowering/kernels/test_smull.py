"""Weights for SMULL: how they are laid out, and how many products are added in int16."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tvm
from harness import A72
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import conv

from mpqc.lowering.kernels.conv import ConvSpec
from mpqc.lowering.kernels.smull import aligned, pack, padded_length, together


@pytest.mark.parametrize(("length", "padded"), [(1, 8), (8, 8), (9, 16), (16, 16), (17, 24), (31, 32), (33, 40)])
def test_segments_are_padded_to_vectors_of_sixteen_and_one_of_eight(length: int, padded: int) -> None:
    assert padded_length(length) == padded
    weights = np.arange(1, 2 * length + 1).reshape(1, -1).astype(np.int8)
    for slack in (True, False):
        laid = aligned(weights, length, slack)
        assert laid.shape == (1, 2, padded)
        np.testing.assert_array_equal(laid[laid != 0], weights[0])
    main = length // 16 * 16
    assert not aligned(weights, length, True)[0, 0, length:].any()
    assert not aligned(weights, length, False)[0, 0, main : padded - length + main].any()


def test_vectors_of_all_channels_lie_one_after_the_other() -> None:
    weights = np.zeros((8, 1, 24), np.int8)
    weights[:, 0, 0], weights[:, 0, 16] = np.arange(8), 10 + np.arange(8)
    panel = pack(weights, 8, 8)
    assert panel.shape == (1, 8 * 24)
    assert panel[0, 0:128:16].tolist() == list(range(8))
    assert panel[0, 128::8].tolist() == list(range(10, 18))
    assert pack(weights, 8, 4).shape == (1, 8 * 12)


def test_two_products_of_the_least_code_are_not_added_in_int16() -> None:
    weights = np.full((1, 1, 32), -127, np.int8)
    weights[0, 0, 3] = -128
    assert together(weights) == 2
    weights[0, 0, 11] = -128
    assert together(weights) == 1
    assert together(np.full((1, 1, 32), -63, np.int8)) == 4
    assert together(np.full((1, 1, 32), -64, np.int8)) == 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-128, 127), min_size=8, max_size=96), st.integers(1, 128))
def test_sums_fit_for_the_worst_input(codes: list[int], largest: int) -> None:
    """Inputs that make each lane's sum as large and as small as they can."""
    weights = np.clip(np.array(codes[: len(codes) // 8 * 8]), -largest, largest - 1).astype(np.int8).reshape(1, 1, -1)
    count = together(weights)
    lanes = np.pad(weights, ((0, 0), (0, 0), (0, -weights.shape[2] % 32))).astype(int).reshape(-1, count, 8)
    for worst in (np.where(lanes > 0, 127, -128), np.where(lanes > 0, -128, 127)):
        sums = (lanes * worst).cumsum(axis=1)
        assert sums.min() >= -(2**15)
        assert sums.max() < 2**15


def test_the_inner_loop_multiplies_twice_for_sixteen_products() -> None:
    """Two SMULL or SMLAL2 and one SADALP for 16 MAC, a load for 25, and no spills."""
    layer = conv(ConvSpec((1, 28, 28, 128), 256, (1, 1)))
    layer.op.weight[layer.op.weight == -128] = -127
    asm = tvm.compile(layer.kernel("neon").func, target=A72.target).mod.inspect_source("asm")
    loops = [block.splitlines() for block in asm.split("\n.L")]
    loop = max(loops, key=lambda lines: sum("smlal2" in line for line in lines))
    loop = [line.strip() for line in loop[: next(i for i, line in enumerate(loop) if "\tb.ne" in line) + 1] if line.startswith("\t")]
    kinds = Counter(line.split()[0] for line in loop)
    assert (kinds["smull"], kinds["smlal2"], kinds["sadalp"]) == (16, 16, 16)
    assert kinds["ldr"] + kinds["ldur"] + kinds["ldp"] <= 10
    assert not any("[sp" in line for line in loop)
    assert len(loop) <= 62
