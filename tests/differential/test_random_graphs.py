"""The integer program of random QDQ graphs against ONNX Runtime, op by op; benchmarks/faults.py runs a thousand."""

from __future__ import annotations

import pytest

from tests.differential.random_graphs import differences


@pytest.mark.parametrize("seeds", [range(start, start + 10) for start in range(0, 80, 10)], ids=str)
def test_every_op_of_random_graphs_is_as_near_as_it_can_be(seeds: range) -> None:
    assert {seed: found for seed in seeds if (found := differences(seed))} == {}
