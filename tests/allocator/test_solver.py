"""The solver against brute force on small random tables."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.allocator.random_problems import faults, random_problem


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_equals_brute_force(seed: int) -> None:
    assert faults(random_problem(seed)) == []


@pytest.mark.timeout(60)
def test_a_linear_program_that_goes_round_in_circles_ends() -> None:
    """Limits of this one are a float below what a choice uses; without an end of its own the program over the cuts ran for minutes."""
    assert faults(random_problem(282)) == []
