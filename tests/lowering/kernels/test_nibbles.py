"""Kernels on tensors stored two codes a byte against numerics.py, bit for bit: in the emulator and on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness import A76, HOST, Case, Machine, core, run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from layers import Layer, conv

from mpqc.errors import LoweringError
from mpqc.lowering.kernels import conv as conv_module
from mpqc.lowering.kernels.conv import ConvSpec, conv2d
from mpqc.lowering.kernels.kernel import KernelTarget
from mpqc.lowering.kernels.nibbles import Packing

WHERE = [pytest.param("dotprod", A76, marks=pytest.mark.emulator), pytest.param("generic", HOST)]
machines = pytest.mark.parametrize(("isa", "machine"), WHERE)
PACKINGS = (Packing((True,), True), Packing((True,)), Packing((), True))


def halves(codes: np.ndarray) -> np.ndarray:
    """Two codes a byte, the first one in the low half: what the kernels' documentation says, in numpy."""
    low, high = codes.reshape(-1, 2).astype(np.int16).T
    return ((low & 15) | (high << 4)).astype(np.uint8).view(np.int8)


@pytest.fixture
def always_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_module, "PARALLEL_MACS", 0)


def narrow(spec: ConvSpec, seed: int, zero_points: tuple[int, int] = (-8, -8), bounds: tuple[int, int] = (-8, 7)) -> Layer:
    """A convolution of 4-bit codes to 4-bit codes that uses all of them."""
    layer = conv(spec, seed, zero_points=zero_points, bounds=bounds)
    codes = np.random.default_rng(seed).integers(-8, 8, spec.input_shape).astype(np.int8)
    return replace(layer, x=codes, threads=1 + seed % 3, cores=1 + seed % 4)


def check(layers: list[tuple[Layer, Packing]], isa: str, machine: Machine, folder: Path, block_bytes: int = 0) -> None:
    """Fails unless every layer gives exactly what it must."""
    cores = [replace(core(isa, layer.cores), block_bytes=block_bytes) for layer, _ in layers]
    kernels = [conv2d(layer.op, layer.x.shape, layer.zero_points, one, packing=packing) for one, (layer, packing) in zip(cores, layers, strict=True)]
    stored = [halves(layer.x) if packing.input(0) else layer.x for layer, packing in layers]
    cases = [Case(kernel, (x,), layer.threads) for kernel, x, (layer, _) in zip(kernels, stored, layers, strict=True)]
    for (layer, packing), kernel, result in zip(layers, kernels, run(cases, machine, folder), strict=True):
        expected = layer.expected()
        np.testing.assert_array_equal(result, halves(expected) if packing.output else expected, err_msg=kernel.name)


SHAPES = [
    ConvSpec((1, h, w, c), o, (k, k), strides=(s, s), pads=(k // 2,) * 4)
    for h, w, c, o, k, s in [
        (1, 1, 64, 10, 1, 1),
        (7, 7, 16, 18, 1, 1),
        (3, 9, 34, 32, 1, 1),
        (15, 17, 2, 8, 1, 2),
        (31, 33, 12, 2, 1, 1),
        (9, 8, 8, 6, 3, 1),
        (17, 15, 30, 34, 3, 2),
        (33, 31, 16, 16, 3, 1),
        (1, 3, 2, 2, 3, 1),
        (7, 9, 66, 14, 5, 1),
    ]
] + [
    ConvSpec((2, 9, 7, 24), 36, (3, 3), pads=(1, 1, 1, 1), groups=3),
    ConvSpec((3, 7, 8, 10), 16, (1, 1)),
    ConvSpec((1, 17, 17, 12), 8, (3, 3), pads=(2, 3, 2, 3), dilations=(2, 3)),
]  # fmt: skip


@machines
@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("bits", [8, 4])
def test_convolutions_of_awkward_sizes(isa: str, machine: Machine, bits: int, tmp_path: Path) -> None:
    points = [(-8, -8), (7, -8), (-3, 7), (0, 0), (5, -1)]
    layers = [narrow(replace(spec, weight_bits=bits), seed, points[seed % 5]) for seed, spec in enumerate(SHAPES)]
    check([(layer, PACKINGS[(seed + bits // 8) % 3]) for seed, layer in enumerate(layers)], isa, machine, tmp_path)


@machines
@pytest.mark.usefixtures("always_parallel")
def test_blocks_that_copy_little_give_the_same(isa: str, machine: Machine, tmp_path: Path) -> None:
    layers = [narrow(replace(spec, weight_bits=(8, 4, 2)[seed % 3]), seed) for seed, spec in enumerate(SHAPES)]
    check([(layer, packing) for layer in layers for packing in PACKINGS], isa, machine, tmp_path, block_bytes=600)


@st.composite
def specs(draw: st.DrawFn) -> ConvSpec:
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    depth, channels = 2 * draw(st.integers(1, 20)), 2 * draw(st.integers(1, 12))
    kernel, strides, dilations = (draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (4, 3, 3))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    height = draw(st.integers(max(1, reach[0] - pads[0] - pads[2]), reach[0] + 18))
    width = draw(st.integers(max(1, reach[1] - pads[1] - pads[3]), reach[1] + 18))
    bits = draw(st.sampled_from([8, 4, 2]))
    return ConvSpec((draw(st.integers(1, 2)), height, width, depth * groups), channels * groups, kernel, strides, pads, dilations, groups, bits)


codes4 = st.integers(-8, 7)


@machines
@pytest.mark.usefixtures("always_parallel")
@settings(max_examples=1, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(cases=st.lists(st.tuples(specs(), codes4, codes4, codes4, codes4), min_size=16, max_size=16))
def test_random_convolutions(isa: str, machine: Machine, cases: list[tuple], tmp_path_factory: pytest.TempPathFactory) -> None:
    layers = [narrow(spec, seed, (zx, zy), (min(a, b), max(a, b))) for seed, (spec, zx, zy, a, b) in enumerate(cases)]
    check([(layer, PACKINGS[seed % 3]) for seed, layer in enumerate(layers)], isa, machine, tmp_path_factory.mktemp("random"))


def test_an_odd_number_of_channels_is_refused_by_name() -> None:
    layer = narrow(ConvSpec((1, 4, 4, 8), 9, (1, 1)), 0)
    with pytest.raises(LoweringError, match="two a byte"):
        conv2d(layer.op, layer.x.shape, (-8, -8), KernelTarget(), packing=PACKINGS[2])
