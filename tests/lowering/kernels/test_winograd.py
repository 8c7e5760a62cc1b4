"""Winograd convolutions against numerics.py, bit for bit, in the emulator."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from harness import A76, Case, run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from layers import Layer, conv, with_op
from test_codegen import hot_loop
from test_residual import add_of

from mpqc.facts import kernels
from mpqc.facts.kernels import stores_odd
from mpqc.lowering.kernels import winograd as winograd_module
from mpqc.lowering.kernels.conv import ConvSpec
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.residual import residual
from mpqc.lowering.kernels.winograd import refusal, winograd
from mpqc.numerics import integer
from mpqc.numerics.winograd import FormName

FORMS = [pytest.param("tile"), pytest.param("row")]
forms = pytest.mark.parametrize("form", FORMS)
INPUT_BITS: dict[FormName, int] = {"tile": 6, "row": 7}
LARGEST: dict[FormName, int] = {"tile": 14, "row": 42}
"""Codes that no filter of transforms beyond int8"""


@pytest.fixture
def always_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the smallest layers are cut into tasks."""
    monkeypatch.setattr(winograd_module, "PARALLEL_MACS", 0)


@dataclass(frozen=True, eq=False)
class Small:
    """A layer of narrow codes in a form."""

    layer: Layer
    form: FormName

    @property
    def codes(self) -> tuple[int, int]:
        edge = 1 << (INPUT_BITS[self.form] - 1)
        return -edge, edge - 1

    @property
    def kernel(self) -> Kernel:
        layer = self.layer
        assert refusal(layer.op, self.codes, self.form) == ""
        return winograd(layer.op, layer.x.shape, self.codes, layer.zero_points, KernelTarget(cores=layer.cores), self.form)


def small(spec: ConvSpec, form: FormName, seed: int = 0, *, zero_points: tuple[int, int] = (-128, 0), bounds: tuple[int, int] = (-128, 127)) -> Small:
    """`spec` in `form`: codes of the form's widths, weights as wide as they are sure to fit, the zero point moved into the input's range."""
    made = conv(spec, seed, zero_points=zero_points, bounds=bounds)
    narrower, largest = 8 - INPUT_BITS[form], LARGEST[form]
    weight = np.clip(made.op.weight, -largest, largest)
    zero = zero_points[0] >> narrower
    bias = (np.random.default_rng(seed).integers(-200, 200, spec.channels) - zero * weight.reshape(spec.channels, -1).sum(axis=1)).astype(np.int32)
    wider = np.float32(2**narrower * made.op.weight.std() / max(weight.std(), 0.5))
    layer = with_op(made, weight=weight, bias=bias, multiplier=made.op.multiplier * wider)
    return Small(replace(layer, x=layer.x >> narrower, zero_points=(zero, zero_points[1])), form)


def check(cases: list[Small], folder: Path) -> None:
    got = run([Case(case.kernel, (case.layer.x,), case.layer.threads) for case in cases], A76, folder)
    for case, result in zip(cases, got, strict=True):
        np.testing.assert_array_equal(result, case.layer.expected(), err_msg=case.kernel.name, strict=True)


def square(height: int, width: int, depth: int, channels: int, pads: tuple[int, int, int, int] = (1, 1, 1, 1), **more: int) -> ConvSpec:
    images = more.pop("images", 1)
    return ConvSpec((images, height, width, depth), channels, (3, 3), pads=pads, **more)


AWKWARD = [
    square(1, 1, 16, 8),
    square(3, 7, 8, 15),
    square(8, 8, 64, 16),
    square(7, 7, 48, 24),
    square(5, 12, 20, 9, (0, 0, 0, 0)),
    square(3, 3, 33, 17, (0, 0, 0, 0)),
    square(2, 2, 31, 8, (2, 2, 2, 2)),
    square(9, 6, 7, 8, (0, 2, 1, 0)),
    square(13, 5, 1, 8, (3, 0, 0, 4)),
    square(6, 9, 32, 16, groups=2, images=2),
    square(4, 5, 60, 27, groups=3),
    square(17, 18, 24, 8, images=3),
]


@pytest.mark.emulator
@forms
@pytest.mark.usefixtures("always_parallel")
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_awkward_shapes_are_exact(form: FormName, bits: int, tmp_path: Path) -> None:
    points = [(-128, 0), (127, -128), (-3, 7), (0, 127), (5, -1)]
    cases = [
        small(replace(spec, weight_bits=bits), form, seed, zero_points=points[seed % 5])
        for seed, spec in enumerate(AWKWARD if bits == 8 else AWKWARD[:: 6 - bits])
    ]
    check([replace(case, layer=replace(case.layer, threads=1 + n % 3, cores=1 + n % 4)) for n, case in enumerate(cases)], tmp_path)


