"""Random allocation problems, small enough for brute force, and what must hold of their solutions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import inf, nextafter

import numpy as np

from mpqc.allocator import Cost, Group, Peak, Problem, Table, solve
from mpqc.allocator.problem import limit_of
from mpqc.allocator.solution import OPTIMAL_GAP, Solution, round_up
from mpqc.errors import BudgetInfeasibleError

Choice = tuple[int, ...]
Bound = Cost | Peak


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


def _tables(rng: np.random.Generator, sizes: list[int], numbers: Callable[..., np.ndarray]) -> list[Table]:
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
    """`free` with limits at random ranks of what its choices use: exactly one's use, or one unit or one float below or above it."""
    legal = existing(free)
    if not legal:
        return free

    def limit(bound: Bound) -> float:
        values = sorted(bound.exact(at) for at in legal)
        value = round_up(values[int(rng.beta(1, 2.5) * (len(values) - 1))])
        nudges = (value, value, value - 1, nextafter(value, -inf), nextafter(value, inf), value * (1 - 1e-16), value * 0.98, value + 1e-9)
        return float(nudges[int(rng.integers(len(nudges)))])

    costs = tuple(replace(cost, limit=limit(cost) if rng.integers(5) else None) for cost in free.costs)
    peaks = tuple(replace(peak, limit=limit(peak)) for peak in free.peaks)
    return replace(free, costs=costs, peaks=peaks)


def existing(problem: Problem) -> list[Choice]:
    """Every choice whose combinations exist, whatever the limits."""
    return [at for at in itertools.product(*problem.allowed) if problem.exists(at)]


def faults(problem: Problem, seconds: float = 10.0) -> list[str]:
    """What is wrong with the solution of `problem`, or with its refusal, by brute force; empty where nothing is."""
    legal = existing(problem)
    if not legal:
        return []
    admitted = [at for at in legal if problem.admits(at)]
    try:
        solution = solve(problem, seconds=seconds)
    except BudgetInfeasibleError as error:
        return ["refused, but a choice fits"] if admitted else _refusal_faults(problem, legal, error)
    best = min((problem.loss(at) for at in admitted), default=None)
    return ["solved, but no choice fits"] if best is None else _solution_faults(problem, solution, best)


def _solution_faults(problem: Problem, solution: Solution, best: Fraction) -> list[str]:
    slack = Fraction(OPTIMAL_GAP) * abs(best)
    checks = {
        "outside its limits": problem.admits(solution.at),
        "not called optimal": solution.status == "optimal",
        "not the best": problem.loss(solution.at) <= best + slack,
        "bound above the best": Fraction(solution.bound) <= Fraction(float(best)),
        "a use above its limit": all(solution.uses[bound.name] <= bound.limit for bound in problem.limited),
    }
    return [fault for fault, holds in checks.items() if not holds]


def _refusal_faults(problem: Problem, legal: list[Choice], error: BudgetInfeasibleError) -> list[str]:
    """The least values that the error tells are those of brute force, and its plan attains one of them inside what holds."""
    found: list[str] = []
    for bound in problem.limited:
        others = [other for other in problem.limited if other is not bound]
        inside = [at for at in legal if all(other.exact(at) <= limit_of(other) for other in others)]
        if error.least[bound.name] != _least(bound, legal):
            found.append(f"{bound.name}: least {error.least[bound.name]!r}, by brute force {_least(bound, legal)!r}")
        if others and error.together.get(bound.name) != (_least(bound, inside) if inside else None):
            found.append(f"{bound.name}: least together {error.together.get(bound.name)!r}")
        if limit_of(bound) < min(bound.exact(at) for at in legal) and f"{bound.name} <= " not in error.what:
            found.append(f"{bound.name} is impossible and not named")
    return found + _way_out_faults(problem, error)


def _least(bound: Bound, choices: list[Choice]) -> float:
    return round_up(min(bound.exact(at) for at in choices))


def _way_out_faults(problem: Problem, error: BudgetInfeasibleError) -> list[str]:
    """The plan must attain a value that the error tells, and the problem with that value as its limit must be solved."""
    plan = error.plan
    if not isinstance(plan, Solution):
        return ["no plan is shown"]
    told = [name for bound in problem.limited if plan.uses[name := bound.name] in (error.least[name], error.together.get(name))]
    if not told:
        return ["the plan attains no value told"]
    first = next((bound.name for bound in problem.limited if f"{bound.name} <= " in error.what), "")
    alone = error.together.get(first, error.least[first])
    eased = replace(
        problem,
        costs=tuple(_eased(cost, first, alone, first in error.together) for cost in problem.costs),
        peaks=tuple(_eased(peak, first, alone, first in error.together) for peak in problem.peaks),
    )
    try:
        solve(eased)
    except BudgetInfeasibleError:
        return [f"the least told of {first} cannot be met"]
    return []


def _eased(bound: Bound, name: str, limit: float, held: bool) -> Bound:
    return replace(bound, limit=limit if bound.name == name else bound.limit if held else None)
