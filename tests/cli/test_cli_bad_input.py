"""Data, budgets, targets, plans and folders that cannot be meant: one clear line, the right exit code, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli_runs import BUDGET, PLANNED, Mpqc, Place, listing, samples

WRITTEN = {".mpqc", "log.txt"}
"""What a refused command leaves in its output folder."""


def bad_data(folder: Path, kind: str) -> Path:
    path = folder / "data.npy"
    if kind == "pickled":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "pickle in disguise":
        path.write_bytes(pickle.dumps([1, 2, 3]))
    elif kind == "empty folder":
        path = folder / "empty"
        path.mkdir()
    elif kind == "text":
        path.write_text("1, 2, 3")
    else:
        arrays = {"shape": np.zeros((4, 3, 9, 9), np.float32), "type": np.full((4, 3, 8, 8), "a"), "none": np.zeros((0, 3, 8, 8), np.float32)}
        arrays["NaN"] = samples()
        arrays["NaN"][3, 1, 2, 2] = np.nan
        np.save(path, arrays[kind])
    return path


@pytest.mark.parametrize("kind", ["shape", "type", "none", "NaN", "pickled", "pickle in disguise", "empty folder", "text"])
def test_bad_data(mpqc: Mpqc, place: Place, tmp_path: Path, kind: str) -> None:
    line = mpqc("compile", place.model, "--data", bad_data(tmp_path, kind), "-q", "-o", tmp_path / "out").complaint(1)
    assert listing(tmp_path / "out") <= WRITTEN
    if kind == "NaN":
        assert "sample 3" in line


def test_missing_data(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    assert "none.npy" in mpqc("compile", place.model, "--data", tmp_path / "none.npy", "-q", "-o", tmp_path / "out").complaint(2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("labels", [np.zeros(15, int), np.zeros((16, 2), int), np.zeros(16, np.float32), np.full(16, -1)])
def test_labels_that_do_not_fit(mpqc: Mpqc, place: Place, tmp_path: Path, labels: np.ndarray) -> None:
    np.save(tmp_path / "labels.npy", labels)
    assert "label" in mpqc(*place.compiling, "--labels", tmp_path / "labels.npy", "-o", tmp_path / "out").complaint(1)
    assert listing(tmp_path / "out") <= WRITTEN


def test_labels_without_data(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.zeros(16, int))
    done = mpqc("compile", place.model, "-q", "--labels", tmp_path / "labels.npy", "-o", tmp_path / "out")
    assert done.code == 1
    assert "labels need the data" in done.err.splitlines()[-1]


def test_an_unknown_target(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    line = mpqc(*place.compiling, "--target", "cortex-z99", "-o", tmp_path / "out").complaint(2)
    assert "cortex-z99" in line
    assert "cortex-a76" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "name = 3", "not toml at all [", 'name = "mine"\nunknown_key = 1\n'])
def test_a_target_file_with_errors(mpqc: Mpqc, place: Place, tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    assert "mine.toml" in mpqc(*place.compiling, "--target", tmp_path / "mine.toml", "-o", tmp_path / "out").complaint(2)
    assert "mine.toml" in mpqc("targets", "show", tmp_path / "mine.toml").complaint(2)
    assert mpqc("targets", "check", tmp_path / "mine.toml").code == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--budget-size", "1000"), ("--budget-size", "-5kB"), ("--budget-size", "0B"), ("--budget-size", "1.5 parsecs"), ("--budget-latency", "20"),
        ("--budget-latency", "nan"), ("--budget-bops", "1e400GBOPs"), ("--budget-avg-bits", "four"), ("--budget-avg-bits", "-/-"),
        ("--budget-avg-bits", ""),
        ("--strategy", "magic"), ("--bits", "8"), ("--bits", "4/8"),
        ("--ranges", "guess"), ("--fix", "w0"), ("--mean", "a,b"), ("--input-range", "255,0"), ("--input-range", "1"),
        ("--std", "nan"), ("--seed", "-1"),
        ("--value", "x=many"),
        ("--samples", "0"), ("--opset", "12"), ("--no-such-option", "1"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_meant(mpqc: Mpqc, place: Place, tmp_path: Path, option: str, value: str) -> None:
    assert option in mpqc(*place.compiling, f"{option}={value}", "-o", tmp_path / "out").complaint(2)
    assert not (tmp_path / "out").exists()


def test_options_that_exclude_each_other(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    assert "--fix" in mpqc(*place.compiling, "--plan", place.out / "plan.json", "--fix", "w0=4", "-o", tmp_path / "out").complaint(2)
    assert "--mean" in mpqc("compile", place.model, "--mean", "1", "-o", tmp_path / "out").complaint(2)


def test_analysis_for_an_unknown_target(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    assert "cortex-z99" in mpqc("analyze", place.model, "--target", "cortex-z99", "-o", tmp_path / "out").complaint(2)
    assert not (tmp_path / "out").exists()


def test_fixed_bits_hold_in_a_uniform_plan(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    uniform = (*place.compiling, "--strategy", "uniform", "-q", "-o", tmp_path / "out")
    assert "nowhere" in mpqc(*uniform, "--fix", "nowhere=4").complaint(2)
    assert mpqc(*uniform, "--fix", "w0=4").code == 0
    bits = {choice["site"]: choice["bits"] for choice in json.loads((tmp_path / "out" / "plan.json").read_text())["choices"]}
    assert bits.pop("w0") == 4
    assert set(bits.values()) == {8}


def test_the_demo_leaves_the_folders_of_others_alone(mpqc: Mpqc, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert str(tmp_path) in mpqc("demo", "-o", tmp_path).complaint(2)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_bits_that_no_type_has(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    for bits in ("99/8", "0/8", "8/77"):
        done = mpqc(*place.compiling, "--strategy", "uniform", "--bits", bits, "-o", tmp_path / "out")
        assert bits in done.complaint(2)


def test_an_impossible_budget_names_the_least_and_the_least_can_be_met(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    line = mpqc(*place.compiling, "--budget-size", "100B", "-o", tmp_path / "out").complaint(3)
    assert "size <= 100 B" in line
    assert "least possible is 1600 B" in line
    least = re.search(r"its program takes ([0-9.]+) ([A-Za-z]+) of size", line)
    assert least is not None
    assert not (tmp_path / "out" / "plan.json").exists()
    value = f"{least[1]}{least[2]}"
    assert mpqc(*place.compiling, "--budget-size", value, "-o", tmp_path / "out").code == 0
    assert not (tmp_path / "out" / "plan.least.json").exists()


def test_the_plan_that_meets_the_least_value_can_be_given_back(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    for limit, code in (("0.5us", 3), ("1us", 3)):
        mpqc(*place.compiling, "--budget-latency", limit, "-o", tmp_path / "out").complaint(code)
    plan = tmp_path / "out" / "plan.least.json"
    assert mpqc(*place.compiling, "--plan", plan, "-o", tmp_path / "given").code == 0


def test_two_budgets_that_exclude_each_other(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    """The smallest plan has 2-bit weights everywhere and is slower than the fastest one."""
    uses = {use["resource"]: use["used"] for use in json.loads((place.out / "plan.json").read_text())["uses"]}
    line = mpqc(*place.compiling, "--budget-size", "10B", "--budget-latency", "1us", "-o", tmp_path / "out").complaint(3)
    assert "size" in line
    assert "latency" in line
    assert uses["size"] <= PLANNED


def test_a_latency_budget_needs_cost_rows(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    line = mpqc(*place.compiling, "--target", "abstract", "--budget-latency", "1ms", "-o", tmp_path / "out").complaint(2)
    assert "latency" in line
    assert not (tmp_path / "out").exists()


def test_an_unknown_site(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    assert "nowhere" in mpqc(*place.compiling, "--fix", "nowhere=8", "-o", tmp_path / "out").complaint(2)
    assert "nearest: w0" in mpqc(*place.compiling, "--fix", "w00=8", "-o", tmp_path / "out").complaint(2)
    assert "has no 9 bits for 'w0'" in mpqc(*place.compiling, "--fix", "w0=9", "-o", tmp_path / "out").complaint(2)
    assert not (tmp_path / "out" / "sites.json").exists(), "calibration comes later"
    for command in ("allocate", "pareto"):
        assert "nearest: w0" in mpqc(command, place.out, "--fix", "w00=8").complaint(2)


@pytest.mark.parametrize(("option", "value"), [("--std", "0,1,1"), ("--std", "0"), ("--mean", "1,2"), ("--std", "1,1,1,1,1,1,1")])
def test_preprocessing_that_does_not_fit(mpqc: Mpqc, place: Place, tmp_path: Path, option: str, value: str) -> None:
    assert option in mpqc(*place.compiling, option, value, "-o", tmp_path / "out").complaint(2)


def test_plans_from_saved_sensitivities_say_that_nothing_was_built(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    for name in ("sites.json", "sensitivities.json"):
        shutil.copy(place.out / name, tmp_path)
    assert "mpqc compile counts what is built" in mpqc("allocate", tmp_path).out
    assert "mpqc compile counts what is built" in mpqc("pareto", tmp_path, "--points", "2").out


@pytest.mark.parametrize("damage", ["other network", "not JSON", "no plan", "bad bits", "unknown kind", "twice", "a list", "wrong type"])
def test_a_plan_that_does_not_fit(mpqc: Mpqc, place: Place, tmp_path: Path, damage: str) -> None:
    plan = json.loads((place.out / "plan.json").read_text())
    first = plan["choices"][0]
    if damage == "other network":
        first["site"] = "stranger"
    elif damage == "bad bits":
        first["bits"] = "four"
    elif damage == "unknown kind":
        first["kind"] = "spice"
    elif damage == "twice":
        plan["choices"].append({**first, "bits": 4 if first["bits"] != 4 else 8})
    elif damage == "wrong type":
        plan["proof"]["gap"], first["site"] = "large", 7
    text = {"not JSON": "{", "no plan": "{}", "a list": "[]"}.get(damage, json.dumps(plan))
    (tmp_path / "plan.json").write_text(text)
    mpqc(*place.compiling, "--plan", tmp_path / "plan.json", "-o", tmp_path / "out").complaint(1)
    assert not (tmp_path / "out" / "plan.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 9}', '{"schema_version": 1, "values": {"w0": {"8": "NaN"}}}', "missing"])
def test_corrupt_sensitivities(mpqc: Mpqc, place: Place, tmp_path: Path, content: str) -> None:
    shutil.copy(place.out / "sites.json", tmp_path)
    if content != "missing":
        (tmp_path / "sensitivities.json").write_text(content)
    assert "sensitivities.json" in mpqc("allocate", tmp_path, "--budget-size", BUDGET).complaint(1)
    assert not (tmp_path / "plan.json").exists()


def test_sensitivities_of_another_network(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    shutil.copy(place.out / "sites.json", tmp_path)
    raw = json.loads((place.out / "sensitivities.json").read_text())
    raw["values"] = {f"other.{site}": row for site, row in raw["values"].items()}
    (tmp_path / "sensitivities.json").write_text(json.dumps(raw))
    mpqc("allocate", tmp_path, "--budget-size", BUDGET).complaint(1)


@pytest.mark.parametrize("out", ["/dev/null/out", "/proc/mpqc-out"])
def test_a_place_that_cannot_be_written(mpqc: Mpqc, place: Place, out: str) -> None:
    assert out in mpqc(*place.compiling, "-o", out).complaint(1)


def test_a_folder_of_other_files_needs_force(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert "--force" in mpqc(*place.compiling, "-o", tmp_path).complaint(2)
    assert listing(tmp_path) == {"thesis.tex"}


def test_a_full_disk(mpqc: Mpqc, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan is the first file of a compile that is not a checkpoint: nothing of it may stay."""
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if "plan.json" not in path.name:
            return write(path, data)
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    line = mpqc(*place.compiling, "-o", tmp_path / "out").complaint(1)
    assert "No space left on device" in line
    assert {path.split("/")[0] for path in listing(tmp_path / "out")} == {".mpqc", "log.txt", "sites.json", "sensitivities.json"}
    monkeypatch.undo()
    assert mpqc(*place.compiling, "-o", tmp_path / "out").code == 0