@pytest.mark.emulator
@forms
def test_odd_codes_are_exact(form: FormName, tmp_path: Path) -> None:
    """-3, -1, 1, 3 in two bits: the half-integer grid."""
    shapes = [replace(spec, weight_bits=2, odd=True) for spec in AWKWARD if stores_odd(spec.depth)]
    cases = [small(spec, form, seed) for seed, spec in enumerate(shapes)]
    assert len(cases) >= 4
    assert all(case.layer.op.odd and "_w2odd" in case.kernel.name for case in cases)
    check(cases, tmp_path)


@st.composite
def specs(draw: st.DrawFn) -> ConvSpec:
    """Convolutions of 3x3 whose kernel fits the padded image."""
    groups, pads = draw(st.sampled_from([1, 1, 1, 2, 3])), draw(st.tuples(*[st.integers(0, 3)] * 4))
    height, width = (draw(st.integers(max(1, 3 - sum(pads[axis::2])), 20)) for axis in (0, 1))
    shape = (draw(st.integers(1, 2)), height, width, draw(st.integers(1, 40)) * groups)
    return ConvSpec(shape, draw(st.integers(8, 20)) * groups, (3, 3), pads=pads, groups=groups, weight_bits=draw(st.sampled_from([8, 4, 2])))


codes8 = st.integers(-128, 127)


