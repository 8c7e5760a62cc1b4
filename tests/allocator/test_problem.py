"""Validation by name."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from mpqc.allocator import Cost, Group, Peak, Problem, Table
from mpqc.allocator.problem import plain
from mpqc.errors import PlanError, TargetError

GROUP = Group("conv1.weight", (4, 8), (0.5, 0.1))


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, -0.1])
def test_a_loss_that_is_not_a_number_names_its_layer(loss: float) -> None:
    with pytest.raises(PlanError, match=r"conv7\.weight: sensitivity at 4"):
        Problem((GROUP, Group("conv7.weight", (4, 8), (loss, 0.0))))


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_cost_that_is_not_a_number_names_cost_and_layer(value: float) -> None:
    with pytest.raises(TargetError, match=r"latency: conv1\.weight"):
        Problem((GROUP,), (Cost("latency", (Table((0,), np.array([value, 1.0])),)),))


def test_an_infinite_interaction_is_refused() -> None:
    with pytest.raises(PlanError, match="interaction"):
        Problem((GROUP,), interactions=(Table((0,), np.array([math.inf, 1.0])),))


def test_shapes_and_indices_are_checked() -> None:
    with pytest.raises(TargetError, match="shape"):
        Problem((GROUP,), (Cost("size", (Table((0,), np.zeros(3)),)),))
    with pytest.raises(TargetError, match="live"):
        Problem((GROUP,), peaks=(Peak("live", ((Table((1,), np.zeros(2)),),)),))
    with pytest.raises(PlanError, match="2 choices and 1 sensitivities"):
        Problem((Group("a", (4, 8), (0.1,)),))


def test_a_limit_must_be_finite() -> None:
    with pytest.raises(TargetError, match="size: the limit is nan"):
        Problem((GROUP,), (Cost("size", (), math.nan),))


def test_fixed_choices_must_exist() -> None:
    with pytest.raises(PlanError, match=r"conv9\.weight"):
        Problem((GROUP,), fixed={"conv9.weight": 4})
    with pytest.raises(PlanError, match=r"conv1\.weight: the fixed choice 3"):
        Problem((GROUP,), fixed={"conv1.weight": 3})


def test_two_groups_of_one_name_are_refused() -> None:
    with pytest.raises(PlanError, match=r"conv1\.weight: two groups"):
        Problem((GROUP, GROUP))


def test_uses_are_exact() -> None:
    cost = Cost("latency", tuple(Table((0,), np.array([0.1, 0.2])) for _ in range(3)), 0.30000000000000004)
    problem = Problem((GROUP,), (cost,))
    assert problem.admits((0,))
    assert not Problem((GROUP,), (Cost("latency", cost.tables, 0.3),)).admits((0,))


def test_an_amount_beside_a_limit_has_digits_enough_to_tell_them_apart() -> None:
    assert plain(1234567.25) == "1.23457e+06"
    assert plain(130.0, Fraction(1)) == "130"
    assert plain(-3.0, Fraction(3)) == "-3"
    assert plain(1000.001, Fraction(1000)) == "1000.001"
    assert plain(1000.25678, Fraction(1000)) == "1000.26"
    assert plain(1e6, Fraction(999990)) == "1000000"


def test_values_of_a_table_are_read_only_floats() -> None:
    table = Table((0,), np.array([4, 8]))
    assert table.values.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        table.values[0] = 1.0


def two(**limits: float | Fraction) -> Problem:
    """Two sites with a cost that has a constant, a peak over two moments and a loss of both."""
    pair = Table((1, 0), np.array([[1.0, 2.0], [4.0, math.inf]]))
    size = Cost("size", (pair, Table((0,), np.array([0.5, 0.25]))), limits.get("size"), 8.0)
    moments = ((Table((0,), np.array([4.0, 8.0])), Table((1,), np.array([1.0, 2.0]))), (Table((1,), np.array([3.0, 16.0])),))
    groups = (GROUP, Group("conv2.weight", (4, 8), (0.25, 0.0)))
    fixed = {"conv2.weight": 8} if "fixed" in limits else {}
    return Problem(groups, (size,), (Peak("live", moments, limits.get("live")),), (Table((0, 1), np.array([[-2.0, 1.0], [3.0, 7.0]])),), fixed)


def test_sums_of_a_choice() -> None:
    problem = two()
    assert problem.uses((0, 1)) == {"size": Fraction(25, 2), "live": 16}
    assert problem.uses((1, 0)) == {"size": Fraction(41, 4), "live": 9}
    assert problem.loss((0, 0)) == Fraction(-5, 4)
    assert problem.loss((1, 0)) == Fraction(0.1) + Fraction(13, 4)
    assert problem.exists((0, 1))
    assert not problem.exists((1, 1))
    assert Problem((GROUP,), peaks=(Peak("live", ()),)).uses((0,)) == {"live": 0}


def test_a_choice_has_a_place_for_every_group() -> None:
    problem = Problem((GROUP,))
    for test in (problem.loss, problem.admits):
        with pytest.raises(ValueError, match=r"zip\(\)"):
            test((0, 1))


def test_a_peak_that_does_not_exist_is_noticed() -> None:
    moments = ((Table((0,), np.array([1.0, math.inf])),),)
    problem = Problem((GROUP,), peaks=(Peak("live", moments),))
    assert (problem.exists((0,)), problem.exists((1,))) == (True, False)
    assert not problem.admits((1,))


def test_limits_hold_to_the_unit() -> None:
    assert two(size=12.5, live=16).violated((0, 1)) == ()
    assert two(size=12.25, live=16).violated((0, 1)) == ("size",)
    assert two(size=Fraction(49, 4), live=15.5).violated((0, 1)) == ("size", "live")
    assert two(size=0, live=0).violated((0, 0)) == ("size", "live")
    free = Cost("size", (Table((0,), np.array([0.0, 2.0**-20])),), 0.0)
    assert [Problem((GROUP,), (free,)).violated((at,)) for at in (0, 1)] == [(), ("size",)]
    assert [bound.name for bound in two(live=3).limited] == ["live"]


def test_a_fixed_choice_is_the_only_one_allowed() -> None:
    assert two().allowed == ((0, 1), (0, 1))
    problem = two(fixed=1)
    assert problem.allowed == ((0, 1), (1,))
    assert [problem.admits(choice) for choice in ((0, 0), (0, 1), (1, 1))] == [False, True, False]


def test_labels_need_losses_and_groups_need_choices() -> None:
    with pytest.raises(PlanError, match=r"conv1\.weight: has no choices"):
        Problem((Group("conv1.weight", (), ()),))
    assert Problem((Group("conv1.weight", (8,), (0.0,)),)).loss((0,)) == 0


def test_a_constant_must_be_finite() -> None:
    with pytest.raises(TargetError, match="size: the constant is inf"):
        Problem((GROUP,), (Cost("size", (), 1.0, math.inf),))
    with pytest.raises(TargetError, match="live: the limit is inf"):
        Problem((GROUP,), peaks=(Peak("live", (), math.inf),))


@pytest.mark.parametrize("groups", [(-1,), (1,), (0, 0), (0, 1)])
def test_a_table_of_groups_that_do_not_exist_is_refused(groups: tuple[int, ...]) -> None:
    with pytest.raises(TargetError, match=r"size: a table names the groups \(.* of 1"):
        Problem((GROUP,), (Cost("size", (Table(groups, np.zeros((2,) * len(groups))),)),))


def test_every_bad_value_is_found_among_good_ones() -> None:
    with pytest.raises(TargetError, match=r"latency: conv1\.weight: a value is -inf"):
        Problem((GROUP,), (Cost("latency", (Table((0,), np.array([1.0, -math.inf])),)),))
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(PlanError, match=rf"interaction: conv1\.weight: a value is {value}"):
            Problem((GROUP,), interactions=(Table((0,), np.array([1.0, value])),))
