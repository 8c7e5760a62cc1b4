"""Fully connected kernels against numerics.py, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from harness import A53, A76, HOST, Machine
from layers import check, linear, with_op

from mpqc.facts.kernels import stores_odd

WHERE = [
    pytest.param("dotprod", A76, marks=pytest.mark.emulator),
    pytest.param("neon", A53, marks=pytest.mark.emulator),
    pytest.param("generic", HOST),
]
SHAPES = [
    ((1, 64), 10),
    ((1, 512), 1000),
    ((3, 7), 5),
    ((2, 9, 33), 17),
    ((1, 30), 64),
    ((5, 48), 33),
    ((1, 1), 1),
    ((17, 31), 15),
    ((4, 40), 31),
    ((2, 128), 96),
]


@pytest.mark.parametrize(("isa", "machine"), WHERE)
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_fully_connected_is_exact(isa: str, machine: Machine, bits: int, tmp_path: Path) -> None:
    check([linear(shape, channels, seed, bits=bits) for seed, (shape, channels) in enumerate(SHAPES)], isa, machine, tmp_path)


@pytest.mark.parametrize(("isa", "machine"), WHERE)
def test_odd_codes_are_exact(isa: str, machine: Machine, tmp_path: Path) -> None:
    """-3, -1, 1, 3 in two bits: the half-integer grid."""
    layers = [linear(shape, channels, seed, bits=2, odd=True) for seed, (shape, channels) in enumerate(SHAPES) if stores_odd(shape[-1])]
    assert all(layer.op.odd for layer in layers)
    assert len(layers) >= 5
    check(layers, isa, machine, tmp_path)


@pytest.mark.parametrize(("isa", "machine"), WHERE)
def test_extreme_weights(isa: str, machine: Machine, tmp_path: Path) -> None:
    layers = []
    for bits in (8, 4, 2):
        for code, scale in ((-(1 << (bits - 1)), 1e-5), ((1 << (bits - 1)) - 1, 1e-3)):
            layer = linear((1, 2048), 40, bits=bits)
            layers.append(with_op(layer, weight=np.full_like(layer.op.weight, code), multiplier=np.full(40, scale, np.float32)))
            layer.x[:] = -128
    check(layers, isa, machine, tmp_path)
