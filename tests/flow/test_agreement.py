"""What a program keeps of the float network, on samples that calibration did not see; labels in the names of folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mpqc
from mpqc.data.batches import Part, beside, labelled_by, open_data, split
from mpqc.errors import DropError, UsageError
from mpqc.values.network import TensorSpec
from mpqc.values.verdict import LOST
from tests.cli_runs import Mpqc, samples, small_model
from tests.flow.test_float_check import CLASSES, COLOURS, nearest_colour

SPEC = (TensorSpec("x", (1, 1), "float32"),)


def numbers(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.float32)[:, None]


@pytest.mark.parametrize(("count", "asked"), [(10, 256), (64, 16), (400, 256), (9, 256), (3, 2)])
def test_calibration_never_sees_what_it_is_judged_on(count: int, asked: int) -> None:
    found = split(open_data(numbers(count), SPEC, limit=beside(asked)), asked, 64)
    calibrated = [float(batch["x"][0, 0]) for batch in found.calibrated]
    assert len(calibrated) <= asked
    assert found.calibrated.expected == len(calibrated)
    if count < 10:
        assert found.held_out is None
        return
    assert found.held_out is not None
    held_out = [float(batch["x"][0, 0]) for batch in found.held_out]
    assert held_out[:2] == [4.0, 9.0][: len(held_out)]
    assert not set(held_out) & set(calibrated)
    assert sorted(held_out + calibrated) == list(range(len(held_out + calibrated)))
    assert found.held_out.part is Part.HELD_OUT


def test_made_up_inputs_are_not_split() -> None:
    found = split(open_data(None, SPEC, limit=20), 20, 64)
    assert found.held_out is None
    assert len(list(found.calibrated)) == 20


def test_labels_go_with_their_samples_and_change_no_ranges() -> None:
    whole = labelled_by(open_data([numbers(8), numbers(7)], SPEC, limit=15), np.arange(15))
    found = split(whole, 15, 64)
    assert found.held_out is not None
    assert [int(label[0]) for _, label in found.held_out.labelled() if label is not None] == [4, 9, 14]
    assert found.calibrated.content == split(open_data([numbers(8), numbers(7)], SPEC, limit=15), 15, 64).calibrated.content


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder a class, one picture in each."""
    for index, colour in enumerate(COLOURS):
        (tmp_path / "data" / f"{index}").mkdir(parents=True)
        Image.new("RGB", (8, 8), tuple(int(value) for value in colour)).save(tmp_path / "data" / f"{index}" / "a.png")
    return tmp_path / "data"


def test_folders_are_labels(folders: Path, tmp_path: Path) -> None:
    made = mpqc.compile(nearest_colour(), "abstract", data=folders, output=tmp_path / "out", preset="signed")
    verdict = made.report.verdict
    assert verdict is not None
    assert (verdict.loses[0].metric, verdict.loses[0].float_value, verdict.samples, verdict.held_out) == ("top-1", 100.0, 3, True)
    assert made.report.accuracy is not None
    assert (made.report.accuracy.samples, made.report.accuracy.float_percent) == (CLASSES, 100.0)


def test_named_folders_count_in_their_order_where_they_are_all_classes(folders: Path) -> None:
    for index in range(CLASSES):
        (folders / f"{index}").rename(folders / f"c{index:02}")
    batches = open_data(folders, (TensorSpec("x", (1, 3, 8, 8), "float32"),), limit=99, labels=True)
    assert [int(label[0]) for _, label in batches.labelled() if label is not None] == list(range(CLASSES))


def test_folders_that_are_not_the_networks_classes_are_no_labels(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(CLASSES):
        target = folders / ("dark" if COLOURS[index].sum() < 384 else "light")
        target.mkdir(exist_ok=True)
        shutil.move(folders / f"{index}" / "a.png", target / f"{index}.png")
        (folders / f"{index}").rmdir()
    made = mpqc.compile(nearest_colour(), "abstract", data=folders, output=tmp_path / "out", preset="signed")
    assert made.report.accuracy is None
    assert "2 folders (dark, light) are no labels: the network has 16 classes" in capsys.readouterr().err


def test_one_picture_is_a_data_set(folders: Path, tmp_path: Path) -> None:
    made = mpqc.compile(nearest_colour(), "abstract", data=folders / "3" / "a.png", output=tmp_path / "out", preset="signed")
    assert made.report.verdict is not None
    assert (made.report.verdict.samples, made.report.verdict.held_out) == (1, False)


def test_a_program_that_lost_everything_ends_with_5_and_says_so_first(mpqc: Mpqc, folders: Path, tmp_path: Path) -> None:
    import onnx

    onnx.save(nearest_colour(), tmp_path / "m.onnx")
    data = ["--data", folders, "--preset", "signed", "-q", "--strategy", "uniform", "--bits", "1/1"]
    asked = ["compile", tmp_path / "m.onnx", "-t", "abstract", *data]
    loud = mpqc(*asked, "-o", tmp_path / "out")
    assert loud.code == 0
    assert loud.out.startswith("verdict: no budget was asked for; LOST what the float network knew")
    assert "warning: the program LOST what the float network knew: top-1" in loud.err
    strict = mpqc(*asked, "-o", tmp_path / "out", "--max-drop", "2%")
    assert strict.code == 5
    assert "points, 2 may be lost" in strict.err
    assert strict.out.startswith("verdict: ")


def test_what_may_be_lost_alone_finds_a_plan_and_a_metric_is_ones_own(tmp_path: Path) -> None:
    def negative_error(outputs: dict, labels: object, reference: dict) -> float:
        return -float(np.abs(outputs["y"] - reference["y"]).mean())

    data, options = samples(40), {"metric": negative_error, "allow_slower": True}
    made = mpqc.compile(small_model(), "abstract", data=data, output=tmp_path / "out", max_drop=0.05, **options)
    verdict = made.report.verdict
    assert verdict is not None
    assert verdict.loses[0].metric == "negative_error"
    assert 0 < (verdict.drop or 0) <= 0.05
    assert any("plans tried, this one uses least" in note for note in made.plan.notes)
    assert min(choice.bits or 99 for choice in made.plan.choices) < 8
    with pytest.raises(DropError) as caught:
        mpqc.compile(small_model(), "abstract", data=data, output=tmp_path / "no", max_drop=0.0, strategy="uniform", uniform_bits=(2, 2), **options)
    assert caught.value.compiled is not None
    assert caught.value.compiled.report.verdict.keeps in ("worse", LOST)  # type: ignore[attr-defined]


WRONG = [{"max_drop": "1%", "metric": "my:own"}, {"max_drop": "much"}, {"max_drop": -1.0}, {"max_drop": 1, "metric": "sqnr"}]


@pytest.mark.parametrize("options", WRONG)
def test_drops_that_cannot_be_meant(options: dict) -> None:
    with pytest.raises(UsageError, match="--max-drop"):
        mpqc.Options(**options)
