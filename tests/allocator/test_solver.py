"""The solver against brute force on small random tables."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.allocator.random_problems import faults, random_problem


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_equals_brute_force(seed: int) -> None:
    assert faults(random_problem(seed)) == []
