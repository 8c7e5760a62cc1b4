"""The relaxation by hand: small problems whose bound, least losses and dropped terms are worked out on paper."""

from __future__ import annotations

import itertools
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from mpqc.allocator import Cost, Group, Problem, Table, relaxation
from mpqc.allocator.dual import Ascent
from mpqc.allocator.elimination import Elimination
from mpqc.allocator.field import Field
from mpqc.allocator.relaxation import relax, without
from mpqc.allocator.terms import Row, Terms, terms_of

SAVINGS = ((1.0, 0.0), (3.0, 0.0), (7.0, 4.0, 0.0))
"""Losses of three sites; each choice is 4 larger than the one before"""


def sites(limit: float | Fraction, *extra: Table) -> Problem:
    groups = tuple(Group(f"s{at}", tuple(range(len(loss))), loss) for at, loss in enumerate(SAVINGS))
    tables = tuple(Table((at,), 4.0 * np.arange(1, 1 + len(loss))) for at, loss in enumerate(SAVINGS))
    return Problem(groups, (Cost("size", (*tables, *extra), limit),))


@pytest.mark.parametrize(("limit", "best"), [(24, 1.0), (20, 4.0), (16, 8.0), (12, 11.0)])
def test_the_bound_is_near_the_best_and_never_above(limit: float, best: float) -> None:
    problem = sites(limit)
    relaxed = relax(terms_of(problem), problem.admits)
    assert best * 0.7 <= relaxed.bound <= best
    assert (relaxed.value, relaxed.infeasible) == (best, False)
    assert relaxed.incumbent is not None
    assert problem.admits(relaxed.incumbent)
    assert float(problem.loss(relaxed.incumbent)) == best


def test_the_bound_of_a_limit_between_two_plans() -> None:
    """A limit of 24 saves one step of 4, the cheapest: its loss is 1, and no price makes less of it."""
    relaxed = relax(terms_of(sites(24)), sites(24).admits)
    width = relaxed.place.choices
    assert relaxed.bound == pytest.approx(1.0, abs=1e-12)
    assert relaxed.least[0] == pytest.approx(1.0, abs=1e-12)
    assert relaxed.least[width + 1] == pytest.approx(1.0, abs=1e-12)
    assert all(relaxed.least[entry] > 1.0 + 1e-3 for entry in (1, width, 2 * width))


def test_no_entry_is_worth_more_than_its_best_plan() -> None:
    pair = Table((0, 2), np.array([[0.0, 3.0, 1.0], [2.0, 0.0, 5.0]]))
    problem = sites(23.5, pair)
    relaxed = relax(terms_of(problem), problem.admits)
    plans = [at for at in itertools.product(range(2), range(2), range(3)) if problem.admits(at)]
    for group, choice in ((g, c) for g, loss in enumerate(SAVINGS) for c in range(len(loss))):
        best = min((float(problem.loss(at)) for at in plans if at[group] == choice), default=np.inf)
        assert relaxed.bound <= relaxed.least[group * relaxed.place.choices + choice] + 1e-12 <= best + 2e-12


def test_what_rounding_can_add_is_taken_off() -> None:
    """4 roundings a scope off each sum, and the bound's margin twice: once for the bound, once for the sum with the entry taken."""
    place = SimpleNamespace(flatten=lambda tables: np.array(tables), scopes=range(64))
    order = SimpleNamespace(marginals=lambda best: [1.0, best])
    dual = SimpleNamespace(best=4.0, offset=0.0, margin=0.0)
    assert relaxation._least(place, order, dual).tolist() == [1 - 2.0**-44, 4 - 2.0**-42]  # type: ignore[arg-type]
    dual.offset, dual.margin = 8.0, 0.5
    assert relaxation._least(place, order, dual)[0] == pytest.approx(8.0)  # type: ignore[arg-type]


def test_the_prices_are_near_the_best() -> None:
    place = Field(terms_of(sites(17.5, Table((0, 2), np.array([[0.0, 3.1, 1.7], [2.3, 0.4, 5.9]])))))
    order = Elimination(place.groups, place.choices, place.terms.scopes)
    assert relax(place.terms, lambda _: True).bound == pytest.approx(Ascent(place, order).run(1000, 1e-13).bound, rel=1e-6)


