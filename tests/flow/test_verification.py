"""Plans held to what they promise: programs inside their latency budget when priced, and not slower than all int8 unless that is accepted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mpqc.errors import BudgetInfeasibleError, GuardError
from mpqc.flow.pipeline import compile_network
from mpqc.flow.results import Compiled
from mpqc.flow.verification import ROUNDS, guard, verified
from mpqc.report.file import read_report
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan, Proof, Use, read_plan
from mpqc.values.request import Options
from tests.cli_runs import BUDGET, Mpqc, Place

TOOL = """#!/usr/bin/env python3
import json, pathlib
prices = pathlib.Path({prices!r})
first, *rest = prices.read_text().split()
prices.write_text(" ".join(rest))
print(json.dumps({{"modelled_cycles": float(first)}}))
"""
"""A tool that prints one price after another."""
CYCLES = 2400
"""A microsecond of a Cortex-A76"""


def pricing(folder: Path, *microseconds: float) -> Path:
    """A pricing tool that prices what it is tried on, says these times, in this order, and then fails."""
    (folder / "prices").write_text(" ".join(str(CYCLES * spent) for spent in (1.0, *microseconds)))
    tool = folder / "tool"
    tool.write_text(TOOL.format(prices=str(folder / "prices")))
    tool.chmod(0o755)
    return tool


def wanted(place: Place) -> list[object]:
    """A compile whose guard counts."""
    return [word for word in place.compiling if word != "--allow-slower"]


def test_a_slower_plan_is_written_shown_and_refused(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    done = mpqc(*wanted(place), "--budget-size", BUDGET, "-o", tmp_path / "out", "--json")
    report = read_report(tmp_path / "out" / "report.json")
    assert report.latency_us is not None
    assert report.int8_latency_us is not None
    assert report.latency_us > report.int8_latency_us
    assert done.code == 4
    assert "all int8" in done.err
    assert "--allow-slower" in done.err
    assert json.loads(done.out)["latency_us"] == report.latency_us
    assert (tmp_path / "out" / "bundle").is_dir()
    assert mpqc(*wanted(place), "--budget-size", BUDGET, "--allow-slower", "-o", tmp_path / "out").code == 0


def test_the_hint_of_the_guard_leads_to_a_plan_that_is_no_slower(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    line = mpqc(*wanted(place), "--budget-size", BUDGET, "-o", tmp_path / "out").err
    bound = line.split("--budget-latency ")[1].split()[0]
    done = mpqc(*wanted(place), "--budget-latency", bound, "-o", tmp_path / "out")
    assert done.code == 0, done.err


def test_a_plan_given_by_hand_is_guarded_too(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    given = ("--plan", place.out / "plan.json", "-o", tmp_path / "out")
    assert mpqc(*wanted(place), *given).code == 4
    assert mpqc(*place.compiling, *given).code == 0


def test_the_guard_goes_by_price_where_there_is_one(place: Place) -> None:
    report = read_report(place.out / "report.json")
    predicted = replace(report, latency_us=11.0, int8_latency_us=10.0)
    with pytest.raises(GuardError, match=r"takes 11 us, all int8 10 us \(predicted\).*--budget-latency 10us"):
        guard(predicted)
    guard(replace(predicted, modelled_us=9.0, int8_modelled_us=9.0))
    with pytest.raises(GuardError, match=r"takes 12 us, all int8 9 us \(modelled\)"):
        guard(replace(report, latency_us=10.0, int8_latency_us=10.0, modelled_us=12.0, int8_modelled_us=9.0))
    guard(replace(report, latency_us=None, int8_latency_us=None))


def test_without_a_program_nothing_is_guarded(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    assert mpqc(*wanted(place), "--target", "ethos-u55-256", "-o", tmp_path / "out").code == 0


def compiled(place: Place, out: Path, tool: Path, **asked: object) -> Compiled:
    return compile_network(place.model, Options(price=True, pricer=tool, **asked), place.data, output=out)  # type: ignore[arg-type]


def int8_microseconds(place: Place) -> float:
    report = read_report(place.out / "report.json")
    assert report.int8_latency_us is not None
    return report.int8_latency_us


def latency(limit: float) -> tuple[Budget, ...]:
    return (Budget(Resource.LATENCY, limit),)


def test_a_program_inside_its_budget_is_priced_once(place: Place, tmp_path: Path) -> None:
    limit = 2 * int8_microseconds(place)
    made = compiled(place, tmp_path / "out", pricing(tmp_path, limit), budgets=latency(limit))
    assert made.plan.proof.modelled_us == pytest.approx(limit)
    assert made.plan.proof.rounds == 1
    assert made.report.modelled_us == made.report.int8_modelled_us == made.plan.proof.modelled_us
    assert read_plan(tmp_path / "out" / "plan.json") == made.plan
    assert (tmp_path / "prices").read_text() == ""


class Solver:
    """Plans that use all they may, down to `least` predicted microseconds."""

    def __init__(self, least: float) -> None:
        self.least, self.asked = least, []  # type: float, list[float]

    def __call__(self, budgets: tuple[Budget, ...]) -> Plan:
        """The plan for these budgets."""
        limit = next(budget.limit for budget in budgets if budget.resource is Resource.LATENCY)
        self.asked.append(limit)
        if limit < self.least:
            raise BudgetInfeasibleError("too little")
        return plan_of(limit, limit)


def plan_of(used: float, limit: float) -> Plan:
    return Plan("cortex-a76", (), Proof("optimal"), (Use(Resource.LATENCY, used, limit), Use(Resource.SIZE, 5.0, 6.0)))


def program(factor: float, constant: float = 0.0) -> Callable[[Plan], float]:
    """Prices of programs that take `factor` times what is predicted, and `constant` more."""
    return lambda plan: factor * plan.uses[0].used + constant


BUDGETS = (Budget(Resource.LATENCY, 100.0), Budget(Resource.SIZE, 6.0))


@pytest.mark.parametrize(("factor", "constant"), [(1.1, 0.0), (1.3, 0.0), (1.0, 20.0), (1.2, 10.0)])
def test_a_program_over_its_budget_is_solved_for_again(factor: float, constant: float) -> None:
    solver = Solver(10.0)
    found = verified(plan_of(100.0, 100.0), BUDGETS, program(factor, constant), solver)
    assert found.modelled_us == program(factor, constant)(found.plan) <= 100.0
    assert found.plan.proof.modelled_us == found.modelled_us
    assert 1 < found.plan.proof.rounds == len(solver.asked) + 1 <= ROUNDS
    assert found.plan.uses[0].limit == 100.0
    assert found.plan.uses[0].used < 100.0
    assert f"solved again for {solver.asked[-1]:.4g} us" in found.plan.notes[-1]


def test_a_budget_that_no_priced_program_holds_is_refused() -> None:
    solver = Solver(80.0)
    with pytest.raises(BudgetInfeasibleError, match=r"inside 100 us: the built ones take 150 us \(predicted 100 us\) when priced") as refused:
        verified(plan_of(100.0, 100.0), BUDGETS, program(1.5), solver)
    assert refused.value.least == {"latency": 150.0}
    with pytest.raises(BudgetInfeasibleError, match="130 us"):
        verified(plan_of(100.0, 100.0), BUDGETS, lambda plan: 130.0, Solver(0.0))


def test_a_plan_given_by_hand_is_not_changed() -> None:
    with pytest.raises(BudgetInfeasibleError, match="inside 100 us"):
        verified(plan_of(90.0, 100.0), BUDGETS, program(1.2), None)
    assert verified(plan_of(80.0, 100.0), BUDGETS, program(1.2), None).modelled_us == pytest.approx(96.0)


def test_a_program_without_a_latency_budget_is_priced_all_the_same() -> None:
    found = verified(plan_of(90.0, 100.0), BUDGETS[1:], program(2.0), None)
    assert found.plan.proof.modelled_us == found.modelled_us == 180.0


@pytest.fixture
def tool() -> Path:
    """The pricing tool; skips by name without it, and without LLVM 19, which it models the core with."""
    if not os.environ.get("MPQC_PRICER"):
        pytest.skip("no MPQC_PRICER")
    if shutil.which("llvm-mca-19") is None:
        pytest.skip("llvm-19 is absent: make pricer")
    return Path(os.environ["MPQC_PRICER"])


@pytest.mark.emulator
def test_a_real_program_is_inside_its_budget(tool: Path, mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    """The least budget of predicted time, for which the program itself must hold when it is priced."""
    limit = int8_microseconds(place)
    done = mpqc(*place.compiling, "--budget-latency", f"{limit}us", "--price", "--pricer", tool, "-o", tmp_path / "out", "--json")
    if done.code == 3:
        assert "when priced" in done.err
        return
    report = json.loads(done.out)
    assert report["modelled_us"] <= limit
    assert report["proof"]["modelled_us"] == report["modelled_us"]
    assert report["int8_modelled_us"] >= 0.9 * report["modelled_us"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pricer", "tool"), "add --price"),
        (("--price", "--pricer", "none"), "no pricing tool"),
        (("--price", "--target", "abstract"), "cannot be priced"),
    ],
)
def test_what_cannot_be_priced_is_refused_before_anything_runs(
    mpqc: Mpqc, place: Place, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    done = mpqc(*place.compiling, *options, "-o", tmp_path / "out")
    assert message in done.complaint(1 if "none" in options else 2)


def test_a_tool_that_cannot_price_is_refused_before_anything_runs(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    """What it lacks, it would else say after the training phase and the kernels."""
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho no model of the core here >&2\nexit 1\n")
    tool.chmod(0o755)
    done = mpqc(*place.compiling, "--price", "--pricer", tool, "-o", tmp_path / "out")
    assert "the pricing tool prices nothing: no model of the core here" in done.complaint(1)
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["log.txt"]
