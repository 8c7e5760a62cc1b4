"""Weights for SMULL: how they are laid out, and how many products are added in int16."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from harness import A53, A72, Machine
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import Layer, check, conv, with_op

from mpqc.lowering.kernels.conv import ConvSpec
from mpqc.lowering.kernels.smull import aligned, chain_of, fits, pack, padded_length


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


def test_vectors_of_a_group_of_channels_lie_one_after_the_other() -> None:
    weights = np.zeros((8, 1, 24), np.int8)
    weights[:, 0, 0], weights[:, 0, 16] = np.arange(8), 10 + np.arange(8)
    panel = pack(weights, 8, 8, 8)
    assert panel.shape == (1, 8 * 24)
    assert panel[0, 0:128:16].tolist() == list(range(8))
    assert panel[0, 128::8].tolist() == list(range(10, 18))
    halves = pack(weights, 8, 8, 4).reshape(2, 4 * 24)
    assert halves[:, 0:64:16].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert halves[:, 64::8].tolist() == [[10, 11, 12, 13], [14, 15, 16, 17]]
    assert pack(weights, 8, 4, 4).shape == (1, 8 * 12)


def test_two_products_of_the_least_code_are_not_added_in_int16() -> None:
    weights = np.full((1, 1, 32), -127, np.int8)
    weights[0, 0, 3] = -128
    assert chain_of(weights, (-128, 127)) == 1
    weights[0, 0, 11] = -128
    assert chain_of(weights, (-128, 127)) == 0
    assert chain_of(weights, (-127, 127)) == 1
    assert chain_of(np.full((1, 1, 32), -63, np.int8), (-128, 127)) == 2
    assert chain_of(np.full((1, 1, 32), -64, np.int8), (-128, 127)) == 1


@pytest.mark.parametrize(
    ("weight", "least", "products"),
    [(127, -128, 2), (63, -128, 4), (127, -64, 4), (31, -128, 8), (63, -64, 8), (15, -128, 16), (7, -128, 32), (31, -32, 32), (7, -8, 512)],
)
def test_one_bit_less_of_either_side_doubles_the_chain(weight: int, least: int, products: int) -> None:
    assert 2 * chain_of(np.full((4, 1, 8192), weight, np.int8), (least, -least - 1)) == products


def test_chains_of_a_segment_are_about_as_long_and_few_segments_are_one_chain() -> None:
    assert chain_of(np.full((4, 3, 12 * 16), 31, np.int8), (-128, 127)) == 4
    assert chain_of(np.full((4, 3, 9 * 16), 15, np.int8), (-128, 127)) == 5
    assert chain_of(np.full((4, 3, 2 * 16), 15, np.int8), (-128, 127)) == 6


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-128, 127), min_size=8, max_size=160), st.integers(1, 128), st.integers(1, 128))
def test_sums_fit_for_the_worst_input(codes: list[int], largest: int, reach: int) -> None:
    """Inputs that make each lane's sum as large and as small as they can."""
    weights = np.clip(np.array(codes[: len(codes) // 8 * 8]), -largest, largest - 1).astype(np.int8).reshape(1, 1, -1)
    low, high = -reach, reach - 1
    count = chain_of(weights, (low, high))
    products = max(1, 2 * count)
    lanes = np.pad(weights, ((0, 0), (0, 0), (0, -weights.shape[2] % (8 * products)))).astype(int).reshape(-1, products, 8)
    for worst in (np.where(lanes > 0, high, low), np.where(lanes > 0, low, high)):
        sums = (lanes * worst).cumsum(axis=1)
        assert sums.min() >= -(2**15)
        assert sums.max() < 2**15
    assert count == 0 or fits(weights, (low, high), count)


def worst(spec: ConvSpec, weight: int, least: int, sign: int) -> Layer:
    """All weights and inputs at an edge of their ranges; every second channel has the other sign."""
    edge = least if sign < 0 else -least - 1
    layer = conv(spec, zero_points=(edge, 0))
    signs = np.where(np.arange(spec.channels) % 2, -1, 1).reshape(-1, 1, 1, 1)
    full = np.broadcast_to(weight * signs, layer.op.weight.shape).astype(np.int8)
    return replace(with_op(layer, weight=full, bias=np.zeros(spec.channels, np.int32)), x=np.full_like(layer.x, edge))


SHAPES = [
    ConvSpec((1, 5, 9, 96), 8, (3, 3), pads=(1, 1, 1, 1)),
    ConvSpec((1, 4, 5, 24), 16, (3, 3), pads=(1, 1, 1, 1)),
    ConvSpec((1, 6, 6, 200), 12, (1, 1)),
    ConvSpec((1, 3, 3, 8), 8, (1, 1)),
    ConvSpec((1, 1, 1, 136), 9, (1, 1)),
    ConvSpec((1, 9, 9, 3), 8, (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    ConvSpec((1, 9, 9, 40), 16, (3, 3), pads=(1, 1, 1, 1), dilations=(2, 2)),
]


@pytest.mark.emulator
@pytest.mark.parametrize("machine", [A72, A53], ids=["a72", "a53"])
def test_chains_of_every_length_are_exact_at_the_edges(machine: Machine, tmp_path: Path) -> None:
    """The least and the most codes of 8 to 4 bits on either side: chains of one product to whole reductions, all at their limits."""
    pairs = [
        (-128, -128),
        (127, -128),
        (-64, -128),
        (63, -128),
        (127, -64),
        (31, -128),
        (15, -128),
        (31, -64),
        (7, -128),
        (15, -16),
        (7, -8),
        (1, -2),
    ]
    layers = [worst(spec, weight, least, sign) for spec in SHAPES for weight, least in pairs for sign in (-1, 1)]
    names = {layer.kernel("neon").name.split("together")[1] for layer in layers}
    assert {"0", "1", "2", "4", "6"} <= names
    check(layers, "neon", machine, tmp_path)


def loops(layer: Layer) -> list[list[str]]:
    """Blocks of instructions of the layer's code for a Cortex-A72 that branch back to their beginning."""
    asm = tvm.compile(layer.kernel("neon").func, target=A72.target).mod.inspect_source("asm")
    found = []
    for block in asm.split("\n.L"):
        lines = [line.strip() for line in block.splitlines() if line.startswith("\t")]
        end = next((i for i, line in enumerate(lines) if line.startswith("b.ne")), None)
        if end is not None:
            found.append([line for line in lines[: end + 1] if not line.startswith((".", "//"))])
    return found


def counted(layer: Layer) -> tuple[Counter[str], list[str]]:
    """Instructions by name, of the loop with the most multiplications that is no more than one chain, and its lines."""
    loop = max(loops(layer), key=lambda lines: sum(line.startswith(("smull", "smlal")) for line in lines))
    return Counter(line.split()[0] for line in loop), loop


def limited(spec: ConvSpec, largest: int) -> Layer:
    layer = conv(spec)
    return with_op(layer, weight=np.clip(layer.op.weight, -largest, largest))


def test_the_inner_loop_multiplies_twice_for_sixteen_products() -> None:
    """At 8 bits two multiplications and one SADALP for 16 MAC, a load for 32, and no spills."""
    kinds, loop = counted(limited(ConvSpec((1, 28, 28, 128), 256, (1, 1)), 127))
    steps = kinds["sadalp"] // 16
    assert (kinds["smull"], kinds["smlal2"]) == (16 * steps, 16 * steps)
    assert kinds["ldr"] + kinds["ldur"] + 2 * kinds["ldp"] <= 8 * steps + 2
    assert not any("[sp" in line for line in loop)


def test_a_long_chain_is_nothing_but_multiplications_and_loads() -> None:
    kinds, loop = counted(limited(ConvSpec((1, 28, 28, 512), 64, (1, 1)), 7))
    multiplications = kinds["smlal"] + kinds["smlal2"]
    assert multiplications % 32 == 0
    assert kinds["sadalp"] == 0
    assert len(loop) <= multiplications * 44 / 32
    assert not any("[sp" in line for line in loop)
