"""Convolution kernels against numerics.py, bit for bit: in the emulator (SDOT) and on this machine (portable)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness import A72, A76, HOST, Machine
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from layers import check, conv, with_op

from mpqc.errors import LoweringError
from mpqc.facts.kernels import stores_odd
from mpqc.lowering.kernels import conv as conv_module
from mpqc.lowering.kernels.conv import ConvSpec, conv2d
from mpqc.lowering.kernels.kernel import KernelTarget

WHERE = [
    pytest.param("dotprod", A76, marks=pytest.mark.emulator),
    pytest.param("neon", A72, marks=pytest.mark.emulator),
    pytest.param("generic", HOST),
]
machines = pytest.mark.parametrize(("isa", "machine"), WHERE)

POINTWISE = [
    ConvSpec((1, h, w, c), o, (1, 1))
    for h, w, c, o in [(1, 1, 64, 9), (7, 7, 16, 17), (3, 9, 33, 31), (15, 17, 20, 8), (8, 1, 7, 3), (31, 33, 12, 7)]
]
SQUARE = [
    ConvSpec((1, h, w, c), o, (3, 3), strides=s, pads=p)
    for h, w, c, o, s, p in [
        (1, 1, 16, 8, (1, 1), (1, 1, 1, 1)),
        (3, 7, 8, 15, (1, 1), (1, 1, 1, 1)),
        (9, 31, 17, 9, (2, 2), (1, 1, 1, 1)),
        (33, 8, 3, 16, (2, 1), (0, 1, 1, 0)),
        (17, 15, 64, 33, (1, 2), (1, 0, 0, 1)),
        (9, 9, 15, 1, (1, 1), (0, 0, 0, 0)),
        (2, 2, 31, 7, (1, 1), (2, 2, 2, 2)),
    ]
]
ODD = [
    ConvSpec((2, 15, 17, 3), 9, (7, 7), strides=(2, 2), pads=(3, 3, 3, 3)),
    ConvSpec((3, 7, 8, 24), 17, (1, 1)),
    ConvSpec((2, 9, 7, 16), 8, (1, 1), strides=(2, 2)),
    ConvSpec((1, 7, 7, 32), 40, (7, 7)),
    ConvSpec((1, 31, 1, 16), 9, (1, 5), pads=(0, 2, 0, 2)),
    ConvSpec((1, 17, 17, 12), 8, (3, 3), pads=(2, 3, 2, 3), dilations=(2, 3)),
    ConvSpec((1, 9, 9, 12), 15, (3, 3), pads=(1, 1, 1, 1), groups=3),
    ConvSpec((1, 7, 8, 33), 33, (3, 3), pads=(1, 1, 1, 1), groups=33),
    ConvSpec((1, 8, 8, 64), 48, (1, 1), groups=2),
    ConvSpec((1, 1, 40, 9), 8, (1, 9), strides=(1, 3), dilations=(1, 2)),
    ConvSpec((2, 19, 9, 3), 9, (3, 3), strides=(1, 2), pads=(2, 1, 2, 0), dilations=(3, 1)),
    ConvSpec((1, 10, 400, 1), 8, (10, 4)),
]


@pytest.fixture
def always_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the smallest layers are cut into tasks."""
    monkeypatch.setattr(conv_module, "PARALLEL_MACS", 0)


@machines
@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_awkward_shapes_are_exact(isa: str, machine: Machine, bits: int, tmp_path: Path) -> None:
    points = [(-128, 0), (127, -128), (-3, 7), (0, 127), (5, -1)]
    layers = [
        replace(conv(replace(spec, weight_bits=bits), seed, zero_points=points[seed % 5]), threads=1 + seed % 3, cores=1 + seed % 4)
        for seed, spec in enumerate(POINTWISE + SQUARE + ODD)
    ]
    check(layers, isa, machine, tmp_path)


@machines
@pytest.mark.usefixtures("always_parallel")
def test_odd_codes_are_exact(isa: str, machine: Machine, tmp_path: Path) -> None:
    """Two bits on the half-integer grid: -3, -1, 1, 3; where the depth is whole vectors, every way of unpacking."""
    shapes = [spec for spec in POINTWISE + SQUARE + ODD if stores_odd(spec.depth)]
    shapes += [
        ConvSpec((1, 3, 3, 24), 40, (3, 3)),
        ConvSpec((1, 2, 4, 32), 40, (1, 1), groups=2),
        ConvSpec((1, 5, 5, 48), 24, (3, 3), dilations=(2, 2), groups=2),
        ConvSpec((1, 9, 9, 16), 24, (3, 3)),
        ConvSpec((2, 5, 6, 40), 5, (3, 2), pads=(1, 1, 1, 0), strides=(2, 1)),
    ]
    points = [(-128, 0), (127, -128), (-3, 7)]
    layers = [
        replace(conv(replace(spec, weight_bits=2, odd=True), seed, zero_points=points[seed % 3]), threads=1 + seed % 3)
        for seed, spec in enumerate(shapes)
    ]
    assert all(layer.op.odd and "_w2odd" in layer.kernel(isa).name for layer in layers)
    assert {"_nested", "_register"} <= {kind for layer in layers for kind in ("_nested", "_register") if kind in layer.kernel("dotprod").name}
    extremes = [with_op(layers[0], weight=np.full_like(layers[0].op.weight, code)) for code in (-3, 3)]
    check([*layers, *(replace(layer, x=np.full_like(layer.x, -128)) for layer in extremes)], isa, machine, tmp_path)


