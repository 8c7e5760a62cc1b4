"""Plans held to what they promise: programs inside their latency budget when priced, and not slower than all int8 unless that is accepted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from mpqc.errors import BudgetInfeasibleError, GuardError
from mpqc.flow.holding import guard
from mpqc.flow.pipeline import compile_network
from mpqc.flow.results import Compiled
from mpqc.flow.verification import ROUNDS, Spent, first_plan, verified
from mpqc.qdq.write.stored import file_bytes
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


def program(factor: float, constant: float = 0.0) -> Callable[[Plan], Spent]:
    """Programs that take `factor` times what is predicted, and `constant` more."""
    return lambda plan: {Resource.LATENCY: factor * plan.uses[0].used + constant}


BUDGETS = (Budget(Resource.LATENCY, 100.0), Budget(Resource.SIZE, 6.0))


@pytest.mark.parametrize(("factor", "constant"), [(1.1, 0.0), (1.3, 0.0), (1.0, 20.0), (1.2, 10.0)])
def test_a_program_over_its_budget_is_solved_for_again(factor: float, constant: float) -> None:
    solver = Solver(10.0)
    found = verified(plan_of(100.0, 100.0), BUDGETS, program(factor, constant), solver)
    assert found.modelled_us == program(factor, constant)(found.plan)[Resource.LATENCY] <= 100.0
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
        verified(plan_of(100.0, 100.0), BUDGETS, lambda plan: {Resource.LATENCY: 130.0}, Solver(0.0))


def test_a_plan_given_by_hand_is_not_changed() -> None:
    with pytest.raises(BudgetInfeasibleError, match="inside 100 us"):
        verified(plan_of(90.0, 100.0), BUDGETS, program(1.2), None)
    assert verified(plan_of(80.0, 100.0), BUDGETS, program(1.2), None).modelled_us == pytest.approx(96.0)


def test_a_program_without_a_latency_budget_is_priced_all_the_same() -> None:
    found = verified(plan_of(90.0, 100.0), BUDGETS[1:], program(2.0), None)
    assert found.plan.proof.modelled_us == found.modelled_us == 180.0


SIZES = (Budget(Resource.SIZE, 100.0), Budget(Resource.BOPS, 1e6))


def sized(used: float) -> Plan:
    return Plan("cortex-a76", (), Proof("optimal"), (Use(Resource.SIZE, used, 100.0), Use(Resource.BOPS, 5.0, 1e6), Use(Resource.PEAK_MEMORY, 7.0)))


def stored(beside: Callable[[float], float]) -> Callable[[Plan], Spent]:
    """Programs that store `beside` more bytes than their plan counts."""
    return lambda plan: {Resource.SIZE: plan.uses[0].used + beside(plan.uses[0].used), Resource.PEAK_MEMORY: 9.0}


def inside(step: float) -> Callable[[tuple[Budget, ...]], Plan]:
    """Plans that are as large as they may be, in whole steps."""

    def solve(budgets: tuple[Budget, ...]) -> Plan:
        limit = next(budget.limit for budget in budgets if budget.resource is Resource.SIZE)
        assert Budget(Resource.BOPS, 1e6) in budgets
        if limit < step:
            raise BudgetInfeasibleError("too little", plan=replace(sized(step), target="least"))
        return sized(limit // step * step)

    return solve


@pytest.mark.parametrize(("beside", "step"), [(lambda used: 12.0, 1.0), (lambda used: 12.0, 30.0), (lambda used: 0.3 * used, 1.0)])
def test_a_program_that_stores_more_than_its_budget_is_solved_for_again(beside: Callable[[float], float], step: float) -> None:
    found = verified(sized(100.0), SIZES, stored(beside), inside(step))
    size, bops, peak = found.plan.uses
    assert size.built == found.spent[Resource.SIZE] <= size.limit == 100.0
    assert (bops.built, peak.built, peak.limit) == (None, 9.0, None)
    assert found.plan.proof.rounds > 1
    assert found.plan.proof.modelled_us is None
    assert "built programs were over the budget of size, 100 B (" in found.plan.notes[-1]
    assert {budget.resource: budget.limit for budget in found.bounds}[Resource.SIZE] < 100.0


def test_a_program_inside_its_budgets_is_built_once_and_both_numbers_are_kept() -> None:
    found = verified(sized(80.0), SIZES, stored(lambda used: 20.0), inside(1.0))
    assert (found.plan.uses[0].used, found.plan.uses[0].built) == (80.0, 100.0)
    assert (found.plan.proof.rounds, found.plan.notes, found.bounds) == (0, (), SIZES)


def test_where_no_plan_counts_as_little_the_least_one_is_built_all_the_same() -> None:
    """What its program has besides may be less than what that of the first had."""
    found = verified(sized(90.0), SIZES, stored(lambda used: 60.0 if used > 50 else 1.0), inside(48.0))
    assert (found.plan.target, found.spent[Resource.SIZE]) == ("least", 49.0)


def test_a_size_that_no_program_has_is_refused_with_both_numbers() -> None:
    message = r"--budget-size.*inside 100 B: the built ones take 160 B \(planned 100 B\), 130 B \(planned 70 B\) \(raise the budget to 130 B\)"
    with pytest.raises(BudgetInfeasibleError, match=message) as refused:
        verified(sized(100.0), SIZES, stored(lambda used: 60.0), inside(70.0))
    assert refused.value.least == {"size": 130.0}
    assert isinstance(refused.value.plan, Plan)
    assert (refused.value.plan.target, refused.value.plan.uses[0].built) == ("least", 130.0)


def impossible(plan: Plan) -> Callable[[], Plan]:
    def choose() -> Plan:
        raise BudgetInfeasibleError("cannot meet size <= 100 B", hint="raise it", least={"size": plan.uses[0].used}, plan=plan)

    return choose


def test_a_refusal_says_what_the_program_of_the_least_plan_takes() -> None:
    with pytest.raises(BudgetInfeasibleError, match=r"raise it; its program takes 130 B of size") as refused:
        first_plan(impossible(sized(110.0)), SIZES, stored(lambda used: 20.0))
    assert refused.value.least == {"size": 130.0}
    with pytest.raises(BudgetInfeasibleError, match=r"\(raise it\)"):
        first_plan(impossible(sized(110.0)), SIZES, stored(lambda used: -9.0))


def test_a_program_that_stores_less_than_its_plan_counts_is_no_refusal() -> None:
    assert first_plan(impossible(sized(110.0)), SIZES, stored(lambda used: -10.0)) == sized(110.0)
    slow = (*SIZES[:1], Budget(Resource.BOPS, 4.0))
    with pytest.raises(BudgetInfeasibleError, match="raise it"):
        first_plan(impossible(sized(110.0)), slow, stored(lambda used: -10.0))


WHERE = {"cortex-a76": "in the built program", "abstract": "in the file", "packed": "as packed packs what is in the file"}


@pytest.mark.parametrize(("target", "where"), WHERE.items())
def test_a_size_holds_for_what_is_written(mpqc: Mpqc, place: Place, tmp_path: Path, target: str, where: str) -> None:
    done = mpqc(*place.compiling, "--target", target, "--budget-size", BUDGET, "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    size = next(use for use in json.loads(done.out)["uses"] if use["resource"] == "size")
    assert size["built"] <= size["limit"] == 2000.0
    assert size["used"] <= 2000.0
    text = mpqc("report", tmp_path / "out").out
    assert f"size: {size['used'] / 1024:.4g} kB of 1.953 kB, {size['built'] / 1024:.4g} kB {where}" in text
    assert where in (tmp_path / "out" / "report.html").read_text()
    stored = json.loads(done.out)["sizes"]["files"]["model.qdq.onnx constants"]
    assert stored == file_bytes(onnx.load(tmp_path / "out" / "model.qdq.onnx"))
    assert (stored <= 2000) == (target != "packed")


def test_a_size_that_the_program_of_a_given_plan_exceeds_leaves_the_plan_and_no_program(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    size = next(use for use in json.loads((place.out / "report.json").read_text())["uses"] if use["resource"] == "size")
    limit = size["built"] - 1
    assert size["used"] < limit
    line = mpqc(*place.compiling, "--plan", place.out / "plan.json", "--budget-size", f"{limit:.0f}B", "-o", tmp_path / "out").complaint(3)
    assert f"inside {limit:.0f} B: the built ones take {limit + 1:.0f} B (planned {size['used']:.0f} B)" in line
    assert not (tmp_path / "out" / "model.so").exists()
    least = read_plan(tmp_path / "out" / "plan.least.json")
    assert [choice.bits for choice in least.choices] == [choice.bits for choice in read_plan(place.out / "plan.json").choices]


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
