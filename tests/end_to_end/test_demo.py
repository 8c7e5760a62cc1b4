"""`mpqc demo` itself: the command that a new user runs first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli_runs import Mpqc


@pytest.mark.slow
@pytest.mark.emulator
def test_the_demo_fits_its_budget_and_the_emulator_agrees_with_the_interpreter(mpqc: Mpqc, tmp_path: Path) -> None:
    done = mpqc("demo", "-o", tmp_path / "demo", "--json", "--quiet")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["differing_logits"] == 0
    assert found["float_percent"] > 97
    assert found["emulated_percent"] > found["float_percent"] - 1
    plan = json.loads((tmp_path / "demo" / "out" / "plan.json").read_text())
    latency = next(use for use in plan["uses"] if use["resource"] == "latency")
    assert latency["used"] <= latency["limit"]
    assert len({choice["bits"] for choice in plan["choices"]}) > 1  # the budget forces a mix
    assert (tmp_path / "demo" / "out" / "report.html").is_file()
