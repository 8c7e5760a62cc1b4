"""F(4x4,3x3) in int16 against numerics.py, bit for bit, in the emulator as a Cortex-A72 and a Cortex-A53."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from harness import A53, A72, Case, Machine, core, run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from layers import Layer, conv, with_op
from test_residual import add_of
from test_winograd import square

from mpqc.facts import kernels
from mpqc.facts.kernels import stores_odd
from mpqc.lowering.kernels import winograd16 as winograd16_module
from mpqc.lowering.kernels.conv import ConvSpec
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.kernels.residual import residual
from mpqc.lowering.kernels.winograd16 import refusal, winograd16
from mpqc.numerics import integer
from mpqc.numerics.winograd16 import LongForm

MACHINES = [pytest.param(A72, id="a72"), pytest.param(A53, id="a53")]
INT8 = (-128, 127)


@pytest.fixture
def always_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the smallest layers are cut into tasks."""
    monkeypatch.setattr(winograd16_module, "PARALLEL_MACS", 0)


def kernel(layer: Layer) -> Kernel:
    return winograd16(layer.op, layer.x.shape, INT8, layer.zero_points, core("neon", layer.cores))


def check(layers: list[Layer], machine: Machine, folder: Path) -> None:
    assert [refusal(layer.op) for layer in layers] == [""] * len(layers)
    got = run([Case(kernel(layer), (layer.x,), layer.threads) for layer in layers], machine, folder)
    for layer, result in zip(layers, got, strict=True):
        np.testing.assert_array_equal(result, layer.expected(), err_msg=kernel(layer).name, strict=True)


AWKWARD = [
    square(1, 1, 16, 16),
    square(3, 7, 8, 31),
    square(9, 9, 48, 40),
    square(5, 12, 20, 17, (0, 0, 0, 0)),
    square(3, 3, 33, 17, (0, 0, 0, 0)),
    square(9, 6, 7, 16, (0, 2, 1, 0)),
    square(13, 5, 1, 16, (3, 0, 0, 4)),
    square(6, 9, 32, 32, groups=2, images=2),
    square(17, 18, 24, 16, images=3),
    square(4, 6, 150, 16),
]


