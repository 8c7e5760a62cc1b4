"""Convolutions that add another tensor at their end: bit for bit the convolution's codes, then integer.add."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness import A76, Case, core, run
from layers import Layer, conv, with_op

from mpqc.lowering.kernels import conv as conv_module
from mpqc.lowering.kernels.conv import ConvSpec, conv2d
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.kernels.residual import Residual, residual
from mpqc.numerics import integer
from mpqc.values.program import Binary

pytestmark = pytest.mark.emulator

SPECS = [
    ConvSpec((1, 7, 9, 16), 8, (3, 3), pads=(1, 1, 1, 1)),
    ConvSpec((1, 1, 1, 33), 31, (1, 1)),
    ConvSpec((1, 3, 3, 17), 33, (1, 1)),
    ConvSpec((2, 15, 8, 24), 17, (3, 3), strides=(2, 1), pads=(1, 0, 1, 2)),
    ConvSpec((1, 33, 31, 32), 24, (1, 1)),
    ConvSpec((1, 8, 7, 24), 32, (3, 3), pads=(1, 1, 1, 1), groups=2, weight_bits=4),
    ConvSpec((1, 2, 2, 48), 40, (1, 1), weight_bits=2),
    ConvSpec((1, 1, 1, 512), 32, (1, 1), weight_bits=4),
    ConvSpec((1, 9, 9, 512), 16, (3, 3), pads=(1, 1, 1, 1)),
]


def joined(layer: Layer, add: Binary, zeros: tuple[int, int, int], rng: np.random.Generator) -> tuple[Case, np.ndarray, Residual]:
    """The kernel call and what it must give; zeros: of the convolution, of the other operand, of the sum."""
    layer = replace(layer, zero_points=(layer.zero_points[0], zeros[0]))
    made = layer.expected()
    other = rng.integers(-128, 128, made.shape).astype(np.int8)
    added = residual(layer.op, add, zeros)
    assert added is not None
    kernel = conv2d(layer.op, layer.x.shape, layer.zero_points, core("dotprod", layer.cores), added=added)
    pair, pair_zeros = ((made, other), zeros[:2]) if add.inputs[0] == "y" else ((other, made), zeros[1::-1])
    wanted = integer.add(*pair, pair_zeros, add.m_a, add.m_b, zeros[2], add.low, add.high)
    return Case(kernel, (layer.x, other), layer.threads), wanted.astype(np.int8), added


def add_of(m_a: float, m_b: float, *, first: bool = True, low: int = -128, high: int = 127) -> Binary:
    return Binary("add", ("y", "r") if first else ("r", "y"), ("z",), "add", m_a, m_b, low, high)


def check(cases: list[tuple[Case, np.ndarray, Residual]], folder: Path) -> None:
    names: dict[str, Kernel] = {}
    for case, _, _ in cases:
        assert names.setdefault(case.kernel.name, case.kernel).func is case.kernel.func
    for (case, wanted, _), got in zip(cases, run([case for case, _, _ in cases], A76, folder), strict=True):
        np.testing.assert_array_equal(got, wanted, err_msg=case.kernel.name, strict=True)


def test_sums_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_module, "PARALLEL_MACS", 0)
    rng = np.random.default_rng(5)
    cases = []
    for seed, spec in enumerate(SPECS):
        zeros = tuple(int(z) for z in rng.integers(-128, 128, 3))
        low, high = (int(rng.integers(-128, 0)), int(rng.integers(0, 128))) if seed % 3 == 2 else (-128, 127)
        layer = conv(spec, seed, zero_points=(zeros[1], 0), bounds=(-100, 90) if seed % 2 else (-128, 127))
        add = add_of(*rng.uniform(0.05, 2, 2), first=seed % 4 < 2, low=low, high=high)
        cases.append(joined(replace(layer, threads=1 + seed % 3, cores=1 + seed % 4), add, zeros, rng))
    check(cases, tmp_path)


def test_ties_and_saturation(tmp_path: Path) -> None:
    """Multipliers of which many sums are halves, convolutions of every form whose codes saturate, and the largest sums."""
    rng = np.random.default_rng(6)
    layer = conv(ConvSpec((1, 17, 15, 16), 16, (1, 1)), 1)
    large, small = layer.op.bias.copy(), layer.op.multiplier.copy()
    large[3], small[3] = 2**23, 2.0**-10
    forms = {
        "float": layer,
        "round": with_op(layer, bias=large, multiplier=small),
        "exact": with_op(layer, multiplier=layer.op.multiplier * 1e4),
    }
    cases = []
    for form, made in forms.items():
        for zeros, m in (((-128, -128, -128), (0.5, 0.5)), ((0, 3, -7), (0.25, 1.5)), ((127, -128, 127), (63.0, 63.0)), ((5, -3, 1), (1 / 3, 1e-5))):
            case = joined(made, add_of(*m), zeros, rng)
            assert f"_{form}" in case[0].kernel.name or (form == "float" and "_positive" in case[0].kernel.name)
            cases.append(case)
    check(cases, tmp_path)


def test_fused_operations_are_used_only_where_no_sum_changes() -> None:
    layer = conv(SPECS[0])
    rng = np.random.default_rng(7)
    found = []
    for _ in range(60):
        m_a, m_b = (float(np.float32(m)) for m in rng.uniform(0.3, 1.2, 2))
        added = residual(layer.op, add_of(m_a, m_b), (3, -7, 10))
        assert added is not None
        found.append(added.form.fused)
    assert found.count("made") > 20
    assert set(found) >= {"made", "other"}


def test_sums_beyond_int16_are_left_to_the_kernel_of_add() -> None:
    assert residual(conv(SPECS[0]).op, add_of(100.0, 50.0), (0, 0, 0)) is None
