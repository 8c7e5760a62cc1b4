"""Solve an allocation problem: the best choices inside the limits, and the proof."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mpqc.allocator.infeasible import refuse
from mpqc.allocator.model import Effort, Outcome
from mpqc.allocator.problem import Label, Problem
from mpqc.allocator.search import minimum
from mpqc.allocator.solution import Solution, solution_of
from mpqc.allocator.terms import terms_of

DETERMINISTIC_RATE = 0.5
"""Deterministic seconds granted for each second."""


def solve(
    problem: Problem, *, seconds: float = 10.0, seed: int = 0, workers: int = 2, hint: Mapping[str, Label] | None = None
) -> Solution:
    """The choices of least loss inside every limit, with a lower bound on the loss of any other.

    Limits hold by exact arithmetic on the numbers given. With one seed the answer is the same each time, whatever the number of
    workers, unless the wall clock (`seconds`) ends the search first; work is also bounded deterministically to avoid that.

    Raises:
        BudgetInfeasibleError: no choice satisfies the limits; names them, with the least value of each.
    """
    start = time.monotonic()
    effort = Effort(seconds, seconds * DETERMINISTIC_RATE, seed, workers)
    terms = terms_of(problem)
    outcome = minimum(terms, effort, hint=_numbers(problem, hint))
    if outcome.choice is None:
        raise refuse(problem, effort)
    if not problem.admits(outcome.choice):
        second = minimum(terms, effort, strict=True)
        if second.choice is None:
            raise refuse(problem, effort)
        outcome = Outcome(second.status, second.choice, max(outcome.bound, second.bound) if second.exact else outcome.bound)
    return solution_of(problem, outcome.choice, outcome.bound, time.monotonic() - start)


def _numbers(problem: Problem, hint: Mapping[str, Label] | None) -> tuple[int, ...] | None:
    """The hint as choice numbers; groups that it does not name take their last choice."""
    if hint is None:
        return None
    labels = ((group.choices, hint.get(group.name, group.choices[-1])) for group in problem.groups)
    return tuple(choices.index(label) if label in choices else len(choices) - 1 for choices, label in labels)