def test_nothing_fits_is_said() -> None:
    problem = sites(11.5)
    relaxed = relax(terms_of(problem), problem.admits)
    assert (relaxed.infeasible, relaxed.incumbent, relaxed.value, relaxed.least.size) == (True, None, np.inf, 0)
    refused = relax(terms_of(sites(24)), lambda _: False)
    assert (refused.infeasible, refused.incumbent, refused.value) == (False, None, np.inf)


def started(monkeypatch: pytest.MonkeyPatch, groups: int, hint: tuple[int, ...] | None = None) -> list[int]:
    """The places, of twenty choices met, from which repair starts; the later ones are nearer to the best prices."""
    starts: list[int] = []

    def admissible(start: np.ndarray) -> np.ndarray | None:
        starts.append(int(start[0]))
        return start if start[0] % 2 else None

    monkeypatch.setattr(relaxation, "Repair", lambda place, prices: SimpleNamespace(admissible=admissible))
    met = range(20)
    losses, overs, points = [100.0 + at for at in met], [np.array([-float(at)]) for at in met], [np.array([at]) for at in met]
    ascent = SimpleNamespace(losses=losses, overs=overs, points=points)
    place = SimpleNamespace(groups=groups, objective=lambda found: float(found[0]))
    found = relaxation._repaired(place, ascent, SimpleNamespace(prices=np.array([2.0])), lambda at: at[0] > 12, hint)  # type: ignore[arg-type]
    assert found is not None
    assert found[0] == min(start for start in starts if start % 2 and start > 12)
    return starts


@pytest.mark.parametrize(("groups", "count"), [(2, 12), (750, 12), (751, 11), (900, 10), (1000, 9), (2250, 4), (2251, 3), (20_000, 3)])
def test_repair_starts_from_the_nearest(monkeypatch: pytest.MonkeyPatch, groups: int, count: int) -> None:
    assert started(monkeypatch, groups) == list(range(19, 19 - count, -1))


def test_a_hint_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started(monkeypatch, 20_000, (13,)) == [13, 19, 18, 17]


def four_that_interact(losses: dict[tuple[int, int], float]) -> Terms:
    """Four sites, each pair with a cost of spread 1 to 6 of a limit, and pairs that `losses` names with a loss of that spread."""
    pairs = list(itertools.combinations(range(4), 2))
    cost = Cost("time", tuple(Table(pair, np.array([[0.0, at + 1.0], [0.0, 0.0]])) for at, pair in enumerate(pairs)), 5.0)
    shared = tuple(Table(pair, np.array([[0.0, 0.0], [spread, 0.0]])) for pair, spread in losses.items())
    return terms_of(Problem(tuple(Group(f"s{at}", (4, 8), (1.0, 0.0)) for at in range(4)), (cost,), interactions=shared))


@pytest.mark.parametrize(
    ("losses", "cells", "share", "gone"),
    [
        ({}, 15, None, {(0, 1)}),  # a clique of four has 16 cells
        ({}, 7, None, {(0, 1), (0, 2), (1, 2)}),  # a triangle has 8
        ({}, 15, 0.5, {(0, 1), (0, 2), (0, 3)}),
        ({(0, 1): 9.0}, 15, None, {(0, 2)}),
        ({(0, 1): 9.0, (2, 3): 0.5}, 15, None, {(0, 2)}),
    ],
)
def test_the_weakest_terms_go_first(
    monkeypatch: pytest.MonkeyPatch, losses: dict[tuple[int, int], float], cells: int, share: float | None, gone: set[tuple[int, int]]
) -> None:
    monkeypatch.setattr("mpqc.allocator.elimination.CELLS", cells)
    monkeypatch.setattr(relaxation, "DROP_SHARE", relaxation.DROP_SHARE if share is None else share)
    terms = four_that_interact(losses)
    loose, order = relaxation._eliminable(terms)
    assert set(terms.scopes) - set(loose.scopes) == gone
    assert (order.groups, order.choices) == (4, 2)


