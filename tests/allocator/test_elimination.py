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


def chain_of_ones(groups: int, choices: int) -> tuple[Elimination, dict[int, np.ndarray]]:
    """A chain whose neighbours cost 1 where they differ; the first may not take 0, the last pays 0.25 for it."""
    order = Elimination(groups, choices, [(at, at + 1) for at in range(groups - 1)])
    single = np.zeros((groups, choices))
    single[0, 0], single[-1, 0] = 9.0, 0.25
    return order, {1: single, 2: np.tile(1.0 - np.eye(choices), (groups - 1, 1, 1))}


def test_a_chain_by_hand() -> None:
    order, given = chain_of_ones(40, 3)
    kept = {arity: values.copy() for arity, values in given.items()}
    done = order.run(given)
    assert done.value == 0.0
    assert done.choice.tolist() == [1] * 40
    assert all((given[arity] == kept[arity]).all() for arity in kept)
    marginals = order.marginals(done)
    assert marginals[1][0].tolist() == [9.25, 0.0, 0.0]
    assert marginals[1][20].tolist() == [1.25, 0.0, 0.0]
    assert marginals[1][39].tolist() == [1.25, 0.0, 0.0]
    assert marginals[2][20].tolist() == [[1.25, 2.0, 2.0], [1.25, 0.0, 1.0], [1.25, 1.0, 0.0]]


def test_rounds_take_groups_of_least_degree_that_are_no_neighbours() -> None:
    chain = Elimination(5, 2, [(0, 1), (1, 2), (2, 3), (3, 4)])
    assert [(step.groups.tolist(), step.neighbours.tolist()) for step in chain.steps] == [
        ([0, 4], [[1], [3]]), ([2], [[1, 3]]), ([1], [[3]]), ([3], [[]]),
    ]  # fmt: skip
    assert (chain.given, chain.counts) == ({1: 5, 2: 4}, {1: 5, 2: 5})
    assert [chain.slots[scope] for scope in ((4,), (0, 1), (1, 3))] == [(1, 4), (2, 0), (2, 4)]
    wide = Elimination(5, 2, [(0, 1, 2), (2, 3), (3, 4)])
    assert [step.groups.tolist() for step in wide.steps] == [[4], [0], [1, 3], [2]]
    star = Elimination(21, 4, [(0, leaf) for leaf in range(1, 21)])  # 4^21 cells if the hub went first
    assert [step.groups.tolist() for step in star.steps] == [list(range(1, 21)), [0]]


def test_no_round_takes_a_table_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ends of a chain have one neighbour, the groups inside two: a table of 27 cells."""
    chain = [(at, at + 1) for at in range(4)]
    monkeypatch.setattr("mpqc.allocator.elimination.CELLS", 26)
    steps = Elimination(5, 3, chain).steps
    assert [step.groups.tolist() for step in steps] == [[0, 4], [1, 3], [2]]
    assert max(step.neighbours.shape[1] for step in steps) == 1


def test_tables_up_to_the_limit_are_eliminated(monkeypatch: pytest.MonkeyPatch) -> None:
    clique = list(itertools.combinations(range(4), 2))
    monkeypatch.setattr("mpqc.allocator.elimination.CELLS", 81)
    assert Elimination(4, 3, clique).steps
    monkeypatch.setattr("mpqc.allocator.elimination.CELLS", 80)
    with pytest.raises(TooWideError):
        Elimination(4, 3, clique)