@st.composite
def specs(draw: st.DrawFn) -> ConvSpec:
    """Small convolutions of every kind whose kernel fits the padded image."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    depth, channels = draw(st.integers(1, 40)), draw(st.integers(1, 20))
    kernel, strides, dilations = (draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (5, 3, 3))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    height = draw(st.integers(max(1, reach[0] - pads[0] - pads[2]), reach[0] + 18))
    width = draw(st.integers(max(1, reach[1] - pads[1] - pads[3]), reach[1] + 18))
    bits = draw(st.sampled_from([8, 8, 4, 2]))
    return ConvSpec((draw(st.integers(1, 2)), height, width, depth * groups), channels * groups, kernel, strides, pads, dilations, groups, bits)


codes8 = st.integers(-128, 127)


@machines
@pytest.mark.usefixtures("always_parallel")
@settings(max_examples=2, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(cases=st.lists(st.tuples(specs(), codes8, codes8, codes8, codes8, st.integers(1, 5)), min_size=16, max_size=16))
def test_random_convolutions_are_exact(isa: str, machine: Machine, cases: list[tuple], tmp_path_factory: pytest.TempPathFactory) -> None:
    layers = [
        replace(conv(spec, seed, zero_points=(zx, zy), bounds=(min(a, b), max(a, b))), threads=cores, cores=cores)
        for seed, (spec, zx, zy, a, b, cores) in enumerate(cases)
    ]
    check(layers, isa, machine, tmp_path_factory.mktemp("random"))


@machines
def test_extreme_codes_and_saturation(isa: str, machine: Machine, tmp_path: Path) -> None:
    layers = []
    for seed, (x, w, zy) in enumerate(
        [(-128, -128, -128), (-128, -128, 127), (127, -128, 0), (-128, 127, 3), (127, 127, -127), (-128, -127, 1), (-128, 63, 0)]
    ):
        layer = conv(ConvSpec((1, 5, 9, 48), 9, (3, 3), pads=(1, 1, 1, 1)), seed, zero_points=(x, zy))
        full = with_op(layer, weight=np.full_like(layer.op.weight, w), bias=np.zeros(9, np.int32))
        for scale in (1e-12, 1.0 / 60000, 0.5, 3e4):
            multiplier = np.geomspace(scale, scale * 100, 9).astype(np.float32)
            layers.append(replace(with_op(full, multiplier=multiplier), x=np.full_like(layer.x, x)))
    check(layers, isa, machine, tmp_path)


@machines
@pytest.mark.parametrize("form", ["positive", "float", "round", "exact"])
def test_ties_round_to_even_before_the_zero_point_is_added(isa: str, machine: Machine, form: str, tmp_path: Path) -> None:
    """Accumulators from -600 to 600 in steps of one, times 1/2 and 1/4; a channel of large weights forces the dearer forms."""
    weight = np.zeros((16, 16, 1, 1), np.int8)
    weight[:, 0], weight[:, 1] = 1, 4
    bias = np.zeros(16, np.int32)
    if form in ("round", "exact"):
        bias[15] = 2**23 if form == "round" else 2**30
    x = np.zeros((1, 33, 33, 16), np.int8)
    x[..., 0], x[..., 1] = np.arange(1089).reshape(33, 33) % 256 - 128, np.arange(1089).reshape(33, 33) // 9 - 60
    multiplier = np.where(np.arange(16) % 2, 0.5, 0.25).astype(np.float32)
    multiplier[15] = {"round": 2.0**-10}.get(form, 0.5)
    layers = []
    for zero in (-127 if form == "float" else -128, -127, -1, 0, 1, 126, 127):
        layer = conv(ConvSpec(x.shape, 16, (1, 1)), zero_points=(0, zero), bounds=(zero if form == "positive" else -128, 127))
        layers.append(replace(with_op(layer, weight=weight, bias=bias, multiplier=multiplier), x=x))
    assert isa == "generic" or all(f"_{form}" in layer.kernel(isa).name for layer in layers)
    check(layers, isa, machine, tmp_path)


@machines
@pytest.mark.usefixtures("always_parallel")
def test_threads_change_nothing(isa: str, machine: Machine, tmp_path: Path) -> None:
    specs = [
        ConvSpec((1, 28, 30, 24), 40, (3, 3), pads=(1, 1, 1, 1)),
        ConvSpec((1, 7, 7, 64), 72, (3, 3), pads=(1, 1, 1, 1)),
        ConvSpec((2, 20, 20, 32), 24, (1, 1)),
    ]
    check([replace(conv(spec), threads=threads, cores=4) for spec in specs for threads in (1, 2, 3, 4, 7)], isa, machine, tmp_path)


@pytest.mark.emulator
def test_portable_code_is_exact_on_arm_without_dotprod(tmp_path: Path) -> None:
    check([conv(replace(spec, weight_bits=bits), bits) for spec in SQUARE + ODD[:5] for bits in (8, 4)], "generic", A72, tmp_path)


@pytest.mark.emulator
def test_large_weights_and_several_blocks(tmp_path: Path) -> None:
    """More weights than the budget of one pass, rows that do not divide into blocks, weights unpacked for several blocks."""
    specs = [ConvSpec((1, 9, 9, 256), 136, (3, 3), pads=(1, 1, 1, 1)), ConvSpec((1, 61, 57, 64), 16, (3, 3), pads=(1, 1, 1, 1))]
    check([conv(replace(spec, weight_bits=bits)) for spec in specs for bits in (8, 4, 2)], "dotprod", A76, tmp_path)


def test_small_layers_start_no_threads() -> None:
    small, large = ConvSpec((1, 8, 8, 16), 8, (3, 3)), ConvSpec((1, 28, 28, 64), 64, (3, 3))
    assert "T.parallel" not in str(conv(small).kernel("dotprod").func)
    assert "T.parallel" in str(conv(large).kernel("dotprod").func)
    assert "T.parallel" not in str(replace(conv(large), cores=1).kernel("dotprod").func)


def test_equal_shapes_share_their_code() -> None:
    spec = ConvSpec((1, 8, 8, 16), 8, (3, 3), pads=(1, 1, 1, 1))
    first, second = conv(spec, 1, zero_points=(-128, 4)).kernel("dotprod"), conv(spec, 2, zero_points=(5, 8)).kernel("dotprod")
    assert first.name == second.name
    assert first.func is second.func
    assert not np.array_equal(first.constants[0], second.constants[0])


def test_macs_and_stored_bytes() -> None:
    spec = ConvSpec((1, 56, 56, 64), 64, (3, 3), pads=(1, 1, 1, 1))
    sizes = {bits: conv(replace(spec, weight_bits=bits)).kernel("dotprod").constants[0].nbytes for bits in (8, 4, 2)}
    assert sizes == {8: 36864, 4: 18432, 2: 9216}
    assert conv(spec).kernel("dotprod").macs == 56 * 56 * 64 * 64 * 9


@pytest.mark.parametrize(("changes", "why"), [({"pads": (-1, 0, 0, 0)}, "negative"), ({"weight_bits": 3}, "3 bits"), ({"strides": (1, 0)}, "stride")])
def test_what_has_no_kernel_is_refused_by_name(changes: dict[str, object], why: str) -> None:
    layer = with_op(conv(ConvSpec((1, 8, 8, 16), 8, (3, 3))), **changes)
    with pytest.raises(LoweringError, match=why):
        conv2d(layer.op, layer.x.shape, (0, 0), KernelTarget())


@pytest.mark.emulator
@pytest.mark.parametrize("bits", [4, 2])
def test_narrow_weights_in_registers(bits: int, tmp_path: Path) -> None:
    """One tile a block: separated in the sums or unpacked as they are used; in scratch where segments are not aligned or sums could overflow."""
    specs = {
        "nested": [
            ConvSpec((1, 3, 3, 20), 40, (3, 3)),
            ConvSpec((1, 2, 2, 64), 33, (2, 2)),
            ConvSpec((1, 1, 2, 33), 31, (1, 1)),
            ConvSpec((1, 3, 3, 7), 17, (3, 3), pads=(1, 1, 0, 0), strides=(2, 2)),
        ],
        "register": [ConvSpec((1, 2, 4, 32), 40, (1, 1), groups=2), ConvSpec((1, 5, 5, 48), 24, (3, 3), dilations=(2, 2), groups=2)],
        "scratch": [ConvSpec((1, 9, 9, 16), 24, (3, 3))],
    }
    unaligned = ConvSpec((1, 5, 5, 24), 16, (3, 3), dilations=(2, 2), groups=2)
    specs["scratch" if bits == 2 else "register"].append(unaligned)
    layers = {kind: [conv(replace(spec, weight_bits=bits), n) for n, spec in enumerate(group)] for kind, group in specs.items()}
    kinds = {kind: [layer.kernel("dotprod").name for layer in group] for kind, group in layers.items()}
    assert all(name.endswith("_nested") for name in kinds["nested"])
    assert all(name.endswith("_register") for name in kinds["register"])
    assert not any(name.endswith(("_nested", "_register")) for name in kinds["scratch"])
    huge = with_op(layers["nested"][0], bias=np.full(40, 2**27 + 5, np.int32))
    assert "_nested" not in huge.kernel("dotprod").name
    check([*layers["nested"], *layers["register"], *layers["scratch"], huge], "dotprod", A76, tmp_path)
