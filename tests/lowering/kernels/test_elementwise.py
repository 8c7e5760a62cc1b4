"""Binary and table kernels against numerics."""

from __future__ import annotations

import numpy as np
import pytest
from checking import ISAS, Expected, check, codes, expected, plain, quantized
from harness import core
from hypothesis import given, settings
from hypothesis import strategies as st

from mpqc.lowering.kernels.elementwise import binary, table
from mpqc.lowering.kernels.kernel import KernelTarget
from mpqc.numerics import integer
from mpqc.values.program import Binary, Table

PAIRS = [
    ((1, 16, 9, 9), (1, 16, 9, 9)),
    ((1, 17, 5, 3), (1, 17, 1, 1)),
    ((1, 32, 5, 3), (1, 32, 1, 1)),
    ((1, 17, 5, 3), (1, 1, 1, 1)),
    ((1, 8, 7, 1), (1, 1, 7, 1)),
    ((7,), (7,)),
    ((2, 33), (33,)),
    ((1, 4, 5, 6), (4, 1, 1)),
    ((1, 4, 5, 6), (6,)),
    ((1, 1, 5, 6), (1, 8, 1, 6)),
    ((3, 4, 5), (4, 1)),
    ((1, 64, 31, 33), (1, 64, 31, 33)),
    ((1, 31, 15, 1), ()),
]


def reference(op: Binary, a: np.ndarray, b: np.ndarray, zeros: tuple[int, int], zero: int) -> np.ndarray:
    if op.kind == "mul":
        return integer.multiply(a, b, zeros, op.m_a, zero, op.low, op.high)
    return integer.add(a, b, zeros, op.m_a, op.m_b, zero, op.low, op.high, subtract=op.kind == "sub")


def case(
    rng: np.random.Generator, isa: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], kind: str, *, constant: bool, largest: float = 2.0
) -> Expected:
    zeros, zero = (int(rng.integers(-128, 128)), int(rng.integers(-128, 128))), int(rng.integers(-128, 128))
    a, b = codes(rng, shapes[0]), codes(rng, shapes[1])
    top = largest / 127 if kind == "mul" else largest
    m = [float(np.float32(rng.uniform(top / 100, top))) for _ in range(2)]
    low, high = sorted(int(i) for i in rng.integers(-128, 128, 2)) if rng.random() < 0.3 else (-128, 127)
    op = Binary("n", (), (), kind, m[0], m[1], low, high, b if constant else None, zeros[1])
    ta, tb, y = quantized(a.shape, zeros[0]), quantized(b.shape, zeros[1]), quantized(np.broadcast_shapes(*shapes), zero)
    kernel = binary(op, ta, None if constant else tb, y, core(isa))
    inputs = [(a, ta)] if constant else [(a, ta), (b, tb)]
    return expected(kernel, inputs, (reference(op, a, b, zeros, zero), y), f"{op}")


@pytest.mark.parametrize("isa", ISAS)
def test_binary(isa: str) -> None:
    rng = np.random.default_rng(2)
    check(
        [case(rng, isa, pair, kind, constant=constant) for pair in PAIRS for kind in ("add", "sub", "mul") for constant in (False, True)],
        isa,
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("largest", [1e-3, 1e2, 1e6])
def test_extreme_multipliers(isa: str, largest: float) -> None:
    rng = np.random.default_rng(3)
    check([case(rng, isa, PAIRS[0], kind, constant=False, largest=largest) for kind in ("add", "sub", "mul") for _ in range(3)], isa)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.booleans()), min_size=1, max_size=5), st.integers(0, 2**31))
def test_any_broadcast(axes: list[tuple[int, bool, bool]], seed: int) -> None:
    shapes = tuple(1 if first else n for n, first, _ in axes), tuple(1 if second else n for n, _, second in axes)
    rng = np.random.default_rng(seed)
    check([case(rng, "generic", shapes, kind, constant=False) for kind in ("add", "mul")], "generic")


@pytest.mark.emulator
def test_every_pair_of_codes_is_added_as_numerics_does() -> None:
    a, b = (np.ascontiguousarray(grid.reshape(1, -1).astype(np.int8)) for grid in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    cases = []
    for m_a, m_b, zero in [(0.7310586, 0.2689414, 3), (0.5, 0.5, -128), (1.9999999, 0.33333334, -1)]:
        op = Binary("n", (), (), "add", float(np.float32(m_a)), float(np.float32(m_b)), -128, 127)
        t, y = quantized(a.shape, -7), quantized(a.shape, zero)
        cases.append(expected(binary(op, t, t, y, KernelTarget()), [(a, t), (b, t)], (reference(op, a, b, (-7, -7), zero), y)))
    check(cases, "dotprod")


@pytest.mark.parametrize("isa", ISAS)
def test_table(isa: str) -> None:
    rng, cases = np.random.default_rng(4), []
    for shape in [(1, 16, 9, 9), (7,), (256,), (1, 17, 5, 3), (1, 64, 31, 33), (1, 1), ()]:
        entries, t = codes(rng, (256,)), quantized(shape)
        x = np.arange(-128, 128).astype(np.int8) if shape == (256,) else codes(rng, shape)
        kernel = table(Table("n", (), (), entries, "f"), t, t, core(isa))
        cases.append(expected(kernel, [(x, t)], (integer.lookup(x, entries), t)))
    check(cases, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_tables_along_an_axis(isa: str) -> None:
    """Channels last, where each code of a pixel has a table of its own, and channels first, where a plane shares one."""
    rng, cases = np.random.default_rng(5), []
    for shape, axis in [((1, 16, 9, 9), 1), ((1, 19, 5, 3), 1), ((2, 6, 31, 33), 1), ((2, 16), 1), ((1, 4, 20), 2)]:
        entries, x = codes(rng, (shape[axis], 256)), codes(rng, shape)
        for t in (quantized(shape), plain(shape, "int8")):
            kernel = table(Table("n", (), (), entries, "f", axis), t, t, core(isa))
            cases.append(expected(kernel, [(x, t)], (integer.lookup_along(x, entries, axis), t)))
    check(cases, isa)


@pytest.mark.emulator
def test_sums_with_one_rounding_less_are_exact_for_all_pairs_of_codes() -> None:
    """Both orders of the fused operation, and multipliers for which neither gives every sum."""
    every = np.arange(-128, 128).astype(np.int8)
    a, b = np.repeat(every, 256), np.tile(every, 256)
    cases = []
    halves = [(0.5, 0.25, -128), (0.5, 0.5, 1)]
    for *m, zero in [*halves, (0.69236672, 1.48473227, -83), (0.65354192, 0.41885617, 39), (0.57026225, 0.33597225, -10)]:
        op = Binary("n", (), (), "add", float(np.float32(m[0])), float(np.float32(m[1])), -128, 127)
        zeros = (3, -128)
        ta, tb, y = quantized(a.shape, zeros[0]), quantized(a.shape, zeros[1]), quantized(a.shape, zero)
        wanted = (reference(op, a, b, zeros, zero), y)
        cases.append(expected(binary(op, ta, tb, y, core("dotprod")), [(a, ta), (b, tb)], wanted, str(m)))
    suffixes = {case.kernel.name.split("_fused")[1] if "_fused" in case.kernel.name else "" for case in cases}
    assert suffixes == {"0", "1", ""}
    check(cases, "dotprod", threads=(1,))
