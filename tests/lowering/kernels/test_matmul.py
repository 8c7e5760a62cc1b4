"""Products of two activations against numerics."""

from __future__ import annotations

import numpy as np
import pytest
from checking import ISAS, Expected, check, codes, expected, quantized
from harness import core
from hypothesis import given, settings
from hypothesis import strategies as st

from mpqc.lowering.kernels.matmul import matmul
from mpqc.numerics import integer
from mpqc.values.program import MatMul, Tensor

SHAPES = [
    ((3, 98, 64), (3, 64, 98)),
    ((3, 98, 98), (3, 98, 64)),
    ((7, 31), (31, 9)),
    ((2, 1, 65, 15), (4, 15, 8)),
    ((2, 3, 1, 33), (3, 33, 17)),
    ((130, 1), (1, 3)),
    ((1, 16), (16, 1)),
    ((9, 17), (17, 7)),
    ((1, 33, 8, 5), (1, 33, 5, 15)),
]


def case(rng: np.random.Generator, isa: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], spread: float, extreme: bool = False) -> Expected:
    zeros = [-128, 127, -128] if extreme else [int(i) for i in rng.integers(-128, 128, 3)]
    a, b = (np.full(s, v, np.int8) for s, v in zip(shapes, (127, -128), strict=True)) if extreme else (codes(rng, s) for s in shapes)
    acc = integer.matmul(a, b, (zeros[0], zeros[1]))
    m = np.float32(spread / (np.abs(acc).max(initial=1) + 1))
    bounds = (-100, 90) if rng.random() < 0.5 else (-128, 127)
    y = integer.requantize(acc, m, zeros[2], *bounds)
    op = MatMul("n", (), (), float(m), *bounds)
    tensors = [plain_rows(array.shape, zero) for array, zero in zip((a, b, y), zeros, strict=True)]
    kernel = matmul(op, *tensors, core(isa))
    return expected(kernel, list(zip((_shown(a), _shown(b)), tensors, strict=False)), (_shown(y), tensors[2]), f"{zeros} {spread}")


def plain_rows(shape: tuple[int, ...], zero: int) -> Tensor:
    """A tensor whose rows are contiguous: rank 4 is shown with a leading 1, as lowering does."""
    return quantized((1, *shape) if len(shape) == 4 else shape, zero)


def _shown(array: np.ndarray) -> np.ndarray:
    return array[None] if array.ndim == 4 else array


@pytest.mark.parametrize("isa", ISAS)
def test_matmul(isa: str) -> None:
    rng = np.random.default_rng(5)
    cases = [case(rng, isa, shapes, spread) for shapes in SHAPES for spread in (150.0, 4e4)]
    cases.append(case(rng, isa, ((9, 255), (255, 9)), 255.0, extreme=True))
    check(cases, isa)


SIZES = st.sampled_from([1, 3, 7, 8, 9, 15, 17, 31, 33])


@settings(max_examples=4, deadline=None, derandomize=True)
@given(SIZES, SIZES, SIZES, st.integers(0, 2**31))
def test_any_sizes(rows: int, depth: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check([case(rng, "generic", ((2, rows, depth), (depth, columns)), 200.0)], "generic")
