"""Losses of two sites together, against trying every plan."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpqc.allocator import allocate
from mpqc.allocator.pairs import pair_loss
from mpqc.errors import PlanError
from mpqc.values.budget import Budget, Resource
from mpqc.values.sensitivities import Pair, Sensitivities
from tests.allocator.test_build import TABLE, Chip

WIDTHS = (2, 4, 8)
SITES = ("x", "w1", "h", "w2", "y")


def losses(seed: int) -> Sensitivities:
    rng = np.random.default_rng(seed)
    return Sensitivities("test", "test", {name: dict(zip(WIDTHS, sorted(rng.random(3))[::-1], strict=True)) for name in SITES})


def pairs(seed: int) -> tuple[Pair, ...]:
    rng = np.random.default_rng(seed + 100)
    joined = (("w1", "w2"), ("x", "w1"), ("h", "y"), ("h", "w2"))
    return tuple(Pair(a, b, {cell: float(rng.normal(0, 0.5)) for cell in itertools.product(WIDTHS, WIDTHS)}) for a, b in joined)


@pytest.mark.parametrize("seed", range(6))
def test_the_plan_is_the_best_of_all_with_pairs(seed: int) -> None:
    table, sensitivities, joined = TABLE, losses(seed), pairs(seed)
    budget = Budget(Resource.WEIGHT_BITS, 5.0)
    plan = allocate(table, sensitivities, Chip(), [budget], pairs=joined)

    def loss(bits: dict[str, int | None]) -> float:
        return sum(sensitivities.values[name][width] for name, width in bits.items() if width) + pair_loss(joined, bits)

    trials = [
        dict(zip(SITES, (x, w1, h, w2, h), strict=True))
        for x, w1, h, w2 in itertools.product(WIDTHS, repeat=4)
        if 4000 * w1 + 1600 * w2 <= 5.0 * 5600
    ]
    assert loss({name: plan.bits(name) for name in SITES}) == pytest.approx(min(map(loss, trials)))
    assert plan.proof.objective == pytest.approx(min(map(loss, trials)))
    assert plan.proof.status == "optimal"


def test_pairs_that_make_no_sense_are_refused_by_name() -> None:
    for pair, name in ((Pair("w1", "w9", {}), "w9"), (Pair("w1", "w2", {(2, 2): float("nan")}), "w1, w2")):
        with pytest.raises(PlanError, match=name):
            allocate(TABLE, losses(0), Chip(), [], pairs=[pair])