@pytest.mark.emulator
@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("machine", MACHINES)
def test_awkward_shapes_are_exact(machine: Machine, tmp_path: Path) -> None:
    """Of all storage widths, zero points and shares of the work; every second one on each core."""
    points, layers = [(-128, 0), (127, -128), (-3, 7), (0, 127), (5, -1)], []
    for seed, spec in list(enumerate(AWKWARD))[machine is A53 :: 2]:
        layer = conv(replace(spec, weight_bits=(8, 4, 2)[seed // 2 % 3]), seed, zero_points=points[seed % 5])
        layers.append(replace(layer, threads=1 + seed % 3, cores=1 + seed % 4))
    check(layers, machine, tmp_path)


@st.composite
def specs(draw: st.DrawFn) -> ConvSpec:
    """Convolutions of 3x3 whose kernel fits the padded image."""
    groups, pads = draw(st.sampled_from([1, 1, 1, 2])), draw(st.tuples(*[st.integers(0, 3)] * 4))
    height, width = (draw(st.integers(max(1, 3 - sum(pads[axis::2])), 20)) for axis in (0, 1))
    shape = (draw(st.integers(1, 2)), height, width, draw(st.integers(1, 40)) * groups)
    return ConvSpec(shape, draw(st.integers(16, 40)) * groups, (3, 3), pads=pads, groups=groups, weight_bits=draw(st.sampled_from([8, 4, 2])))


codes8 = st.integers(-128, 127)


@pytest.mark.emulator
@pytest.mark.usefixtures("always_parallel")
@settings(max_examples=1, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(st.tuples(specs(), codes8, codes8, codes8, codes8, st.integers(1, 5)), min_size=8, max_size=8))
def test_random_convolutions_are_exact(drawn: list[tuple], tmp_path_factory: pytest.TempPathFactory) -> None:
    layers = []
    for seed, (spec, zx, zy, a, b, cores) in enumerate(drawn):
        layer = conv(spec, seed, zero_points=(zx, zy), bounds=(min(a, b), max(a, b)))
        layers.append(replace(layer, threads=cores, cores=cores))
    check(layers, A72, tmp_path_factory.mktemp("random"))


@pytest.mark.emulator
@pytest.mark.parametrize("machine", MACHINES)
def test_extreme_codes_and_saturation(machine: Machine, tmp_path: Path) -> None:
    """The largest sums, codes that alternate between the ends of their range, requantization that saturates."""
    spec, layers = square(6, 9, 48, 17), []
    low, high = INT8
    checks = (np.indices((1, 6, 9, 48)).sum(axis=0) % 2).astype(bool)
    images = [np.full(checks.shape, low), np.full(checks.shape, high), np.where(checks, low, high), np.where(checks[:, :, :1], low, high)]
    taps = np.indices((17, 48, 3, 3))[2:].sum(axis=0) % 2
    weights = [np.full(taps.shape, low), np.full(taps.shape, high), np.where(taps, high, low), np.where(taps, low, high)]
    for n, (x, w) in enumerate((x, w) for x in images for w in weights):
        layer = conv(spec, n, zero_points=(-128 if n % 2 else 127, (-128, 127, 0, 3)[n % 4]))
        multiplier = np.geomspace((1.0 / 600000, 0.5, 3e4)[n % 3], 1.0, 17).astype(np.float32)
        multiplier[4] = 1e-38
        op = replace(layer.op, weight=w.astype(np.int8), bias=np.zeros(17, np.int32), multiplier=multiplier)
        layers.append(replace(layer, op=op, x=x.astype(np.int8)))
    check(layers, machine, tmp_path)


def limiting(total: int) -> Layer:
    """Inputs of -128 under weights that add up to `total` in every filter; outputs tell the sign of their sums."""
    layer = conv(square(6, 6, 230, 16, (0, 0, 0, 0)))
    taps = np.zeros(230 * 9, np.int64)
    taps[: abs(total) // 127], taps[abs(total) // 127] = 127, abs(total) % 127
    weight = np.broadcast_to((np.sign(total) * taps).reshape(230, 3, 3), layer.op.weight.shape).astype(np.int8)
    op = replace(layer.op, weight=weight, bias=np.zeros(16, np.int32), multiplier=np.full(16, 100 / 2**25, np.float32))
    return replace(layer, op=op, x=np.full(layer.x.shape, -128, np.int8), zero_points=(-128, 0))


@pytest.mark.emulator
def test_the_bound_that_is_proved_is_the_one_that_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just met: one share. Just missed: two, equal to numerics; in one it would come out wrong."""
    met, missed = [limiting(2**18), limiting(1 - 2**18)], [limiting(2**18 + 1), limiting(-(2**18))]
    kernels = [kernel(layer) for layer in (*met, *missed)]
    assert ["_s29_" in one.name for one in kernels] == [True, True, False, False]
    monkeypatch.setattr(LongForm, "share", lambda form, weight, codes: 232)
    got = run([Case(one, (layer.x,)) for one, layer in zip(kernels, (*met, *missed), strict=True)], A72, tmp_path)
    at_once = run([Case(kernel(layer), (layer.x,)) for layer in missed], A72, tmp_path)
    for layer, result in zip((*met, *missed), got, strict=True):
        np.testing.assert_array_equal(result, layer.expected(), strict=True)
        assert abs(int(result[0, 0, 0, 0])) == 100
    assert all((wrong != layer.expected()).any() for layer, wrong in zip(missed, at_once, strict=True))


@pytest.mark.emulator
@pytest.mark.parametrize("machine", MACHINES)
def test_shares_of_many_input_channels_are_exact(machine: Machine, tmp_path: Path) -> None:
    """The largest sums of 590 channels: shares of 25, 25 and 24 vectors in chunks of 7, 7, 7 and 4 or 3; and of usual weights in one share."""
    spec, layers = square(5, 6, 590, 16), []
    for x, w in ((-128, -128), (-128, 127), (127, 127)):
        layer = conv(spec, zero_points=(x, 0))
        weight, multiplier = np.full_like(layer.op.weight, w), np.full(16, 1e-6, np.float32)
        layers.append(replace(with_op(layer, weight=weight, multiplier=multiplier, bias=np.zeros(16, np.int32)), x=np.full_like(layer.x, x)))
    assert "_s25_" in kernel(layers[0]).name
    usual = conv(spec, 3, zero_points=(3, 7))
    layers.append(with_op(usual, weight=(usual.op.weight // 4).astype(np.int8)))
    assert "_s74_" in kernel(layers[-1]).name
    check(layers, machine, tmp_path)


@pytest.mark.emulator
def test_ties_round_to_even_before_the_zero_point_is_added(tmp_path: Path) -> None:
    """Sums in steps of one, times 1/2 and 1/4, in every form of requantization."""
    spec, layers = square(14, 15, 16, 16), []
    x = np.zeros(spec.input_shape, np.int8)
    x[..., 0] = np.arange(14 * 15).reshape(14, 15) % 255 - 127
    weight = np.zeros((16, 16, 3, 3), np.int8)
    weight[:, 0, 1, 1] = 1
    for zero, sums in [(-128, "positive"), (1, "float"), (-1, "round"), (127, "exact")]:
        bias = np.arange(16, dtype=np.int32)
        multiplier = np.where(np.arange(16) % 2, 0.5, 0.25).astype(np.float32)
        bias[15] += {"round": 2**23, "exact": 2**27}.get(sums, 0)
        multiplier[15] = {"round": 2.0**-10}.get(sums, 0.5)
        layer = conv(spec, zero_points=(0, zero), bounds=(zero if sums == "positive" else -128, 127))
        layer = replace(with_op(layer, weight=weight, bias=bias, multiplier=multiplier), x=x)
        assert f"_{sums}" in kernel(layer).name
        layers.append(layer)
    check(layers, A72, tmp_path)


@pytest.mark.emulator
def test_sums_with_another_tensor_are_exact(tmp_path: Path) -> None:
    rng, calls, wanted = np.random.default_rng(5), [], []
    for seed, spec in enumerate([square(7, 9, 16, 16), square(15, 15, 32, 24, (0, 1, 1, 0))]):
        zeros = tuple(int(z) for z in rng.integers(-128, 128, 3))
        layer = conv(spec, seed, zero_points=(zeros[1], zeros[0]), bounds=(-100, 90) if seed % 2 else INT8)
        made, add = layer.expected(), add_of(*rng.uniform(0.05, 2, 2), low=-77 if seed else -128)
        other, added = rng.integers(-128, 128, made.shape).astype(np.int8), residual(layer.op, add, zeros)
        calls.append(Case(winograd16(layer.op, layer.x.shape, INT8, layer.zero_points, core("neon"), added), (layer.x, other), 1 + seed))
        wanted.append(integer.add(made, other, zeros[:2], add.m_a, add.m_b, zeros[2], add.low, add.high).astype(np.int8))
    for call, must, got in zip(calls, wanted, run(calls, A72, tmp_path), strict=True):
        np.testing.assert_array_equal(got, must, err_msg=call.kernel.name, strict=True)


@pytest.mark.emulator
def test_several_blocks_parts_chunks_and_shared_panels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of which the last is shorter, more blocks than cores and fewer, weights in chunks of which the last is shorter: all the same."""
    monkeypatch.setattr(winograd16_module, "PARALLEL_MACS", 0)
    results = []
    for size, whole, chunk, threads in ((1 << 20, 16, 8, 1), (8 * 1024, 2, 2, 4), (1 << 20, 1, 1, 7)):
        monkeypatch.setattr(kernels, "LARGE_BLOCK", size)
        monkeypatch.setattr(winograd16_module, "WHOLE", whole)
        monkeypatch.setattr(winograd16_module, "CHUNK", chunk)
        layer = replace(conv(square(23, 14, 37, 40)), threads=threads)
        check([layer], A72, tmp_path)
        results.append(winograd16_module._plan(layer.op, layer.x.shape, 5, winograd16_module.requantization.Requant("float"), core("neon")))
    assert [(c.blocks > 1, c.parts > 1, c.chunks) for c in results] == [(False, True, 1), (True, False, 3), (False, False, 5)]


def test_what_the_form_cannot_compute_is_refused_with_the_reason() -> None:
    op = conv(square(8, 8, 16, 16)).op
    assert refusal(op) == ""
    assert "stride 1" in refusal(replace(op, strides=(2, 1)))
    assert "stride 1" in refusal(replace(op, dilations=(1, 2)))
    assert "3x3" in refusal(replace(op, weight=op.weight[..., :1]))
    assert "negative padding" in refusal(replace(op, pads=(0, -1, 0, 0)))
    assert "fewer output channels" in refusal(replace(op, weight=op.weight[:15]))


def test_padding_counts_as_a_code() -> None:
    """300 channels of inputs below 64 are one share; beside a zero point of -128 they are not."""
    layer = conv(square(8, 8, 300, 16))
    op, target = replace(layer.op, weight=np.full_like(layer.op.weight, 127)), core("neon")
    assert "_s38_" in winograd16(op, layer.x.shape, (0, 63), (0, 0), target).name
    assert "_s19_" in winograd16(op, layer.x.shape, (0, 63), (-128, 0), target).name


@pytest.mark.emulator
def test_odd_codes_are_exact(tmp_path: Path) -> None:
    """-3, -1, 1, 3 in two bits: the half-integer grid."""
    layers = [conv(replace(spec, weight_bits=2, odd=True), seed) for seed, spec in enumerate(AWKWARD) if stores_odd(spec.depth)][:4]
    assert len(layers) >= 3
    assert all(layer.op.odd and "_w2odd" in kernel(layer).name for layer in layers)
    check(layers, A53, tmp_path)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_weights_are_stored_as_codes(bits: int) -> None:
    made = kernel(conv(replace(square(14, 14, 64, 64), weight_bits=bits)))
    assert made.constants[0].nbytes == 64 * 64 * 9 * bits // 8
    assert made.macs == 14 * 14 * 64 * 64 * 9


def test_equal_shapes_share_their_code() -> None:
    first, second = (kernel(conv(square(8, 8, 16, 16), seed, zero_points=(5, zero))) for seed, zero in ((1, 4), (2, 8)))
    assert first.name == second.name
    assert first.func is second.func


@pytest.mark.parametrize("machine", MACHINES)
def test_products_are_smlal_by_lane_and_loads(machine: Machine) -> None:
    asm = tvm.compile(kernel(conv(square(28, 28, 64, 32))).func, target=machine.target).mod.inspect_source("asm")
    blocks: list[list[str]] = [[]]
    for line in asm.splitlines():
        if line.startswith(".L") and not line.startswith(".Ltmp"):
            blocks.append([])
        elif line.startswith("\t") and not line.strip().startswith("."):
            blocks[-1].append(line.strip())
            if line.startswith("\tb."):
                blocks.append([])
    loop = max(blocks, key=lambda block: sum(line.startswith("smlal") for line in block))
    products = [line for line in loop if line.startswith("smlal")]
    assert len(products) == 128
    assert all("[" in line.split(",", 2)[2] for line in products), "not by lane"
    assert not any("[sp" in line for line in loop), "spills"
    assert len(loop) <= 128 * 1.25
    assert "sdot" not in asm
