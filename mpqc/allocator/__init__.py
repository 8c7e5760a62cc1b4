"""Exact bit allocation with OR-Tools CP-SAT: one choice a site or sharing group inside hard budgets."""

from mpqc.allocator.build import allocate
from mpqc.allocator.given import evaluate
from mpqc.allocator.problem import Cost, Group, Peak, Problem, Table
from mpqc.allocator.solution import Solution
from mpqc.allocator.solver import solve
from mpqc.allocator.sweep import Point, pareto

__all__ = ["Cost", "Group", "Peak", "Point", "Problem", "Solution", "Table", "allocate", "evaluate", "pareto", "solve"]
