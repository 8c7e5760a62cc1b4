"""Elimination against enumeration: minimum, choices that attain it, and every min-marginal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpqc.allocator.elimination import Elimination, TooWideError
from mpqc.allocator.terms import Scope


def random_scopes(rng: np.random.Generator, groups: int) -> set[Scope]:
    """Up to seven scopes of two or three groups."""
    sizes = [min(groups, int(rng.integers(2, 4))) for _ in range(int(rng.integers(0, 8)))]
    return {tuple(sorted(rng.choice(groups, size, replace=False).tolist())) for size in sizes if size > 1}


@pytest.mark.parametrize("seed", range(60))
def test_equals_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups, choices = int(rng.integers(1, 7)), 3
    order = Elimination(groups, choices, random_scopes(rng, groups))
    given = {arity: rng.normal(0, 1, (count, *(choices,) * arity)) for arity, count in order.given.items()}
    slots = {scope: slot for scope, slot in order.slots.items() if slot[1] < order.given.get(slot[0], 0)}
    every = list(itertools.product(range(choices), repeat=groups))
    sums = np.array([sum(given[arity][(slot, *(x[group] for group in scope))] for scope, (arity, slot) in slots.items()) for x in every])

    done = order.run(given)
    assert done.value == pytest.approx(sums.min(), abs=1e-12)
    assert every[int(sums.argmin())] == tuple(done.choice)
    marginals = order.marginals(done)
    for scope, (arity, slot) in slots.items():
        for cell in itertools.product(range(choices), repeat=arity):
            taken = [total for x, total in zip(every, sums, strict=True) if tuple(x[group] for group in scope) == cell]
            assert marginals[arity][(slot, *cell)] == pytest.approx(min(taken), abs=1e-12)


def test_a_long_chain_takes_few_rounds() -> None:
    order = Elimination(1000, 4, [(at, at + 1) for at in range(999)])
    assert len(order.steps) < 40


def test_a_clique_that_is_too_wide_is_named() -> None:
    with pytest.raises(TooWideError) as caught:
        Elimination(14, 9, itertools.combinations(range(12), 2))
    assert caught.value.core <= set(range(14))
    assert len(caught.value.core) >= 12
