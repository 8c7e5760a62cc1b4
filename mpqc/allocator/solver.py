"""Solve an allocation problem: the best choices inside the limits, and the proof."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mpqc.allocator.infeasible import refuse
from mpqc.allocator.model import Effort
from mpqc.allocator.problem import Label, Problem
from mpqc.allocator.search import minimum
from mpqc.allocator.solution import Solution, solution_of
from mpqc.allocator.terms import terms_of
from mpqc.allocator.widest import widest
from mpqc.errors import MpqcError

DETERMINISTIC_RATE = 0.4
"""CP-SAT's deterministic seconds granted for each second: it counts 0.3 to 0.5 of them a second on a free core."""


def solve(problem: Problem, *, seconds: float = 10.0, seed: int = 0, hint: Mapping[str, Label] | None = None) -> Solution:
    """The choices of least loss inside every limit, the widest among equals, with a lower bound on the loss of any other.

    Limits hold by exact arithmetic on the numbers given. With one seed the answer is the same each time, unless `seconds` of
    processor time end the search first: the search is one worker's (CP-SAT's default one beat interleaved
    workers tens of times over), and is also bounded in deterministic time. `hint` (choices of a similar problem) saves time.

    Raises:
        BudgetInfeasibleError: no choice satisfies the limits; names them, with the least value of each.
    """
    start = time.monotonic()
    effort = Effort(seconds, seconds * DETERMINISTIC_RATE, seed)
    outcome = minimum(terms_of(problem), effort, problem.admits, _numbers(problem, hint))
    if outcome.choice is None and outcome.status == "unknown":
        raise MpqcError(f"no plan found in {seconds:g} s of processor time", hint="allow more time or widen the budgets")
    if outcome.choice is None:
        raise refuse(problem, effort)
    return solution_of(problem, widest(problem, outcome.choice), outcome.bound, time.monotonic() - start)


def _numbers(problem: Problem, hint: Mapping[str, Label] | None) -> tuple[int, ...] | None:
    """The hint as choice numbers; groups that it does not name take their last choice."""
    if hint is None:
        return None
    labels = ((group.choices, hint.get(group.name, group.choices[-1])) for group in problem.groups)
    return tuple(choices.index(label) if label in choices else len(choices) - 1 for choices, label in labels)
