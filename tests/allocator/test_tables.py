"""Hand-made tables: optima worked out on paper at just feasible, just infeasible and impossible limits."""

from __future__ import annotations

import numpy as np
import pytest

from mpqc.allocator import Cost, Group, Peak, Problem, Table, pareto, solve
from mpqc.errors import BudgetInfeasibleError, PlanError, UsageError

BITS = (2, 4, 8)
LOSS = {"a": (9.0, 3.0, 0.0), "b": (4.0, 1.0, 0.0), "c": (20.0, 2.0, 0.0)}
SIZE = {"a": (20.0, 40.0, 80.0), "b": (100.0, 200.0, 400.0), "c": (10.0, 20.0, 40.0)}


def three_layers(**limits: float) -> Problem:
    """Three weights; size in bytes, time in microseconds (half the size, in tenths)."""
    groups = tuple(Group(name, BITS, loss) for name, loss in LOSS.items())
    size = tuple(Table((at,), np.array(SIZE[name])) for at, name in enumerate(LOSS))
    time = tuple(Table((at,), np.array(SIZE[name]) / 20) for at, name in enumerate(LOSS))
    return Problem(groups, (Cost("size", size, limits.get("size")), Cost("time", time, limits.get("time"))))


@pytest.mark.parametrize(
    ("limit", "bits", "objective"),
    [
        (520, (8, 8, 8), 0.0),
        (519, (8, 4, 8), 1.0),
        (320, (8, 4, 8), 1.0),
        (319, (8, 4, 4), 3.0),
        (299, (4, 4, 8), 4.0),
        (220, (8, 2, 8), 4.0),
        (219, (8, 2, 4), 6.0),
        (130, (2, 2, 2), 33.0),
    ],
)
def test_the_best_within_a_size(limit: float, bits: tuple[int, ...], objective: float) -> None:
    solution = solve(three_layers(size=limit))
    assert (solution.objective, solution.status, solution.gap) == (objective, "optimal", 0.0)
    assert solution.uses["size"] <= limit
    if limit != 299:  # (8, 2, 8) and (4, 4, 8) are equally good there
        assert tuple(solution.choice.values()) == bits


def test_two_limits_at_once() -> None:
    solution = solve(three_layers(size=320, time=14.99))
    assert solution.uses["time"] <= 14.99
    assert solution.objective == 4.0


def test_just_infeasible_names_the_budget_and_the_least() -> None:
    with pytest.raises(BudgetInfeasibleError, match=r"cannot meet size <= 129\.9 \(the least possible is 130\)") as caught:
        solve(three_layers(size=129.9, time=100.0))
    assert caught.value.least == {"size": 130.0, "time": 6.5}
    assert caught.value.exit_code == 3
    assert caught.value.plan.choice == {"a": 2, "b": 2, "c": 2}
    assert solve(three_layers(size=130.0, time=100.0)).objective == 33.0


def test_both_impossible_are_both_named() -> None:
    with pytest.raises(BudgetInfeasibleError, match=r"size <= 5 .* nor time <= 1 ") as caught:
        solve(three_layers(size=5, time=1))
    assert caught.value.together == {}


def opposed(**limits: float) -> Problem:
    """One site whose narrow choice is small and slow, its wide one large and fast."""
    tables = {"size": np.array([10.0, 20.0]), "time": np.array([5.0, 1.0])}
    costs = tuple(Cost(name, (Table((0,), values),), limits[name]) for name, values in tables.items())
    return Problem((Group("a", (4, 8), (1.0, 0.0)),), costs)


def test_limits_that_fail_only_together_say_so() -> None:
    with pytest.raises(BudgetInfeasibleError, match=r"size <= 15 and time <= 2 together: each alone can be met") as caught:
        solve(opposed(size=15, time=2))
    assert caught.value.least == {"size": 10.0, "time": 1.0}
    assert caught.value.together == {"size": 20.0, "time": 5.0}
    assert caught.value.plan.uses == {"size": 20.0, "time": 1.0}


def test_no_kernel_at_all_is_refused() -> None:
    with pytest.raises(PlanError, match="no combination"):
        solve(Problem((Group("a", (4,), (0.0,)),), (Cost("time", (Table((0,), np.array([np.inf])),), 5.0),)))


def test_a_combination_without_a_kernel_is_never_chosen() -> None:
    groups = (Group("w", (4, 8), (1.0, 0.0)), Group("x", (4, 8), (1.0, 0.0)))
    kernels = Cost("kernels", (Table((0, 1), np.array([[0.0, np.inf], [np.inf, 0.0]])),))
    size = Cost("size", (Table((0,), np.array([4.0, 8.0])),), 7.0)
    assert solve(Problem(groups, (kernels, size))).choice == {"w": 4, "x": 4}


def test_peak_counts_what_is_live_together() -> None:
    groups = tuple(Group(name, (4, 8), (1.0, 0.0)) for name in "abc")
    sizes = [Table((at,), np.array([4.0, 8.0])) for at in range(3)]
    moments = ((sizes[0], sizes[1]), (sizes[1], sizes[2]))
    assert solve(Problem(groups, peaks=(Peak("live", moments, 12.0),))).choice == {"a": 8, "b": 4, "c": 8}
    with pytest.raises(BudgetInfeasibleError) as caught:
        solve(Problem(groups, peaks=(Peak("live", moments, 7.5),)))
    assert caught.value.least == {"live": 8.0}


def test_a_limit_copied_from_a_use_is_met() -> None:
    time = Cost("time", tuple(Table((at,), np.array([0.1, 0.3])) for at in range(3)), None)
    groups = tuple(Group(name, (4, 8), (1.0, 0.0)) for name in "abc")
    free = solve(Problem(groups, (time,)))
    tight = Cost("time", time.tables, free.uses["time"])
    assert solve(Problem(groups, (tight,))).choice == free.choice


def test_pareto_is_monotone_and_keeps_the_order_given() -> None:
    limits = (130.0, 520.0, 219.0, 100.0, 320.0)
    points = pareto(three_layers(), "size", limits)
    assert [point.limit for point in points] == list(limits)
    assert [point.solution and point.solution.objective for point in points] == [33.0, 0.0, 6.0, None, 1.0]
    with pytest.raises(UsageError, match="energy"):
        pareto(three_layers(), "energy", limits)
