"""Among equals the widest, unless a limit stands against it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpqc.allocator.problem import Cost, Group, Problem, Table
from mpqc.allocator.solver import solve

SIZES = np.array([2.0, 4.0, 8.0])


def problem(losses: tuple[tuple[float, ...], ...], limit: float | None) -> Problem:
    groups = tuple(Group(f"g{index}", (2, 4, 8), loss) for index, loss in enumerate(losses))
    return Problem(groups, (Cost("size", tuple(Table((index,), SIZES) for index in range(len(losses))), limit),))


def test_equal_losses_take_the_widest() -> None:
    assert solve(problem(((0.0, 0.0, 0.0), (3.0, 1.0, 1.0)), None)).choice == {"g0": 8, "g1": 8}


def test_a_budget_that_binds_is_kept() -> None:
    assert solve(problem(((0.0, 0.0, 0.0), (3.0, 1.0, 0.0)), 12.0)).choice == {"g0": 4, "g1": 8}


@pytest.mark.parametrize("seed", range(8))
def test_the_loss_is_the_least_and_nothing_wider_has_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = tuple(tuple(sorted(map(float, rng.integers(0, 3, 3)), reverse=True)) for _ in range(4))
    subject = problem(losses, 20.0)
    found = solve(subject)
    legal = [at for at in itertools.product(range(3), repeat=4) if subject.admits(at)]
    assert float(subject.loss(found.at)) == min(float(subject.loss(at)) for at in legal)
    for index in range(4):
        for wider in range(found.at[index] + 1, 3):
            changed = (*found.at[:index], wider, *found.at[index + 1 :])
            assert not subject.admits(changed) or subject.loss(changed) > subject.loss(found.at)
