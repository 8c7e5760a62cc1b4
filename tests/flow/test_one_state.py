"""A folder holds one state: what is stale is marked, built again without network and data, and what is finished is left alone."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mpqc
from mpqc.errors import BudgetInfeasibleError, PlanError, UsageError
from mpqc.values.plan import Plan
from tests.cli_runs import BUDGET, Mpqc, Place, samples, small_model

WIDER = "2500B"
SECONDS = 3.0


@pytest.fixture
def out(place: Place, tmp_path: Path) -> Path:
    """A finished folder of its own."""
    return Path(shutil.copytree(place.out, tmp_path / "out"))


def checkpoints(folder: Path) -> set[str]:
    return {path.name for path in (folder / ".mpqc").iterdir()}


def bits(plan: Plan) -> dict[str, int | None]:
    return {choice.site: choice.bits for choice in plan.choices}


def test_the_same_compile_twice_does_nothing_twice(place: Place, out: Path) -> None:
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "log.txt"}
    start = os.times()
    command = [sys.executable, "-m", "mpqc", *map(str, place.compiling), "--budget-size", BUDGET, "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    end = os.times()
    assert done.stdout.startswith("verdict: ")
    assert "nothing to do" in (out / "log.txt").read_text().splitlines()[-2]
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "log.txt"}
    assert end.children_user + end.children_system - start.children_user - start.children_system < SECONDS


@pytest.mark.parametrize("change", ["file", "option", "data"])
def test_anything_else_is_another_compile(mpqc: Mpqc, place: Place, out: Path, tmp_path: Path, change: str) -> None:
    options = ["--budget-size", WIDER if change == "option" else BUDGET]
    if change == "file":
        (out / "model.so").write_bytes(b"")
    data = place.data
    if change == "data":
        data = tmp_path / "y.npy"
        np.save(data, samples(seed=3))
    assert mpqc("compile", place.model, "--data", data, "-q", "--allow-slower", *options, "-o", out).code == 0
    assert "nothing to do" not in (out / "log.txt").read_text()
    assert (out / "model.so").stat().st_size > 0


def test_a_new_plan_makes_the_rest_stale_until_it_is_built(mpqc: Mpqc, out: Path) -> None:
    done = mpqc("allocate", out, "--budget-size", WIDER)
    assert "stale now, made of the plan before: model.qdq.onnx, model.so, bundle, report.json, report.html" in done.out
    assert "bundle" in (out / "STALE.txt").read_text()
    assert "mpqc build" in mpqc("run", out, "--host").complaint(1)
    assert "are stale" in mpqc("report", out).err
    allocated, kept = mpqc_plan(out), checkpoints(out)
    assert mpqc("build", out, "-q").out.startswith("verdict: inside the budget")
    assert not (out / "STALE.txt").exists()
    built = mpqc_plan(out)
    assert bits(built) == bits(allocated)
    assert built.proof.status == "optimal"
    assert {name for name in kept if "calibration" in name or "sensitivities" in name} <= checkpoints(out)
    assert len([name for name in checkpoints(out) if "calibration" in name]) == 1
    assert mpqc("run", out, "--host").code == 0
    assert json.loads((out / "report.json").read_text())["budgets"] == ["size <= 2500 B"]
    assert mpqc("build", out).err.startswith("nothing to do")


def mpqc_plan(folder: Path) -> Plan:
    return mpqc.read_plan(str(folder / "plan.json"))


def test_an_edited_plan_is_stale_too_and_has_no_proof(out: Path) -> None:
    plan = mpqc_plan(out)
    edited = replace(plan, choices=(replace(plan.choices[0], bits=8), *plan.choices[1:]), uses=())
    (out / "plan.json").write_text(edited.to_json())
    with pytest.raises(PlanError, match="mpqc build"):
        mpqc.load(out)
    made = mpqc.build_folder(out)
    assert bits(made.plan) == bits(edited)
    assert made.plan.proof.status == "given"
    assert mpqc.load(out).report == made.report


def test_networks_and_data_from_memory_are_kept(tmp_path: Path) -> None:
    first = mpqc.compile(small_model(), "abstract", mpqc.Bops("1MBOPs"), samples(), output=str(tmp_path / "out"), labels=np.arange(16) % 10)
    kept = checkpoints(first.output)
    plan = first.plan
    narrow = replace(plan, choices=tuple(replace(choice, bits=min(choice.bits or 2, 2)) for choice in plan.choices))
    (first.output / "plan.json").write_text(narrow.to_json())
    made = mpqc.build_folder(str(first.output))
    assert {choice.bits for choice in made.plan.choices} == {2}
    assert {name for name in checkpoints(first.output) if "calibration" in name} == {name for name in kept if "calibration" in name}
    assert made.report.accuracy is not None
    assert made.report.accuracy.samples == 16
    assert made.analysis.network.digest == first.analysis.network.digest
    assert mpqc.load(first.output).analysis.network.digest == first.analysis.network.digest


def test_what_cannot_be_built_says_why(mpqc: Mpqc, place: Place, out: Path, tmp_path: Path) -> None:
    request = json.loads((out / ".mpqc" / "request.json").read_text())
    for change, words in (
        ({"network": str(tmp_path / "gone.onnx")}, "no longer there"),
        ({"network_digest": "0"}, "another one by now"),
        ({"trained": True}, "weights were learned"),
        ({"data": "gone"}, "too much to keep"),
        ({"options": {}}, "not a request"),
    ):
        (out / ".mpqc" / "request.json").write_text(json.dumps(request | change))
        assert words in mpqc("build", out, "-q").complaint(1)
    (out / ".mpqc" / "request.json").write_text(json.dumps(request | {"options": request["options"] | {"metric": "os:getcwd"}}))
    assert "name it again" in mpqc("build", out, "-q").complaint(2)
    assert "no folder of mpqc" in mpqc("build", tmp_path, "-q").complaint(1)


def test_a_result_is_short_shown_and_pickled(place: Place) -> None:
    made = mpqc.load(str(place.out))
    assert len(repr(made).splitlines()) <= 10
    assert "verdict:" in repr(made)
    assert "<th" in made._repr_html_()
    assert "conv0" in made._repr_html_()
    x = samples(2, seed=1)
    other = pickle.loads(pickle.dumps(made))
    assert other.plan == made.plan
    np.testing.assert_array_equal(other.run(x)["y"], made.run(x)["y"])
    with pytest.raises(mpqc.MpqcError, match=r"mpqc.load\(FOLDER\)"):
        _ = other.analysis


def test_failures_are_json_too(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    over = mpqc(*place.compiling, "--budget-size", "10B", "-o", tmp_path / "out", "--json")
    found = json.loads(over.out)["error"]
    assert (over.code, found["exit_code"], found["kind"]) == (3, 3, "BudgetInfeasibleError")
    assert found["least"]["size"] > 10
    wrong = mpqc("compile", place.model, "--budget-size", "10", "--json")
    assert json.loads(wrong.out)["error"]["kind"] == "UsageError"
    assert json.loads(mpqc("compile", "--no-such-option", "--json").out)["error"]["exit_code"] == 2
    narrow = ["--strategy", "uniform", "--bits", "2/2", "--metric", "cosine", "--max-drop", "0"]
    lost = mpqc(*place.compiling, "-o", tmp_path / "out", "--json", *narrow)
    assert lost.code == 5
    assert json.loads(lost.out)["error"]["kind"] == "DropError"
    assert json.loads(lost.out)["verdict"]["keeps"] in ("worse", "lost")


def test_the_least_plan_is_on_the_error_and_in_no_deleted_folder() -> None:
    with pytest.raises(BudgetInfeasibleError, match="this error's `plan`") as caught:
        mpqc.compile(small_model(), budgets=mpqc.Size("10B"), data=samples(4), strategy="roundoff")
    assert isinstance(caught.value.plan, Plan)
    assert "plan.least.json" not in str(caught.value)


def test_labels_that_are_a_path(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.arange(6))
    made = mpqc.compile(small_model(), "abstract", data=samples(6), labels=str(tmp_path / "labels.npy"), strategy="uniform")
    assert made.report.accuracy is not None
    with pytest.raises(UsageError, match="is not a budget"):
        mpqc.compile(small_model(), budgets="20ms")  # type: ignore[arg-type]
