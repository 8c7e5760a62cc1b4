"""Quantize and Dequantize kernels against numerics, NCHW on the float side and NHWC on the side of codes."""

from __future__ import annotations

import numpy as np
import pytest
from checking import ISAS, check, expected, plain, quantized
from harness import core

from mpqc.lowering.kernels.kernel import KernelTarget
from mpqc.lowering.kernels.quantize import dequantize, quantize
from mpqc.numerics import integer

SHAPES = [(1, 3, 8, 9), (2, 17, 5, 3), (1, 1, 31, 33), (1, 33, 1, 1), (7,), (2, 33), (3, 15, 9), (1, 3, 224, 224), ()]
SCALES = [(0.037, -5), (1.0, 0), (0.0078125, -128), (3.1, 127), (1e-30, 3)]


def values(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Ties, infinities, NaN, huge and tiny values among ordinary ones."""
    x = np.asarray(rng.standard_normal(shape) * 40 * scale, np.float32)
    special = np.float32([0.5, -0.5, 1.5, 2.5, -2.5, 126.5]) * np.float32(scale)
    edge = np.float32([np.inf, -np.inf, 3e38, -3e38, -0.0, 1e-45])
    flat = x.reshape(-1)
    flat[: min(12, flat.size)] = np.concatenate([special, edge])[: flat.size]
    return x


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("isa", ISAS)
def test_quantize_and_dequantize(isa: str) -> None:
    rng, cases = np.random.default_rng(1), []
    for index, shape in enumerate(SHAPES):
        for scale, zero in SCALES if index < 3 else SCALES[index % 5 : index % 5 + 1]:
            real, codes = plain(shape), quantized(shape, zero, scale)
            x = values(rng, shape, scale)
            q = integer.quantize(x, codes.qparams)
            cases.append(expected(quantize(real, codes, core(isa)), [(x, real)], (q, codes), f"{scale} {zero}"))
            cases.append(expected(dequantize(codes, real, core(isa)), [(q.astype(np.int8), codes)], (integer.dequantize(q, codes.qparams), real)))
    check(cases, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_bytes_are_quantized_as_the_numbers_that_they_are(isa: str) -> None:
    rng, cases = np.random.default_rng(2), []
    for index, shape in enumerate(SHAPES):
        for scale, zero in ((1.0, -128), (0.037, 5)) if index < 3 else ((1.0, -128),):
            real, codes = plain(shape, "uint8"), quantized(shape, zero, scale)
            x = rng.integers(0, 256, shape, np.uint8)
            q = integer.quantize(x.astype(np.float32), codes.qparams)
            if (scale, zero) == (1.0, -128):
                np.testing.assert_array_equal(q, x.astype(int) - 128)
            cases.append(expected(quantize(real, codes, core(isa)), [(x, real)], (q, codes), f"{scale} {zero}"))
    check(cases, isa)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_narrow_types_saturate_at_their_own_bounds(bits: int) -> None:
    real, codes = plain((5, 9)), quantized((5, 9), -1, 0.1, bits)
    x = values(np.random.default_rng(bits), (5, 9), 0.1)
    check([expected(quantize(real, codes, core("generic")), [(x, real)], (integer.quantize(x, codes.qparams), codes))], "generic")


def test_equal_shapes_share_a_name_whatever_the_scale() -> None:
    shapes = [quantize(plain((1, 3, 4, 4)), quantized((1, 3, 4, 4), zero, scale), KernelTarget()) for scale, zero in SCALES]
    assert len({kernel.name for kernel in shapes}) == 1
