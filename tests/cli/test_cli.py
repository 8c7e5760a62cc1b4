"""What commands print and write when all is well: JSON alone on stdout, resuming, edited plans, logs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mpqc.flow import doctor
from mpqc.values.plan import read_plan
from tests.cli_runs import BUDGET, PLANNED, Mpqc, Place, samples, small_model
from tests.onnx_models import graph_model


def parsed(mpqc: Mpqc, *arguments: object) -> object:
    """The JSON that a command printed, and nothing else on stdout."""
    done = mpqc(*arguments)
    assert done.code == 0, done.err
    assert "\x1b" not in done.err
    assert "\r" not in done.err

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(done.out, parse_constant=refuse)


def test_json_alone_on_stdout(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    report = parsed(mpqc, "compile", place.model, "--data", place.data, "-o", tmp_path / "out", "--json", "-v")
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    analysis = parsed(mpqc, "analyze", place.model, "--data", place.data, "-o", tmp_path / "out", "--json")
    assert analysis == json.loads((tmp_path / "out" / "sensitivities.json").read_text())
    assert parsed(mpqc, "run", tmp_path / "out", "--host", "--json")
    plan = parsed(mpqc, "allocate", tmp_path / "out", "--budget-size", BUDGET, "--json")
    assert plan == json.loads((tmp_path / "out" / "plan.json").read_text())
    lowered = parsed(mpqc, "lower", tmp_path / "out" / "model.qdq.onnx", "-o", tmp_path / "low", "--target", "host", "--json")
    assert "portable loops" in lowered["note"]  # type: ignore[index]
    assert len(parsed(mpqc, "targets", "list", "--json")) >= 6  # type: ignore[arg-type]
    assert parsed(mpqc, "targets", "show", "cortex-a76", "--json")
    assert parsed(mpqc, "doctor", "--json")


def test_progress_goes_to_stderr(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    done = mpqc("analyze", place.model, "--data", place.data, "-o", tmp_path / "out")
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["import", "float network", "calibrate", "sensitivities"]
    assert "calibrate:" not in done.out


def test_without_data_the_warning_is_loud_and_recorded(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    done = mpqc("compile", place.model, "-q", "--samples", "4", "-o", tmp_path / "out", "--target", "ethos-u55-256")
    assert done.code == 0
    assert done.err.startswith("warning: no data was given")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["data"] == "noise"
    assert report["strategy"] == "roundoff"
    assert any("no data" in note for note in report["notes"])
    assert "WARNING no data was given" in (tmp_path / "out" / "log.txt").read_text()


def test_the_log_holds_versions_options_phases_and_the_end(place: Place) -> None:
    text = (place.out / "log.txt").read_text()
    for wanted in ("compile ", "python 3", "onnxruntime ", "option target = cortex-a76", "option budgets", "calibrate: ", "lower: ", "INFO finished"):
        assert wanted in text


def test_verbose_shows_debug_lines(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    loud = mpqc("analyze", place.model, "--data", place.data, "-o", tmp_path / "out", "--verbose", "-q")
    assert all(line.startswith("debug: ") for line in loud.err.splitlines())
    assert "debug: calibrate begins" in loud.err
    assert mpqc("analyze", place.model, "--data", place.data, "-o", tmp_path / "out", "-q").err == ""


def untouchable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("mpqc.quantize.calibration.calibrate", refuse)
    monkeypatch.setattr("mpqc.sensitivity.measure.measure", refuse)


def test_a_second_run_resumes(mpqc: Mpqc, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(place.out, tmp_path / "out")
    untouchable(monkeypatch)
    done = mpqc(*place.compiling, "--budget-size", BUDGET, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    for name in ("model.qdq.onnx", "model.so", "sensitivities.json"):
        assert (tmp_path / "out" / name).read_bytes() == (place.out / name).read_bytes()


def test_other_data_are_not_taken_from_a_checkpoint(mpqc: Mpqc, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(place.out, tmp_path / "out")
    np.save(tmp_path / "x.npy", samples(seed=9))
    untouchable(monkeypatch)
    assert "computed again" in mpqc("compile", place.model, "--data", tmp_path / "x.npy", "-q", "-o", tmp_path / "out").err


def test_allocating_again_scores_nothing(mpqc: Mpqc, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sites.json", "sensitivities.json"):
        shutil.copy(place.out / name, tmp_path)
    untouchable(monkeypatch)
    monkeypatch.setattr("mpqc.frontend.network.read_onnx", None)
    assert mpqc("allocate", tmp_path, "--budget-size", f"{PLANNED}B").code == 0
    again, first = read_plan(tmp_path / "plan.json"), read_plan(place.out / "plan.json")
    assert again.choices == first.choices
    assert mpqc("allocate", tmp_path, "--budget-size", "2.4kB").code == 0
    larger = next(use.used for use in read_plan(tmp_path / "plan.json").uses if use.resource == "size")
    assert next(use.used for use in first.uses if use.resource == "size") <= PLANNED < larger <= 2.4 * 1024


def test_an_edited_plan_is_obeyed(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    raw = json.loads((place.out / "plan.json").read_text())
    for choice in raw["choices"]:
        choice["bits"] = 4 if choice["site"] == "w2" else 8
    (tmp_path / "plan.json").write_text(json.dumps(raw))
    assert mpqc(*place.compiling, "--plan", tmp_path / "plan.json", "-o", tmp_path / "out").code == 0
    model = onnx.load(tmp_path / "out" / "model.qdq.onnx")
    types = {tensor.data_type for tensor in model.graph.initializer if list(tensor.dims) == [32, 16, 1, 1]}
    assert types == {TensorProto.INT4}
    assert {tensor.data_type for tensor in model.graph.initializer if list(tensor.dims) == [10, 32]} == {TensorProto.INT8}
    written = read_plan(tmp_path / "out" / "plan.json")
    assert (written.proof.status, written.bits("w2")) == ("given", 4)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {row["name"]: row["weight_bits"] for row in report["layers"]}["conv2"] == 4


def test_an_input_can_become_a_constant(mpqc: Mpqc, tmp_path: Path) -> None:
    model = small_model()
    node = model.graph.node[-1]
    node.output[0] = "logits"
    model.graph.node.append(helper.make_node("Mul", ["logits", "temperature"], ["y"], "scaled"))
    model.graph.input.append(helper.make_tensor_value_info("temperature", TensorProto.FLOAT, [1]))
    onnx.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", samples(4))
    arguments = ["compile", tmp_path / "model.onnx", "--data", tmp_path / "x.npy", "-q", "-o", tmp_path / "out", "--target", "ethos-u55-256"]
    assert "temperature" in mpqc(*arguments).complaint(1)
    assert mpqc(*arguments, "--value", "temperature=2").code == 0
    assert [value.name for value in onnx.load(tmp_path / "out" / "model.qdq.onnx").graph.input] == ["x"]
    assert "warmth" in mpqc(*arguments, "--value", "warmth=2").complaint(2)


def test_what_an_earlier_target_left_does_not_stay(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.out, tmp_path / "out")
    assert mpqc(*place.compiling, "--target", "ethos-u55-256", "-o", tmp_path / "out").code == 0
    assert not (tmp_path / "out" / "model.so").exists()
    assert not (tmp_path / "out" / "bundle").exists()


@pytest.mark.parametrize(
    ("break_it", "name"),
    [
        (lambda patch: patch.setenv("PATH", "/nowhere"), "emulator"),
        (lambda patch: patch.setattr(doctor, "SYSROOT", Path("/nowhere")), "AArch64 C and C++ libraries"),
    ],
)
def test_the_doctor_names_what_is_missing(
    mpqc: Mpqc, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], name: str
) -> None:
    break_it(monkeypatch)
    done = mpqc("doctor")
    assert done.code == 0  # compiling works without
    assert next(line for line in done.out.splitlines() if name in line).startswith("missing ")
    assert "apt-get install" in done.out


def test_the_doctor_fails_where_nothing_can_work(mpqc: Mpqc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", (*doctor.PACKAGES, "no-such-package-of-mpqc"))
    done = mpqc("doctor")
    assert done.code == 1
    assert "MISSING" in done.out
    assert "pip install no-such-package-of-mpqc" in done.out


def test_the_doctor_is_content_here(mpqc: Mpqc) -> None:
    assert mpqc("doctor").code == 0


def test_a_reader_that_leaves_is_not_told() -> None:
    """As `| head` does: the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "mpqc", "targets", "list"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is absent")
