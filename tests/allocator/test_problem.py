"""Validation by name."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mpqc.allocator import Cost, Group, Peak, Problem, Table
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
