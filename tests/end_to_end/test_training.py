"""mpqc compile with a training phase: from the command line, in one process and in two, with a given plan, and again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import mpqc as package
from mpqc.report.file import read_report
from mpqc.values.plan import read_plan
from tests.cli_runs import Mpqc, in_processes
from tests.quant_models import images
from tests.training.phases import folded_model

PHASE = ["--target", "abstract", "--qat-steps", "12", "--qat-batch", "32", "--budget-avg-bits", "3/4", "--samples", "32", "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx and data.npz with labels."""
    root = tmp_path_factory.mktemp("training")
    onnx.save(folded_model(), root / "model.onnx")
    pictures = images(120)
    np.savez(root / "data.npz", x=pictures, labels=(pictures.mean((1, 2, 3)) > 0).astype(np.int64))
    return root


@pytest.fixture(scope="module")
def alone(place: Path) -> Path:
    """What one process made."""
    options = {"strategy": "qbitopt", "samples": 32, "training": package.Recipe(steps=12, batch=32)}
    package.compile(place / "model.onnx", "abstract", [package.AverageBits("3/4")], place / "data.npz", output=place / "alone", **options)
    return place / "alone"


def bits(folder: Path) -> dict[str, int | None]:
    return {choice.site: choice.bits for choice in read_plan(folder / "plan.json").choices}


def test_the_report_shows_the_training_and_budgets_hold(alone: Path) -> None:
    report = read_report(alone / "report.json")
    assert report.training is not None
    assert report.training.strategy == report.strategy == "qbitopt"
    assert report.training.steps == 12
    assert report.training.labelled
    assert [step for step, _ in report.training.curve] == list(range(1, 13))
    assert report.accuracy is not None
    assert report.accuracy.samples == report.training.held_out == 12
    used = {use.resource: use.used for use in report.uses}
    assert used["weight_bits"] <= 3
    assert used["activation_bits"] <= 4
    page = (alone / "report.html").read_text()
    assert "<h2>Training</h2>" in page
    assert "12 steps of 32 samples" in page


@pytest.mark.slow
def test_two_processes_make_the_same_plan(place: Path, alone: Path) -> None:
    compiling = ["compile", place / "model.onnx", "--data", place / "data.npz", "--strategy", "qbitopt", *PHASE, "--json", "-o", place / "two"]
    assert json.loads(in_processes(2, *compiling))["training"]["processes"] == 2
    assert bits(place / "two") == bits(alone)
    one, two = (read_report(folder / "report.json").training for folder in (alone, place / "two"))
    assert one is not None
    assert two is not None
    np.testing.assert_allclose([loss for _, loss in two.curve], [loss for _, loss in one.curve], rtol=2e-2)


def test_a_given_plan_is_trained_at_and_a_second_run_trains_nothing(place: Path, alone: Path, mpqc: Mpqc) -> None:
    compiling = ["compile", place / "model.onnx", "--data", place / "data.npz", "--plan", alone / "plan.json", "--target", "abstract"]
    command = [*compiling, "--qat-steps", "3", "--qat-batch", "16", "-o", place / "given"]
    first = mpqc(*command)
    assert first.code == 0, first.err
    assert "training (fixed, taught by labels and float network): 3 steps" in first.out
    assert bits(place / "given") == bits(alone)
    model = (place / "given" / "model.qdq.onnx").read_bytes()
    again = mpqc(*command)
    assert again.code == 0
    assert "nothing to do" in again.err
    assert (place / "given" / "model.qdq.onnx").read_bytes() == model


def test_a_phase_needs_data(place: Path, mpqc: Mpqc) -> None:
    done = mpqc("compile", place / "model.onnx", "--target", "abstract", "--qat-steps", "3", "-o", place / "nothing")
    assert done.code == 1
    assert "training needs data" in done.err
