"""The CP-SAT model: one Boolean a choice, one a combination where a term depends on several groups.

A combination's Booleans add up to the Booleans of its choices along every axis (the local polytope): the linear relaxation
is then exact on trees, where a product linearised by itself ("both chosen" >= a + b - 1) is weak.
CP-SAT counts in integers, so every number is put on a grid. A *relaxed* model rounds costs down and limits up: what it
proves impossible is impossible. A *strict* one counts on a grid so fine that every number is on it: what it finds fits, and what
it proves is so.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, frexp, inf, ldexp
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from mpqc.allocator.terms import Row, Scope, Terms

GRID_BITS = 36
"""Sums are counted in about 2^36 steps: rounding is below 1e-7 of a sum of 3,000 terms, and sums are far from overflow."""
LIMB_BITS = 20
LIMB = 1 << LIMB_BITS
ROUNDING = 2.0**-8
"""Of a grid step: more than the float error of adding tables up, so that rounding down is safe."""


POLL_SECONDS = 0.02
"""Between two looks at the clock"""


@dataclass(frozen=True)
class Effort:
    """How long CP-SAT may search. The result is the same on any machine unless `seconds` ends the search."""

    seconds: float
    """Of this process's processor time"""
    deterministic: float
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What CP-SAT said; `choice` None when it found nothing, `bound` in the units of the objective."""

    status: str
    choice: tuple[int, ...] | None
    bound: float
    exact: bool = False
    """Whether nothing was rounded in the rows."""


def grid(magnitude: float) -> float:
    """A power of two u such that `magnitude` is at most 2^GRID_BITS u; for 0 next to nothing, as rounding down may take a step a term."""
    return ldexp(1.0, max(frexp(magnitude)[1] - GRID_BITS, -900)) if magnitude > 0 else ldexp(1.0, -900)


def row_grid(row: Row) -> float:
    """The grid step of a row: 1 where it holds integers that are small enough, and then nothing is rounded."""
    unit = grid(max(row.magnitude, abs(float(row.limit))))
    return 1.0 if row.whole else unit


class Model:
    """Variables and constraints of `terms`; then `minimise` one objective."""

    def __init__(self, terms: Terms, *, strict: bool) -> None:
        self.terms, self.strict = terms, strict
        self.exact = strict or all(row.whole for row in terms.rows)
        self.cp = cp_model.CpModel()
        self.alive = [np.flatnonzero(terms.legal[(group,)]).tolist() for group in range(len(terms.sizes))]
        self.chosen = [self._choices(group) for group in range(len(terms.sizes))]
        self.joint: list[tuple[Scope, tuple[int, ...], cp_model.IntVar]] = []
        """Combinations that have a Boolean of their own"""
        self.literals: dict[Scope, list[tuple[tuple[int, ...], cp_model.IntVar | int]]] = {}
        for scope in terms.legal:
            self.literals[scope] = self._combinations(scope)
        for row in terms.rows:
            self._add_row(row)

    def _choices(self, group: int) -> dict[int, cp_model.IntVar | int]:
        alive = self.alive[group]
        if not alive:
            self.cp.add_bool_or([])
        if len(alive) <= 1:
            return dict.fromkeys(alive, 1)
        variables = {choice: self.cp.new_bool_var(f"{group}:{choice}") for choice in alive}
        self.cp.add_exactly_one(variables.values())
        return dict(variables)

    def _combinations(self, scope: Scope) -> list[tuple[tuple[int, ...], cp_model.IntVar | int]]:
        """Each combination of `scope` that may be chosen, with the Boolean (or 1) that says that it is."""
        legal = self.terms.legal[scope]
        alive = np.ix_(*(self.alive[group] for group in scope))
        shape = np.zeros(legal.shape, dtype=bool)
        shape[alive] = legal[alive]
        cells = [tuple(int(at) for at in cell) for cell in np.argwhere(shape)]
        open_axes = [axis for axis, group in enumerate(scope) if len(self.alive[group]) > 1]
        if len(open_axes) == 0:
            if not cells:
                self.cp.add_bool_or([])
            return [(cell, 1) for cell in cells]
        if len(open_axes) == 1:
            return self._slice(scope, cells, open_axes[0])
        return self._joint(scope, cells, open_axes)

    def _slice(self, scope: Scope, cells: list[tuple[int, ...]], axis: int) -> list[tuple[tuple[int, ...], cp_model.IntVar | int]]:
        chosen = self.chosen[scope[axis]]
        possible = {cell[axis] for cell in cells}
        for choice, literal in chosen.items():
            if choice not in possible:
                self.cp.add(literal == 0)
        return [(cell, chosen[cell[axis]]) for cell in cells]

    def _joint(self, scope: Scope, cells: list[tuple[int, ...]], open_axes: list[int]) -> list[tuple[tuple[int, ...], cp_model.IntVar | int]]:
        variables = {cell: self.cp.new_bool_var(f"{scope}:{cell}") for cell in cells}
        self.joint += [(scope, cell, variable) for cell, variable in variables.items()]
        self.cp.add_exactly_one(variables.values())
        for axis in open_axes:
            for choice, literal in self.chosen[scope[axis]].items():
                members = [variables[cell] for cell in cells if cell[axis] == choice]
                self.cp.add_exactly_one([*members, ~literal])
        return list(variables.items())

    def _sum(self, parts: dict[Scope, np.ndarray], unit: float, *, whole: bool = False) -> tuple[cp_model.LinearExprT, int]:
        """The grid sum of `parts`, each value rounded down, and its constant."""
        slack = 0.0 if whole else ROUNDING
        coefficients: dict[int, int] = {}
        by_index: dict[int, cp_model.IntVar] = {}
        constant = 0
        for scope, part in parts.items():
            for cell, literal in self.literals[scope]:
                value = floor(float(part[cell]) / unit - slack)
                if isinstance(literal, int):
                    constant += value
                else:
                    by_index[literal.index] = literal
                    coefficients[literal.index] = coefficients.get(literal.index, 0) + value
        used = [(by_index[index], value) for index, value in coefficients.items() if value]
        return cp_model.LinearExpr.weighted_sum([v for v, _ in used], [c for _, c in used]), constant

    def _add_row(self, row: Row) -> None:
        if self.strict and not row.whole:
            self._add_exact(row)
            return
        unit = row_grid(row)
        expression, constant = self._sum(row.parts, unit, whole=row.whole)
        limit = floor(row.room) if row.whole else ceil(row.room / Fraction(unit))
        self.cp.add(expression <= limit - constant)

    def _add_exact(self, row: Row) -> None:
        """The row counted so finely that every value is on the grid: digits of LIMB_BITS, one constraint a digit, carries between them."""
        terms = [(literal, Fraction(float(values[cell]))) for scope, values in row.terms for cell, literal in self.literals[scope]]
        unit = Fraction(row_grid(row))
        limbs = max((_limbs(unit, value) for _, value in terms), default=1)
        fine = unit / LIMB**limbs
        counted = [(literal, int(value / fine)) for literal, value in terms]
        limit = floor(row.room / fine) - sum(value for literal, value in counted if isinstance(literal, int))
        variables = [(literal, value) for literal, value in counted if not isinstance(literal, int)]
        self._add_digits([literal for literal, _ in variables], [value for _, value in variables], limit, limbs)

    def _add_digits(self, literals: list[cp_model.IntVar], values: list[int], limit: int, limbs: int) -> None:
        carried = self.cp.new_constant(0)
        for _ in range(limbs):
            carry = self.cp.new_int_var(0, len(literals) + 2, "carry")
            low = cp_model.LinearExpr.weighted_sum(literals, [value % LIMB for value in values])
            self.cp.add(low + carried - LIMB * carry <= limit % LIMB)
            carried, values, limit = carry, [value // LIMB for value in values], limit // LIMB
        self.cp.add(cp_model.LinearExpr.weighted_sum(literals, values) + carried <= limit)

    def minimise(
        self, parts: dict[Scope, np.ndarray], unit: float, effort: Effort, hint: tuple[int, ...] | None = None, *, whole: bool = False
    ) -> Outcome:
        """Minimise the sum of `parts` counted in `unit` (rounded down, unless `whole`). The bound is valid for the unrounded sum."""
        expression, constant = self._sum(parts, unit, whole=whole)
        self.cp.minimize(expression)
        if hint is not None:
            self._add_hint(hint)
        return self._search(unit, constant, effort)

    def minimise_largest(self, moments: list[dict[Scope, np.ndarray]], unit: float, effort: Effort, *, whole: bool = False) -> Outcome:
        """Minimise the largest of several sums, counted in `unit` (rounded down, unless `whole`)."""
        sums = [self._sum(parts, unit, whole=whole) for parts in moments]
        largest = self.cp.new_int_var(0, 2 << GRID_BITS, "largest")
        for expression, constant in sums:
            self.cp.add(expression + constant <= largest)
        self.cp.minimize(largest)
        return self._search(unit, 0, effort)

    def _search(self, unit: float, constant: int, effort: Effort) -> Outcome:
        solver = cp_model.CpSolver()
        _set(solver.parameters, effort)
        status = _solved(solver, self.cp, effort.seconds)
        if status == cp_model.MODEL_INVALID:
            raise AssertionError(self.cp.validate())
        if status == cp_model.INFEASIBLE:
            return Outcome("infeasible", None, inf, self.exact and self.strict)
        bound = (solver.best_objective_bound + constant) * unit
        if status == cp_model.UNKNOWN:
            return Outcome("unknown", None, bound)
        choice = tuple(self._chosen(solver, chosen) for chosen in self.chosen)
        return Outcome("optimal" if status == cp_model.OPTIMAL else "feasible", choice, bound, self.exact and self.strict)

    def _add_hint(self, hint: tuple[int, ...]) -> None:
        for scope, cell, variable in self.joint:
            self.cp.add_hint(variable, all(hint[group] == at for group, at in zip(scope, cell, strict=True)))
        for group, chosen in enumerate(self.chosen):
            for choice, literal in chosen.items():
                if not isinstance(literal, int):
                    self.cp.add_hint(literal, hint[group] == choice)

    @staticmethod
    def _chosen(solver: cp_model.CpSolver, chosen: dict[int, cp_model.IntVar | int]) -> int:
        return next(choice for choice, literal in chosen.items() if isinstance(literal, int) or solver.value(literal))


def _limbs(unit: Fraction, value: Fraction) -> int:
    """Digits below `unit` (a power of two) that it takes to write `value` without rounding."""
    below = (value / unit).denominator.bit_length() - 1
    return -(-below // LIMB_BITS)


def _solved(solver: cp_model.CpSolver, cp: cp_model.CpModel, seconds: float) -> Any:
    """The status of solving `cp`, on a thread: Ctrl-C reaches Python only between calls. It stops the search and is raised on.

    So does the end of the process's time, `seconds`: CP-SAT itself looks at the wall clock alone, which a busy machine lets run.
    """
    end = time.process_time() + seconds
    with ThreadPoolExecutor(1) as pool:
        search = pool.submit(solver.solve, cp)
        try:
            while not wait([search], POLL_SECONDS).done:
                if time.process_time() > end:
                    solver.stop_search()
            return search.result()
        except KeyboardInterrupt:
            solver.stop_search()
            raise


def _set(parameters: Any, effort: Effort) -> None:
    """One worker: its search does not depend on timing, and it was faster than interleaved workers on every size tried.

    No presolve: that of CP-SAT 9.15 lost solutions of models with coefficients near 2^38 (tests/allocator/test_bounds.py has one),
    and what comes here has been reduced already. No cuts: without them proofs of 300 sites with edges took half the time.
    """
    parameters.num_workers = 1
    parameters.random_seed = effort.seed
    parameters.max_deterministic_time = effort.deterministic
    parameters.linearization_level = 2
    parameters.cp_model_presolve = False
    parameters.cut_level = 0
    parameters.catch_sigint_signal = False  # CP-SAT would take Ctrl-C for `good enough` and the compile would go on
