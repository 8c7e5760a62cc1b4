"""What the allocator hands back: the choices, and what is proved about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import inf, nextafter

from mpqc.allocator.problem import Label, Problem, written

OPTIMAL_GAP = 1e-7
"""Below this relative gap, which is what counting on a grid costs, a solution is called optimal."""


@dataclass(frozen=True)
class Solution:
    """One choice a group, inside every limit by exact arithmetic."""

    choice: Mapping[str, Label]
    """group name -> the choice's label"""
    at: tuple[int, ...]
    """the same as choice numbers, in the order of the problem's groups (a hint for a neighbouring problem)"""
    objective: float
    bound: float
    """No admissible choice has a smaller objective than this."""
    gap: float
    """(objective - bound) / objective; 0 when optimal"""
    status: str
    """optimal | feasible (at the deadline)"""
    seconds: float
    uses: Mapping[str, float]
    """cost or peak name -> what the choices use of it, rounded up"""


def solution_of(problem: Problem, at: tuple[int, ...], bound: float, seconds: float) -> Solution:
    """The Solution for choice numbers `at`, with the objective computed exactly and a bound that is valid for it."""
    objective = float(problem.loss(at))
    bound = min(bound, objective)
    gap = (objective - bound) / abs(objective) if objective else (0.0 if bound == objective else 1.0)
    optimal = gap <= OPTIMAL_GAP
    names = {group.name: group.choices[number] for group, number in zip(problem.groups, at, strict=True)}
    uses = {name: round_up(use) for name, use in problem.uses(at).items()}
    return Solution(names, at, objective, bound, 0.0 if optimal else gap, "optimal" if optimal else "feasible", seconds, uses)


def round_up(value: Fraction) -> float:
    """The smallest float whose decimal text is not below `value`: as a limit, it admits what used it."""
    nearest = float(value)
    return nearest if written(nearest) >= value else nextafter(nearest, inf)