def test_a_log_on_a_full_disk_does_not_hide_the_failure(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    (tmp_path / "out" / ".mpqc").mkdir(parents=True)
    os.symlink("/dev/full", tmp_path / "out" / "log.txt")
    assert "stranger" in mpqc(*place.compiling, "--fix", "stranger=8", "-o", tmp_path / "out").complaint(2)


def test_running_what_is_no_bundle(mpqc: Mpqc, tmp_path: Path) -> None:
    assert "bundle" in mpqc("run", tmp_path, "--emulate").complaint(1)
    assert "bundle" in mpqc("run", tmp_path, "--host").complaint(1)
    mpqc("run", tmp_path / "none", "--host").complaint(2)
    mpqc("run", tmp_path).complaint(2)


@pytest.mark.parametrize("array", [np.zeros((1, 3, 8, 9), np.float32), np.zeros((1, 3, 8, 8), np.int64), np.full((1, 3, 8, 8), np.inf, np.float32)])
def test_running_with_the_wrong_input(mpqc: Mpqc, place: Place, tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    assert "x" in mpqc("run", place.out, "--host", "--input", tmp_path / "x.npy").complaint(1)
    mpqc("run", place.out, "--host", "--input", place.data, "--input", place.data).complaint(1)


def test_running_with_files_that_are_no_arrays(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=samples(1))
    (tmp_path / "x.npy").write_bytes(b"")
    for name in ("x.npz", "x.npy", "."):
        mpqc("run", place.out, "--host", "--input", tmp_path / name).complaint(1)


def test_an_output_that_cannot_be_written(mpqc: Mpqc, place: Place) -> None:
    assert "/dev/null/y.npy" in mpqc("run", place.out, "--host", "--output", "/dev/null/y.npy").complaint(1)


@pytest.mark.emulator
def test_a_damaged_bundle(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    for name, content in (("model.json", "{}"), ("model.json", "["), ("model.so", "no module")):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.copytree(place.out, tmp_path / "out")
        (tmp_path / "out" / "bundle" / name).write_text(content)
        assert name in mpqc("run", tmp_path / "out", "--emulate").complaint(1)


def test_without_the_emulator(mpqc: Mpqc, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    line = mpqc("run", place.out, "--emulate").complaint(1)
    assert "qemu-aarch64" in line
    assert "apt-get install" in line


def test_without_zig(mpqc: Mpqc, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpqc.lowering.toolchain.find_spec", lambda _: None)
    assert "zig" in mpqc(*place.compiling, "-o", tmp_path / "out").complaint(1)
    assert not (tmp_path / "out" / "model.so").exists()
    assert not (tmp_path / "out" / "bundle").exists()


def test_a_bug_is_one_line_that_names_the_log(mpqc: Mpqc, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("not as\nexpected")

    monkeypatch.setattr("mpqc.flow.pipeline.choose_plan", broken)
    done = mpqc(*place.compiling, "-o", tmp_path / "out")
    assert done.code == 1
    assert done.err == f"mpqc: internal error: RuntimeError: not as expected (a bug; details in {tmp_path / 'out' / 'log.txt'})\n"
    assert "Traceback" in (tmp_path / "out" / "log.txt").read_text()


def test_pictures_that_nobody_declared(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for index in range(4):
        Image.new("RGB", (8, 8), (60 * index, 90, 200)).save(tmp_path / "pictures" / f"{index}.png")
    line = mpqc("compile", place.model, "--data", tmp_path / "pictures", "-q", "-o", tmp_path / "out").complaint(2)
    assert "--preset NAME" in line
    assert "signed (-1..1" in line
    assert listing(tmp_path / "out") <= WRITTEN


@pytest.mark.parametrize(("option", "value"), [("--preset", "vgg"), ("--resize", "tall"), ("--layout", "chwn"), ("--scale", "0")])
def test_preprocessing_that_cannot_be_meant(mpqc: Mpqc, place: Place, tmp_path: Path, option: str, value: str) -> None:
    assert value in mpqc(*place.compiling, option, value, "-o", tmp_path / "out").complaint(2)