@pytest.mark.emulator
@forms
@pytest.mark.usefixtures("always_parallel")
@settings(max_examples=2, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(drawn=st.lists(st.tuples(specs(), codes8, codes8, codes8, codes8, st.integers(1, 5)), min_size=10, max_size=10))
def test_random_convolutions_are_exact(form: FormName, drawn: list[tuple], tmp_path_factory: pytest.TempPathFactory) -> None:
    cases = []
    for seed, (spec, zx, zy, a, b, cores) in enumerate(drawn):
        case = small(spec, form, seed, zero_points=(zx, zy), bounds=(min(a, b), max(a, b)))
        cases.append(replace(case, layer=replace(case.layer, threads=cores, cores=cores)))
    check(cases, tmp_path_factory.mktemp("random"))


@pytest.mark.emulator
@forms
def test_extreme_codes_and_saturation(form: FormName, tmp_path: Path) -> None:
    """The largest sums, codes that alternate between the ends of their range so that differences are largest, requantization that saturates."""
    spec, most, cases = square(6, 9, 48, 9), LARGEST[form], []
    low, high = Small(conv(spec), form).codes
    checks = (np.indices((1, 6, 9, 48)).sum(axis=0) % 2).astype(bool)
    images = [np.full(checks.shape, low), np.full(checks.shape, high), np.where(checks, low, high), np.where(checks[:, :, :1], low, high)]
    kernel = np.indices((9, 48, 3, 3))[2:].sum(axis=0) % 2
    weights = [np.full(kernel.shape, -most), np.full(kernel.shape, most), np.where(kernel, most, -most)]
    for n, (x, w) in enumerate((x, w) for x in images for w in weights):
        case = small(spec, form, n, zero_points=(-128 if n % 2 else 127, (-128, 127, 0, 3)[n % 4]))
        for scale in (1.0 / 60000, 0.5, 3e4):
            multiplier = np.geomspace(scale, scale * 100, 9).astype(np.float32)
            multiplier[4] = 1e-38
            op = replace(case.layer.op, weight=w.astype(np.int8), bias=np.zeros(9, np.int32), multiplier=multiplier)
            cases.append(replace(case, layer=replace(case.layer, op=op, x=x.astype(np.int8))))
    check(cases, tmp_path)


@pytest.mark.emulator
@forms
def test_ties_round_to_even_before_the_zero_point_is_added(form: FormName, tmp_path: Path) -> None:
    """Sums in steps of one, times 1/2 and 1/4: the factor of the form must leave every tie one."""
    spec, cases = square(14, 15, 16, 16), []
    x = np.zeros(spec.input_shape, np.int8)
    x[..., 0] = np.arange(14 * 15).reshape(14, 15) % 63 - 31
    weight = np.zeros((16, 16, 3, 3), np.int8)
    weight[:, 0, 1, 1] = 1
    for zero, form_of_sums in [(-128, "positive"), (-127, "positive"), (1, "float"), (126, "float"), (-1, "round"), (127, "exact")]:
        bias = np.arange(16, dtype=np.int32)
        multiplier = np.where(np.arange(16) % 2, 0.5, 0.25).astype(np.float32)
        bias[15] += {"round": 2**23, "exact": 2**27}.get(form_of_sums, 0)
        multiplier[15] = {"round": 2.0**-10}.get(form_of_sums, 0.5)
        case = small(spec, form, zero_points=(0, zero), bounds=(zero if form_of_sums == "positive" else -128, 127))
        case = replace(case, layer=replace(with_op(case.layer, weight=weight, bias=bias, multiplier=multiplier), x=x))
        assert f"_{form_of_sums}" in case.kernel.name
        cases.append(case)
    check(cases, tmp_path)


@pytest.mark.emulator
@forms
def test_sums_with_another_tensor_are_exact(form: FormName, tmp_path: Path) -> None:
    rng, calls, wanted = np.random.default_rng(5), [], []
    for seed, spec in enumerate([square(7, 9, 16, 8), square(8, 8, 64, 16), square(5, 6, 24, 34, groups=2), square(15, 15, 32, 24, (0, 1, 1, 0))]):
        zeros = tuple(int(z) for z in rng.integers(-128, 128, 3))
        case = small(spec, form, seed, zero_points=(zeros[1], zeros[0]), bounds=(-100, 90) if seed % 2 else (-128, 127))
        made, add = case.layer.expected(), add_of(*rng.uniform(0.05, 2, 2), low=-77 if seed == 2 else -128)
        other, added = rng.integers(-128, 128, made.shape).astype(np.int8), residual(case.layer.op, add, zeros)
        kernel = winograd(case.layer.op, case.layer.x.shape, case.codes, case.layer.zero_points, KernelTarget(), form, added)
        calls.append(Case(kernel, (case.layer.x, other), 1 + seed % 3))
        wanted.append(integer.add(made, other, zeros[:2], add.m_a, add.m_b, zeros[2], add.low, add.high).astype(np.int8))
    for call, must, got in zip(calls, wanted, run(calls, A76, tmp_path), strict=True):
        np.testing.assert_array_equal(got, must, err_msg=call.kernel.name, strict=True)


@pytest.mark.emulator
@forms
def test_several_blocks_and_shared_panels(form: FormName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of which the last is shorter, more blocks than cores and fewer; threads change nothing."""
    monkeypatch.setattr(winograd_module, "PARALLEL_MACS", 0)
    cases = []
    for size in (8 * 1024, 1 << 20):
        monkeypatch.setattr(kernels, "PATCH_BLOCK_BYTES", size)
        case = small(square(23, 14, 32, 40), form)
        cases += [replace(case, layer=replace(case.layer, threads=threads)) for threads in (1, 2, 4, 7)]
        check(cases[-4:], tmp_path)
    assert len({case.layer.expected().tobytes() for case in cases}) == 1


def test_what_a_form_cannot_compute_exactly_is_refused_with_the_reason() -> None:
    op, codes = small(square(8, 8, 16, 8), "tile").layer.op, (-32, 31)
    assert refusal(op, codes, "tile") == ""
    assert "stride 1" in refusal(replace(op, strides=(2, 1)), codes, "tile")
    assert "stride 1" in refusal(replace(op, dilations=(1, 2)), codes, "row")
    assert "3x3" in refusal(replace(op, weight=op.weight[..., :1]), codes, "row")
    assert "fewer output channels" in refusal(replace(op, weight=op.weight[:7]), codes, "row")
    assert "4 inputs from -33 to 31" in refusal(op, (-33, 31), "tile")
    assert "4 inputs from 0 to 32" in refusal(op, (0, 32), "tile")
    assert "2 inputs from -64 to 64" in refusal(op, (-64, 64), "row")
    assert refusal(op, (-64, 63), "row") == ""
    assert "int32" in refusal(replace(op, bias=np.full(8, 2**29, np.int32)), codes, "tile")


@pytest.mark.parametrize(("form", "fits", "beyond"), [("tile", 14, 15), ("row", 42, 43)])
def test_weights_are_judged_by_their_transforms(form: FormName, fits: int, beyond: int) -> None:
    op, codes = conv(square(8, 8, 16, 8)).op, (-32, 31)
    for sign in (1, -1):
        weight = np.full(op.weight.shape, sign * fits, np.int8)
        assert refusal(replace(op, weight=weight), codes, form) == ""
        assert f"{sign * beyond * {'tile': 9, 'row': 3}[form]}" in refusal(replace(op, weight=weight // fits * beyond), codes, form)
    single = np.zeros_like(op.weight)
    single[0, 0, 0, 0] = {"tile": 31, "row": 63}[form]
    assert refusal(replace(op, weight=single), codes, form) == ""


def test_equal_shapes_share_their_code() -> None:
    first, second = (small(square(8, 8, 16, 8), "tile", seed, zero_points=(5, zero)).kernel for seed, zero in ((1, 4), (2, 8)))
    assert first.name == second.name
    assert first.func is second.func


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_weights_are_stored_as_codes(bits: int) -> None:
    kernel = small(replace(square(14, 14, 64, 64), weight_bits=bits), "tile").kernel
    assert kernel.constants[0].nbytes == 64 * 64 * 9 * bits // 8
    assert kernel.macs == 14 * 14 * 64 * 64 * 9


@forms
def test_products_are_sdot_and_loads(form: FormName) -> None:
    loop = hot_loop(small(square(28, 28, 128, 128), form).kernel)
    assert sum(line.startswith("sdot") for line in loop) == 64
    assert all("[" in line.split(",", 2)[2] for line in loop if line.startswith("sdot")), "not by lane"
    assert not any("[sp" in line for line in loop), "spills"
    assert len(loop) <= 64 * 1.4
