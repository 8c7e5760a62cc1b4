"""Prices on cores whose kernels add products up in int16: they follow weight plus activation bits."""

from __future__ import annotations

import numpy as np
import pytest

from mpqc.cost.chains import MATRIX, WINDOW, Chains
from mpqc.cost.fit import ALL_WIDTHS, fit_rows
from mpqc.cost.run import Run
from mpqc.facts.kernels import chain_products, gathers, longest_chain
from mpqc.lowering.kernels.smull import chain_of
from mpqc.targets import CostRow, OpKind, Shape
from mpqc.targets.schema import Caches
from mpqc.values.qtype import largest_code

CACHES = Caches(l1d_bytes=32 << 10, l2_bytes=512 << 10)
LAYER = Shape(14, 14, 256, 14, 14, 256, 3, 3)
WIDTHS = [(w, a) for w in range(2, 9) for a in range(2, 9)]


def chains(shape: Shape, weights: int, inputs: int) -> Chains:
    return Chains(Run(shape, (weights, inputs), CACHES, form="neon"))


@pytest.mark.parametrize(("weights", "inputs"), WIDTHS)
def test_so_many_products_fit_and_not_twice_as_many(weights: int, inputs: int) -> None:
    largest = largest_code(weights) - (weights > 4)
    count = chain_products(weights, inputs)
    assert count * largest << inputs - 1 <= 2**15 - 1 < 2 * count * largest << inputs - 1


def test_one_bit_less_of_either_side_is_worth_the_same() -> None:
    products = [[chain_products(w, a) for w, a in ((8, 8), (7, 8), (6, 8), (5, 8))], [chain_products(8, a) for a in (8, 7, 6, 5)]]
    assert [[count.bit_length() for count in row] for row in products] == [[2, 3, 4, 5]] * 2


@pytest.mark.parametrize("shape", [LAYER, Shape(9, 9, 40, 9, 9, 24, 3, 3), Shape(7, 7, 100, 7, 7, 64), Shape(20, 20, 3, 10, 10, 16, 3, 3, 2, 2)])
@pytest.mark.parametrize(("weights", "inputs"), WIDTHS)
def test_the_model_counts_the_chains_that_kernels_run_with_the_worst_weights(shape: Shape, weights: int, inputs: int) -> None:
    """With the largest weight everywhere, as `timing/weights.py` plants it in one lane."""
    counted = chains(shape, weights, inputs)
    largest = largest_code(weights) - 1 if weights > 4 else -largest_code(weights)
    length = shape.taps // counted.segments
    matrix = np.zeros((8, counted.segments, -(-length // 8) * 8), np.int8)
    matrix[:, :, :length] = largest
    assert counted.chain == chain_of(matrix, (-(1 << inputs - 1), (1 << inputs - 1) - 1))


@pytest.mark.parametrize(
    ("rows", "row_bytes", "wanted"),
    [(3, 9, True), (7, 21, True), (10, 10, True), (3, 3, True), (3, 24, False), (3, 48, False), (1, 9, False), (5, 15, False)],
)
def test_windows_are_copied_row_behind_row_where_rows_alone_leave_lanes_empty(rows: int, row_bytes: int, wanted: bool) -> None:
    assert gathers(rows, row_bytes) is wanted


def test_a_copied_window_is_one_segment() -> None:
    first, later = chains(Shape(32, 32, 3, 32, 32, 16, 3, 3), 8, 8), chains(Shape(32, 32, 16, 32, 32, 16, 3, 3), 8, 8)
    assert (first.segments, first.steps) == (1, 4)
    assert (later.segments, later.steps) == (3, 6)
    assert MATRIX["rows of windows copied"](first.run) == 32 * 32 * 3
    assert MATRIX["rows of windows copied"](later.run) == 0


def test_fewer_bits_never_cost_more() -> None:
    for shape in (LAYER, Shape(9, 9, 40, 9, 9, 24, 3, 3)):
        for quantity in ("multiplications", "sums widened"):
            values = {widths: MATRIX[quantity](Run(shape, widths, CACHES, form="neon")) for widths in WIDTHS}
            for weights, inputs in WIDTHS:
                assert values[weights, inputs] <= min(values.get((weights + 1, inputs), np.inf), values.get((weights, inputs + 1), np.inf))
    depthwise = Shape(14, 14, 64, 14, 14, 64, 3, 3, 1, 1, 64)
    runs = [WINDOW["sums widened"](Run(depthwise, (w, 8), CACHES, form="neon")) / depthwise.outputs for w in (8, 7, 6, 5, 4)]
    assert runs == [5, 3, 2, 1, 1]


def test_longest_chain_prefers_all_then_equal_parts() -> None:
    assert longest_chain(3, 12, lambda count: True) == 36
    assert longest_chain(3, 16, lambda count: count <= 16) == 16
    assert longest_chain(3, 12, lambda count: count <= 8) == 6
    assert longest_chain(3, 9, lambda count: count <= 8) == 5
    assert longest_chain(3, 12, lambda count: False) == 0


def test_rows_at_some_widths_price_all_of_them() -> None:
    rows = []
    for size in (4, 8, 14, 20, 28):
        for channels in (16, 64, 200):
            for widths in ((8, 8), (6, 8), (4, 4)):
                shape = Shape(size, size, channels, size, size, channels, 3, 3)
                run = Run(shape, widths, CACHES, form="neon")
                cycles = 1.0 * MATRIX["multiplications"](run) + 1.5 * MATRIX["sums widened"](run) + 4 * MATRIX["outputs"](run)
                rows.append(CostRow("conv", shape, *widths, cycles, "modelled", "made up", "2026-01-01", "0"))
    fits = fit_rows(rows, CACHES, "neon")
    run = Run(Shape(10, 10, 96, 10, 10, 96, 3, 3), (7, 6), CACHES, form="neon")
    expected = 1.0 * MATRIX["multiplications"](run) + 1.5 * MATRIX["sums widened"](run) + 4 * MATRIX["outputs"](run)
    assert fits[OpKind.CONV, ALL_WIDTHS].cycles(run) == pytest.approx(expected, rel=1e-3)
    assert fits[OpKind.CONV, (8, 8)].prices == fits[OpKind.CONV, (4, 4)].prices
