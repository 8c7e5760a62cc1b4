"""Depthwise convolution kernels against numerics."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from checking import ISAS, Expected, check, codes, expected, quantized
from harness import core
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mpqc.lowering.kernels.depthwise import depthwise
from mpqc.lowering.kernels.depthwise_patch import BYTES, LINES, WAY_BYTES, patch_of
from mpqc.lowering.kernels.depthwise_smull import together
from mpqc.lowering.kernels.depthwise_weights import packed
from mpqc.lowering.kernels.requant import accumulator_range
from mpqc.numerics import integer
from mpqc.values.program import Conv


@dataclass(frozen=True)
class Spec:
    channels: int
    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    bits: int = 8
    outputs: int = 1
    batch: int = 1
    zero: int | None = None
    low: int = -128
    scale: float = 1.0
    bias: int | None = None
    """Of every channel, as extreme as int32 sums allow"""
    largest: int = 128
    """No weight code is larger"""


SPECS = [
    Spec(32, 9, 9),
    Spec(33, 8, 10, strides=(2, 2), bits=4),
    Spec(17, 7, 7, strides=(2, 2), pads=(0, 0, 1, 1), bits=2),
    Spec(16, 7, 7, pads=(0, 0, 0, 0), zero=-128),
    Spec(7, 9, 9, bits=4, outputs=2),
    Spec(40, 15, 17, (5, 5), pads=(2, 2, 2, 2)),
    Spec(40, 15, 17, (5, 5), (2, 2), (2, 2, 2, 2), bits=2),
    Spec(24, 15, 17, pads=(2, 2, 2, 2), dilations=(2, 2)),
    Spec(48, 14, 14, (7, 7), pads=(3, 3, 3, 3)),
    Spec(20, 9, 9, (1, 3), (1, 2), (0, 1, 0, 1)),
    Spec(16, 12, 12, strides=(2, 1), pads=(1, 2, 0, 1)),
    Spec(8, 31, 33, zero=-128),
    Spec(9, 3, 1, pads=(1, 1, 1, 1), bits=4),
    Spec(15, 1, 31),
    Spec(31, 5, 8, (3, 1), pads=(1, 0, 1, 0)),
    Spec(64, 7, 7, batch=2, zero=-127),
    Spec(1, 7, 7),
    Spec(3, 8, 15, outputs=3),
    Spec(64, 33, 31, zero=0, low=-100),
    Spec(64, 17, 15, scale=3e4),
    Spec(49, 9, 8, scale=3e4, low=-7, zero=-7, bits=4),
    Spec(24, 7, 7, zero=-128),
    Spec(16, 14, 14, zero=127, bias=2**21),
    Spec(17, 9, 31, zero=3, bias=2**31 - 1),
    Spec(9, 33, 3, zero=-127, bias=-(2**31)),
    Spec(33, 3, 15, (5, 5), pads=(2, 2, 2, 2), bits=4),
    Spec(8, 7, 31, (5, 5), (2, 2), (1, 1, 2, 2)),
    Spec(15, 9, 17, (5, 5), (1, 2), (4, 0, 0, 4), bits=2),
    Spec(31, 17, 9, (1, 5), (1, 1), (0, 2, 0, 2)),
    Spec(17, 33, 8, (5, 1), (2, 1), (2, 0, 2, 0)),
    Spec(8, 1, 1),
    Spec(16, 2, 2, (5, 5), pads=(2, 2, 2, 2)),
    Spec(32, 17, 15, strides=(2, 2), pads=(1, 1, 0, 0), zero=-128),
    Spec(16, 25, 5, zero=-128),
    Spec(24, 15, 9, pads=(3, 3, 3, 3), strides=(3, 3)),
    Spec(16, 9, 17, (2, 4), pads=(0, 1, 1, 2)),
]


def case(rng: np.random.Generator, isa: str, spec: Spec) -> Expected:
    zero_x, zero_y = int(rng.integers(-128, 128)), int(rng.integers(-128, 128)) if spec.zero is None else spec.zero
    x = codes(rng, (spec.batch, spec.channels, spec.height, spec.width))
    half, count = 1 << (spec.bits - 1), spec.channels * spec.outputs
    weight = rng.integers(-half, half, (count, 1, *spec.kernel)).astype(np.int8)
    weight[0], weight[-1] = -half, half - 1
    weight = np.clip(weight, -spec.largest, spec.largest - 1)
    bias = (rng.integers(-3000, 3000, count) - zero_x * weight.astype(int).sum(axis=(1, 2, 3))).astype(np.int32)
    if spec.bias is not None:
        least, most = accumulator_range(weight.reshape(count, -1), np.zeros(count))
        bias = np.clip(spec.bias, -(2**31) - least, 2**31 - 1 - most).astype(np.int32)
    m = (rng.uniform(0.0002, 0.01, count) * spec.scale * 128 / half).astype(np.float32)
    window = {"strides": spec.strides, "pads": spec.pads, "dilations": spec.dilations, "groups": spec.channels}
    acc = integer.conv2d(x, weight, bias, pad_value=zero_x, **window)
    y = integer.requantize(acc, m[:, None, None], zero_y, spec.low, 127)
    op = Conv("n", (), (), weight, spec.bits, bias, m, spec.strides, spec.pads, spec.dilations, spec.channels, spec.low, 127)
    tx, ty = quantized(x.shape, zero_x), quantized(y.shape, zero_y)
    return expected(depthwise(op, tx, ty, core(isa)), [(x, tx)], (y, ty), str(spec))


@pytest.mark.parametrize("isa", ISAS)
def test_depthwise(isa: str) -> None:
    rng = np.random.default_rng(11)
    cases = [case(rng, isa, spec) for spec in SPECS]
    check(cases, isa)


SIDE = st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.integers(1, 3), st.integers(0, 12))


@pytest.mark.emulator
@settings(max_examples=8, deadline=None, derandomize=True)
@given(SIDE, SIDE, st.integers(8, 50), st.sampled_from([2, 4, 8]), st.integers(0, 2**31))
def test_any_window(rows: tuple[int, ...], columns: tuple[int, ...], channels: int, bits: int, seed: int) -> None:
    (kh, sh, top, bottom, dh, extra_h), (kw, sw, left, right, dw, extra_w) = rows, columns
    sizes = (kh - 1) * dh + 1 + extra_h, (kw - 1) * dw + 1 + extra_w
    spec = Spec(channels, *sizes, (kh, kw), (sh, sw), (top, left, bottom, right), (dh, dw), bits)
    check([case(np.random.default_rng(seed), "dotprod", spec)], "dotprod")


def window(side: tuple[int, ...]) -> tuple[int, ...]:
    """Size, kernel, stride, padding before and after, dilation of one axis."""
    kernel, stride, before, after, dilation, extra = side
    return (kernel - 1) * dilation + 1 + extra, min(kernel, 5), stride, before, after, dilation


@pytest.mark.emulator
@settings(max_examples=2, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(SIDE, SIDE, st.integers(8, 50), st.sampled_from([2, 4, 8, 8]), st.integers(1, 128)), min_size=14, max_size=14))
def test_any_window_without_sdot(cases: list[tuple]) -> None:
    """Weights up to a drawn size, so that runs of any length are summed in int16, up to its very edge."""
    made = []
    for seed, (rows, columns, channels, bits, largest) in enumerate(cases):
        (height, kh, sh, top, bottom, dh), (width, kw, sw, left, right, dw) = window(rows), window(columns)
        spec = Spec(channels, height, width, (kh, kw), (sh, sw), (top, left, bottom, right), (dh, dw), bits, largest=largest)
        made.append(case(np.random.default_rng(seed), "neon", spec))
    check(made, "neon", threads=(3,))


def test_products_are_summed_in_int16_only_as_far_as_they_fit() -> None:
    def runs(*taps: int) -> tuple[int, ...]:
        return together(np.array([taps], np.int8))

    assert runs(-128, -127, -128) == (2, 1)
    assert runs(-128, -128) == (1, 1)
    assert runs(127, 127, 2, 1) == (3, 1)
    assert runs(*[-8] * 32) == (31, 1)
    assert together(np.array([[1, 1, 1], [-128, 1, -128]], np.int8)) == (2, 1)


@pytest.mark.parametrize(("size", "channels", "stride"), [(112, 32, 1), (56, 96, 2), (28, 192, 1), (14, 512, 1), (7, 1024, 1), (5, 11, 1), (1, 8, 1)])
def test_patches_cover_the_image_and_stay_in_l1(size: int, channels: int, stride: int) -> None:
    out = (size - 1) // stride + 1
    x, y = quantized((1, channels, size, size), -128), quantized((1, channels, out, out), -128)
    weight = np.zeros((channels, 1, 3, 3), np.int8)
    op = Conv("n", (), (), weight, 8, np.zeros(channels), np.ones(channels), (stride, stride), (1, 1, 1, 1), (1, 1), channels, -128, 127)
    patch = patch_of(op, x, y)
    assert patch.bytes <= BYTES
    assert patch.count * patch.rows * patch.columns >= out * out
    assert patch.shares * patch.blocks * 8 >= channels
    assert patch.steps * patch.together >= patch.columns
    lines = patch.rows * patch.columns * np.gcd(channels, WAY_BYTES) / WAY_BYTES
    assert lines <= LINES


@pytest.mark.parametrize(("bits", "size"), [(8, 16), (4, 8), (2, 4)])
def test_weights_take_their_own_width(bits: int, size: int) -> None:
    weights = packed(np.zeros((9, 32)), 16, bits)
    assert (weights.shape, weights.dtype) == ((9, 2, size), np.int8)


@pytest.mark.parametrize("zeros", [(-128, -128, -128), (4, 6, -60)], ids=["after ReLU", "any"])
def test_equal_shapes_share_code_whatever_the_weights(zeros: tuple[int, ...]) -> None:
    rng = np.random.default_rng(12)
    names = {case(rng, "dotprod", replace(SPECS[0], zero=zero)).kernel.name for zero in zeros}
    assert len(names) == 1