def test_one_term_goes_where_the_share_is_less_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpqc.allocator.elimination.CELLS", 7)
    mask = np.ones((2, 2), bool)
    terms = Terms((2, 2, 2), {(0, 2): np.eye(2)}, (), {(0, 1): mask, (0, 2): mask, (1, 2): mask})
    assert relaxation._eliminable(terms)[0].scopes == [(0, 2), (1, 2)]


def test_terms_that_can_be_eliminated_stay_as_they_are() -> None:
    terms = four_that_interact({})
    assert relaxation._eliminable(terms)[0] is terms
    assert relaxation._eliminable(terms_of(sites(20, Table((0, 2), np.ones((2, 3))))))[1].choices == 3


def test_weights_are_relative_to_rows_and_losses() -> None:
    terms = four_that_interact({(0, 1): 9.0})
    magnitude = 1 + 2 + 3 + 4 + 5 + 6
    assert relaxation._weight(terms, (1, 2)) == 4 / magnitude
    assert relaxation._weight(terms, (0, 1)) == 1 / magnitude + 9 / (9 + 4)
    free = Terms((2, 2), {}, (Row("nothing", Fraction(1), 0.0, (), {(0, 1): np.zeros((2, 2))}),), {(0, 1): np.ones((2, 2), bool)})
    assert relaxation._weight(free, (0, 1)) == 0.0
    small = Row("small", Fraction(1), 0.0, (), {(0, 1): np.array([[0.0, 2.0**-20], [0.0, 0.0]])})
    assert relaxation._weight(Terms((2, 2), {}, (small,), {}), (0, 1)) == 1.0
    lossless = Terms((2, 2), {(0, 1): np.zeros((2, 2))}, (), {(0, 1): np.ones((2, 2), bool)})
    assert relaxation._weight(lossless, (0, 1)) == 0.0


def test_a_dropped_term_leaves_what_each_group_costs_at_least() -> None:
    part = np.array([[1.0, 5.0, 3.0], [2.0, 4.0, 9.0]])
    alone = np.array([10.0, 20.0])
    kept = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    row = Row("size", Fraction(9), 0.0, (), {(0, 1): part, (0,): alone, (1, 2): kept})
    legal = {scope: np.ones(shape, bool) for scope, shape in {(0,): 2, (0, 1): (2, 3), (1, 2): (3, 2)}.items()}
    loose = without(Terms((2, 3, 2), {(0, 1): part}, (row,), legal), frozenset({(0, 1)}))
    assert {scope: values.tolist() for scope, values in loose.loss.items()} == {(0,): [1.0, 2.0], (1,): [0.0, 2.0, 2.0]}
    assert {scope: values.tolist() for scope, values in loose.rows[0].parts.items()} == {
        (0,): [11.0, 22.0],
        (1, 2): kept.tolist(),
        (1,): [0.0, 2.0, 2.0],
    }
    assert set(loose.legal) == {(0,), (1, 2)}
    assert alone.tolist() == [10.0, 20.0]


def test_a_dropped_term_of_three_groups() -> None:
    part = np.arange(8.0).reshape(2, 2, 2)
    loose = without(Terms((2, 2, 2), {(0, 1, 2): part}, (), {}), frozenset({(0, 1, 2)}))
    assert {scope: values.tolist() for scope, values in loose.loss.items()} == {(0,): [0.0, 4.0], (1,): [0.0, 2.0], (2,): [0.0, 1.0]}


def test_entries_of_dropped_scopes_are_only_above_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpqc.allocator.elimination.CELLS", 15)
    terms = four_that_interact({})
    relaxed = relax(terms, lambda _: True)
    assert (relaxed.least[relaxed.place.span((0, 1))] == relaxed.bound).all()
    assert len(relaxed.least) == 4 * 2 + 6 * 4
    assert relaxed.least[relaxed.place.span((2, 3))].max() > relaxed.bound + 0.1
