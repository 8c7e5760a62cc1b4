"""The solver against brute force on small random tables."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpqc.allocator import Cost, Group, Peak, Problem, Table, solve
from mpqc.errors import BudgetInfeasibleError


def random_problem(seed: int) -> Problem:
    """2-5 groups of 1-4 choices, 1-3 costs with one- and two-group tables, maybe a peak, interactions and a fixed choice."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 6))
    sizes = [int(rng.integers(1, 5)) for _ in range(count)]
    whole = bool(rng.integers(2))

    def numbers(*shape: int) -> np.ndarray:
        return rng.integers(0, 20, shape).astype(float) if whole else rng.exponential(7.3, shape)

    groups = tuple(Group(f"g{i}", tuple(range(2, 2 + n)), tuple(map(float, numbers(n)))) for i, n in enumerate(sizes))
    costs = tuple(Cost(f"c{r}", tuple(_tables(rng, sizes, numbers)), None, float(rng.integers(3))) for r in range(int(rng.integers(1, 4))))
    moments = tuple(tuple(Table((g,), numbers(sizes[g])) for g in _subset(rng, count)) for _ in range(int(rng.integers(0, 4))))
    peaks = (Peak("live", moments),) if moments else ()
    interactions = (Table((0, 1), rng.normal(0, 3, (sizes[0], sizes[1]))),) if rng.integers(3) == 0 else ()
    fixed = {"g0": 2} if rng.integers(5) == 0 else {}
    free = Problem(groups, costs, peaks, interactions, fixed)
    return limited(free, rng)


def _subset(rng: np.random.Generator, count: int) -> list[int]:
    return sorted(rng.choice(count, size=int(rng.integers(1, count + 1)), replace=False).tolist())


def _tables(rng: np.random.Generator, sizes: list[int], numbers) -> list[Table]:
    tables = [Table((g,), numbers(n)) for g, n in enumerate(sizes) if rng.integers(4)]
    for first, second in itertools.permutations(range(len(sizes)), 2):
        if rng.integers(5) == 0:
            values = numbers(sizes[first], sizes[second])
            values[rng.random(values.shape) < 0.05] = np.inf
            tables.append(Table((first, second), values))
    if len(sizes) > 2 and rng.integers(4) == 0:
        tables.append(Table((2, 0, 1), numbers(sizes[2], sizes[0], sizes[1])))
    return tables


def limited(free: Problem, rng: np.random.Generator) -> Problem:
    """`free` with limits at random ranks of what its choices use: sometimes exactly one's use, sometimes impossible."""
    legal = [at for at in itertools.product(*free.allowed) if free.exists(at)]
    if not legal:
        return free

    def limit(bound: Cost | Peak) -> float:
        values = sorted(bound.exact(at) for at in legal)
        value = float(values[int(rng.beta(1, 2.5) * (len(values) - 1))])
        return value * (0.98 if rng.integers(6) == 0 else 1.0)

    costs = tuple(Cost(c.name, c.tables, limit(c) if rng.integers(5) else None, c.constant) for c in free.costs)
    peaks = tuple(Peak(p.name, p.moments, limit(p)) for p in free.peaks)
    return Problem(free.groups, costs, peaks, free.interactions, free.fixed)


def brute_force(problem: Problem) -> Fraction | None:
    """The least objective over every admissible choice."""
    admissible = (at for at in itertools.product(*problem.allowed) if problem.admits(at))
    return min((problem.loss(at) for at in admissible), default=None)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_equals_brute_force(seed: int) -> None:
    problem = random_problem(seed)
    legal = [at for at in itertools.product(*problem.allowed) if problem.exists(at)]
    if not legal:
        return
    best = brute_force(problem)
    if best is None:
        check_refusal(problem, legal)
        return
    solution = solve(problem)
    assert problem.admits(solution.at)
    assert solution.status == "optimal"
    assert solution.objective == pytest.approx(float(best), rel=1e-7)
    assert solution.bound <= float(best)


def check_refusal(problem: Problem, legal: list[tuple[int, ...]]) -> None:
    """The least values that the error tells are those of brute force."""
    with pytest.raises(BudgetInfeasibleError) as caught:
        solve(problem)
    bounds = [bound for bound in (*problem.costs, *problem.peaks) if bound.limit is not None]
    for bound in bounds:
        assert caught.value.least[bound.name] == pytest.approx(float(min(bound.exact(at) for at in legal)), rel=1e-8)
        others = [other for other in bounds if other is not bound]
        inside = [at for at in legal if all(other.exact(at) <= Fraction(other.limit) for other in others)]
        if others and inside:
            assert caught.value.together[bound.name] == pytest.approx(float(min(bound.exact(at) for at in inside)), rel=1e-8)
        else:
            assert bound.name not in caught.value.together