def test_output_to_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "mpqc", "targets", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["mpqc: file: No space left on device"]


def test_a_float_stretch_is_float_in_the_report(mpqc: Mpqc, tmp_path: Path) -> None:
    """The layer that is kept float by choice, and those that merge with it into one stretch."""
    onnx.save(small_model(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", samples(4))
    fixed = [part for site in ("w2", "r2", "c2", "w3", "y") for part in ("--fix", f"{site}=float")]
    arguments = ["compile", tmp_path / "model.onnx", "--data", tmp_path / "x.npy", "-q", "-o", tmp_path / "out", "--json"]
    sites = {site["name"] for site in json.loads(mpqc_sites(mpqc, arguments, tmp_path))["sites"]}
    chosen = [part for name, part in zip(fixed[::2], fixed[1::2], strict=True) if part.split("=")[0] in sites for part in (name, part)]
    report = json.loads(mpqc(*arguments, *chosen).out)
    inside = {name.strip() for row in report["floats"] for name in row["ops"].split(",")}
    assert {"Conv", "Gemm"} <= inside
    runs = {row["name"]: row["runs_as"] for row in report["layers"]}
    assert runs["conv0"] == runs["conv1"] == "integer"
    assert runs["conv2"].startswith("float: ")
    assert runs["fc"].startswith("float: ")
    assert {row["name"] for row in report["accumulators"]} == {"conv0", "conv1"}


def mpqc_sites(mpqc: Mpqc, arguments: list[object], folder: Path) -> str:
    """sites.json of the network that `arguments` compile."""
    assert mpqc(*arguments).code == 0
    return (folder / "out" / "sites.json").read_text()


def test_networks_without_a_layer_compile(mpqc: Mpqc, tmp_path: Path) -> None:
    """Nothing to decide: still a file, a module and a report."""
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    model = onnx.shape_inference.infer_shapes(graph_model(nodes, {"x": np.zeros((1, 4), np.float32)}, {}, ["y"]))
    onnx.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32))
    done = mpqc("compile", tmp_path / "model.onnx", "--data", tmp_path / "x.npy", "-q", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    line = mpqc("compile", tmp_path / "model.onnx", "--data", tmp_path / "x.npy", "-q", "-o", tmp_path / "out", "--budget-latency", "0.001us")
    assert line.code in (0, 3)
    assert "internal error" not in line.err


def test_the_trade_off_over_a_resource(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    for name in ("sites.json", "sensitivities.json"):
        shutil.copy(place.out / name, tmp_path)
    points = parsed(mpqc, "pareto", tmp_path, "--over", "size", "--points", "5", "--json")
    assert isinstance(points, list)
    assert json.loads((tmp_path / "pareto.json").read_text())["points"] == points
    assert all(point["used"] <= point["limit"] for point in points)
    used, losses = [point["used"] for point in points], [point["loss"] for point in points]
    assert used == sorted(used)
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]
    assert mpqc("pareto", tmp_path, "--points", "2").out.count("size within") == 2
    bounded = parsed(mpqc, "pareto", tmp_path, "--points", "2", "--budget-size", f"{used[2]}B", "--budget-avg-bits", "-/8", "--json")
    assert isinstance(bounded, list)
    assert bounded[0] == pytest.approx(points[0])
    assert bounded[-1]["used"] <= used[2] < used[-1]
    assert "--over" in mpqc("pareto", tmp_path, "--over", "beauty").complaint(2)
    mpqc("pareto", tmp_path, "--over", "energy").complaint(2)
    mpqc("pareto", place.root).complaint(1)


def test_a_report_can_be_shown_again(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    assert parsed(mpqc, "report", place.out, "--json") == json.loads((place.out / "report.json").read_text())
    assert "accumulators: no input overflows int32" in mpqc("report", place.out).out
    mpqc("report", tmp_path).complaint(1)
    for content in ("", "[]", "{}", '{"schema_version": 1}'):
        (tmp_path / "report.json").write_text(content)
        assert "report.json" in mpqc("report", tmp_path).complaint(1)
