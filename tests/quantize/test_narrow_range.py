"""Weights that do without the least code of their type."""

from __future__ import annotations

import numpy as np
import pytest

from mpqc.numerics.integer import quantize
from mpqc.quantize.narrow_range import without_least_codes
from mpqc.values.qtype import QParams, QType


def grid(bits: int, scale: list[float], axis: int | None = 0) -> QParams:
    scales = np.array(scale if axis is not None else scale[0], np.float32)
    return QParams(QType(bits, axis), scales, np.zeros(scales.shape, np.int32))


@pytest.mark.parametrize("bits", [5, 6, 7, 8])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_the_least_code_becomes_the_next_one_and_nothing_else_changes(bits: int, axis: int | None) -> None:
    rng = np.random.default_rng(bits)
    grids = {"w": grid(bits, [0.013, 0.4, 7.0], axis)}
    scale = grids["w"].scale if axis is None else grids["w"].scale.reshape([-1 if a == axis else 1 for a in range(3)])
    weight = (rng.uniform(-1.3, 1.3, (3, 3, 40)) * (1 << (bits - 1)) * scale).astype(np.float32)
    before, after = quantize(weight, grids["w"]), quantize(without_least_codes(grids, {"w": weight})["w"], grids["w"])
    least = -(1 << (bits - 1))
    assert (before == least).any()
    np.testing.assert_array_equal(after, np.where(before == least, least + 1, before))


def test_weights_without_it_and_narrow_types_stay() -> None:
    fine, full = np.array([[-127.0, 127.0]], np.float32), np.array([[-8.0, 7.0]], np.float32)
    assert without_least_codes({"a": grid(8, [1.0]), "b": grid(4, [1.0])}, {"a": fine, "b": full}) == {}
