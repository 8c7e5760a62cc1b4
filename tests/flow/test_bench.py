"""What becomes of a board's results: bench.json, the report, corrected cost rows; other engines; and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mpqc.errors import RunError, UsageError
from mpqc.flow.artifacts import remove_program
from mpqc.runtime.bench_folder import read_results
from mpqc.runtime.remote import Board, Server
from mpqc.targets import load_target
from mpqc.values.bench import MEASURED, Conditions, RunReport, read_bench, was_throttled
from mpqc.values.json_file import parse_record
from mpqc.workspace.folder import Workspace
from tests.cli_runs import Mpqc, Place, small_model

ENGINES = Path(__file__).resolve().parents[2] / "mpqc" / "runtime" / "engines.py"
BEFORE = {"governor": "ondemand", "khz": 1500000, "most_khz": 1800000, "temperature_mc": 48200, "throttle_flags": 0}
AFTER = {**BEFORE, "khz": 1800000, "temperature_mc": 61500}
LITERT = """
class Interpreter:
    def __init__(self, model_path, num_threads): print("threads", num_threads, file=__import__("sys").stderr)
    def allocate_tensors(self): pass
    def get_input_details(self): return [{"index": 0, "shape": [1, 8, 8, 3], "dtype": "int8"}]
    def set_tensor(self, index, values): assert (values.shape, values.dtype.name) == ((1, 8, 8, 3), "int8")
    def invoke(self): pass
"""


def run_report(scale: float, layers: dict[str, float] | None = None, **more: Any) -> dict[str, Any]:
    """What a runner on a board says, where everything takes `scale` microseconds."""
    spread = {"min": scale, "median": 1.1 * scale, "p90": 1.5 * scale, "p99": 2 * scale, "mean": 1.2 * scale, "deviation": 0.1 * scale, "runs": 500}
    board = {"model": "Raspberry Pi 5", "kernel": "Linux 6.6", "machine": "aarch64", "cores": 4, "emulated": False}
    rows = [{"op": name, "kernel": f"conv_{name}", "macs": 0, "us": 1.1 * us, "min": us} for name, us in (layers or {}).items()]
    report = {
        "schema_version": 2,
        "board": board,
        "threads": 1,
        "cpus": [2, 3],
        "load_us": 1000.0,
        "microseconds": spread,
        "before": BEFORE,
        "after": AFTER,
    }
    return {**report, "profile": rows, **more}


@pytest.fixture
def out(place: Place, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place.out, tmp_path / "out"))


@pytest.fixture
def results(out: Path, tmp_path: Path) -> Path:
    """Results of a board where every layer takes 1.5 times what is predicted."""
    layers = {row["name"]: 1.5 * row["predicted_us"] for row in json.loads((out / "report.json").read_text())["layers"] if row["predicted_us"]}
    other = {"model": None, "kernel": "Linux 6.6", "machine": "x86_64", "cores": 4, "emulated": False}
    runs = {
        "plan": run_report(4.0, layers, first_us=9.0, peak_bytes=5000000),
        "int8": run_report(3.0),
        "float": {"error": "no room"},
        "onnxruntime-float": run_report(8.0, engine="onnxruntime 1.30"),
        "onnxruntime-int8": run_report(8.0, engine="onnxruntime 1.30", board=other),
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"schema_version": 1, "runs": runs}))
    return path


def test_results_of_a_board_stand_in_bench_json_report_and_page(mpqc: Mpqc, out: Path, results: Path) -> None:
    done = mpqc("bench", out, "--results", results)
    assert done.code == 0, done.err
    bench = read_bench(out / "bench.json")
    assert (bench.how, bench.device, bench.threads) == (MEASURED, "Raspberry Pi 5", 1)
    assert [row.name for row in bench.programs] == ["plan", "int8", "float", "onnxruntime-float", "onnxruntime-int8"]
    assert bench.programs[2].absent == "no room"
    assert bench.programs[4].absent == "it ran on x86_64, the program on aarch64: these times do not compare"
    assert bench.programs[0].throttled is False
    for text in (done.out, mpqc("report", out).out):
        assert "measured on Raspberry Pi 5" in text
        assert "clock 1.50 to 1.80 of 1.80 GHz, governor ondemand, 48.2 to 61.5 C, not throttled" in text
        assert "the governor of the clock is ondemand" in text
        assert "one run in ten takes 1.36 times the median" in text
        assert "not timed: no room" in text
        assert "onnxruntime 1.30" in text
    shown = mpqc("report", out).out
    assert "measured us" in shown
    trust = [line for line in shown.splitlines() if line.startswith("trust:")]
    assert any("latency: 0.004 ms measured on Raspberry Pi 5" in line for line in trust)
    written = json.loads((out / "bench.json").read_text())
    assert {"schema_version": written["schema_version"], **json.loads((out / "report.json").read_text())["bench"]} == written
    assert "measured on Raspberry Pi 5" in (out / "report.html").read_text()


def test_another_plan_has_no_benchmark(mpqc: Mpqc, out: Path, results: Path) -> None:
    assert mpqc("bench", out, "--results", results).code == 0
    assert mpqc("allocate", out, "--budget-size", "2100B").code == 0
    assert "bench.json" in (out / "STALE.txt").read_text()
    assert "its program is of another plan" in mpqc("bench", out, "--results", results).complaint(1)
    remove_program(Workspace(out))
    assert not (out / "bench.json").exists()


def test_measured_layers_correct_the_targets_rows(mpqc: Mpqc, out: Path, results: Path, tmp_path: Path) -> None:
    done = mpqc("bench", out, "--results", results, "--calibrate")
    assert done.code == 0, done.err
    assert "conv: 1.5" in done.err
    path = out / "calibrated" / "cortex-a76.toml"
    assert f"--target {path}" in done.out
    before, after = load_target("cortex-a76"), load_target(path)
    measured = [row for row in after.rows if row.origin == "measured on Raspberry Pi 5"]
    assert {row.kernel for row in measured} == {"conv", "depthwise", "gemm", "average_pool"}
    assert after.model_copy(update={"rows": ()}) == before.model_copy(update={"rows": ()})
    olds = {(row.kernel, row.shape, row.weight_bits, row.activation_bits): row for row in before.rows}
    for row in after.rows:
        old = olds.get((row.kernel, row.shape, row.weight_bits, row.activation_bits))
        if old is None or row in measured:
            continue
        assert row.origin == old.origin
        factor = row.cycles / old.cycles
        assert (1.4 < factor < 1.7 and "layers on Raspberry Pi 5" in row.method) if row.kernel in {"conv", "depthwise", "gemm"} else True
        assert row == old if row.kernel in {"table", "call", "run", "quantize"} else True
    again = mpqc("allocate", out, "--budget-size", "2000B")
    assert again.code == 0, again.err


def test_corrected_rows_predict_what_was_measured(mpqc: Mpqc, place: Place, out: Path, results: Path, tmp_path: Path) -> None:
    assert mpqc("bench", out, "--results", results, "--calibrate").code == 0
    done = mpqc("check", place.model, "--target", out / "calibrated" / "cortex-a76.toml", "--json")
    plain = mpqc("check", place.model, "--target", "cortex-a76", "--json")
    new, old = ({row["node"]: row["microseconds"] for row in json.loads(text.out)["fates"]} for text in (done, plain))
    for name in ("conv0", "conv1", "conv2"):
        assert 1.3 < new[name] / old[name] < 1.7


def test_python_asks_for_the_same(out: Path, results: Path) -> None:
    import mpqc as api

    bench = api.bench_folder(out, api.Benching(results=results, device="my board", calibrate=True))
    assert isinstance(bench, api.Bench)
    assert bench == api.read_bench(out / "bench.json")
    assert {row.origin for row in load_target(out / "calibrated" / "cortex-a76.toml").rows} == {"modelled", "measured on my board"}
    with pytest.raises(UsageError, match="say where to run"):
        api.Benching()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "say where to run"),
        (("--emulate", "--ssh", "pi"), "--emulate and --ssh exclude each other (give one of them)"),
        (("--bundle", "x", "--rpc", "pi:9090"), "exclude each other"),
        (("--tracker", "pi:9190"), "--tracker: needs --key"),
        (("--emulate", "--key", "pi4"), "--key: needs --tracker or --rpc"),
        (("--emulate", "--identity", "ID"), "--identity and --ssh-option need --ssh"),
        (("--rpc", "pi"), "is not HOST:PORT"),
        (("--rpc", "pi:99999"), "is not HOST:PORT"),
        (("--ssh", "-oProxyCommand=x"), "is not HOST[:PORT]"),
        (("--emulate", "--calibrate"), "only a board measures"),
        (("--emulate", "--cpus", "1;reboot"), "is no list of cores"),
        (("--ssh", "pi", "--price"), "a pricing tool works under the emulator"),
        (("--emulate", "--tflite", "ID"), "is no .tflite file"),
    ],
)
def test_options_that_do_not_go_together(mpqc: Mpqc, place: Place, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    (tmp_path / "id").write_text("")
    given = [tmp_path / "id" if word == "ID" else word for word in options]
    assert message in mpqc("bench", place.out, *given).complaint(2)


def test_folders_without_a_program_are_refused(mpqc: Mpqc, tmp_path: Path) -> None:
    assert "holds no bundle" in mpqc("bench", tmp_path, "--emulate").complaint(1)
    assert "does not exist" in mpqc("bench", tmp_path / "none", "--emulate").complaint(2)
    for text in ("", "{}", "[]", '{"target": 3}'):
        (tmp_path / "model.json").write_text(text)
        assert "model.json: is not the description of an mpqc module" in mpqc("bench", tmp_path, "--emulate").complaint(1)


def test_a_damaged_module_is_named_without_the_folder_that_it_was_copied_to(mpqc: Mpqc, out: Path, tmp_path: Path) -> None:
    shutil.copytree(out / "bundle", tmp_path / "bundle")
    module = tmp_path / "bundle" / "model.so"
    module.write_bytes(module.read_bytes()[:4000])
    said = mpqc("bench", tmp_path, "--emulate", "--alone").complaint(1)
    assert "bench: failed in the emulator: model.so: it is cut off" in said


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"schema_version": 1, "runs": {}}', '{"schema_version": 2, "runs": {"plan": {}}}', '{"schema_version": 1, "runs": {"plan": 3}}'],
)
def test_results_that_are_none(text: str) -> None:
    with pytest.raises(Exception, match=r"results.json") as caught:
        read_results(text, "results.json")
    assert isinstance(caught.value, RunError) or "report of a run" in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "throttled"),
    [
        (Conditions(), Conditions(), None),
        (Conditions(throttle_flags=0), Conditions(throttle_flags=0), False),
        (Conditions(throttle_flags=0x50000), Conditions(throttle_flags=0x50000), False),
        (Conditions(throttle_flags=0x50000), Conditions(throttle_flags=0xD0000), True),
        (Conditions(throttle_flags=0), Conditions(throttle_flags=0x4), True),
        (Conditions(throttle_count=3), Conditions(throttle_count=3), False),
        (Conditions(throttle_count=3), Conditions(throttle_count=4), True),
        (Conditions(cooling_state=0), Conditions(cooling_state=0), False),
        (Conditions(cooling_state=0), Conditions(cooling_state=2), True),
        (Conditions(cooling_state=0, throttle_flags=0), Conditions(cooling_state=0, throttle_flags=2), True),
    ],
)
def test_throttling_is_known_where_the_board_says_it(before: Conditions, after: Conditions, throttled: bool | None) -> None:
    """Raspberry Pi: 0x1 and 0x10000 are low voltage alone; what was so before the run does not count."""
    assert was_throttled(before, after) is throttled


def engine(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ENGINES), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **more}, cwd="/")


def test_onnx_runtime_says_what_the_runner_says(tmp_path: Path) -> None:
    onnx.save(small_model(), tmp_path / "float.onnx")
    (tmp_path / "inputs").mkdir()
    np.save(tmp_path / "inputs" / "x.npy", np.zeros((2, 3, 8, 8), np.float32))
    options = ["--inputs", tmp_path / "inputs", "--threads", 2, "--repeat", 3, "--warmup", 1, "--seconds", 0.05, "--cpus", "0"]
    done = engine(tmp_path / "float.onnx", *options)
    assert done.returncode == 0, done.stderr
    report = parse_record(RunReport, done.stdout, "", "report of a run", 2)
    assert report.engine.startswith("onnxruntime 1.")
    assert (report.threads, report.cpus) == (2, (0,))
    assert report.microseconds.runs >= 3
    assert 0 < report.microseconds.min <= report.microseconds.median <= report.microseconds.p99
    assert report.first_us
    assert report.peak_bytes
    np.save(tmp_path / "inputs" / "x.npy", np.zeros((1, 3, 9, 9), np.float32))
    assert "no input of shape [1, 3, 8, 8]" in engine(tmp_path / "float.onnx", *options).stderr.splitlines()[-1]


def test_litert_is_run_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "net.tflite").write_bytes(b"")
    (tmp_path / "inputs").mkdir()
    options = [tmp_path / "net.tflite", "--inputs", tmp_path / "inputs", "--repeat", 2]
    assert engine(*options).stderr.splitlines()[-1] == "ModuleNotFoundError: this Python has no LiteRT: pip install ai-edge-litert"
    package = tmp_path / "site" / "ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "interpreter.py").write_text(LITERT)
    done = engine(*options, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    assert parse_record(RunReport, done.stdout, "", "report of a run", 2).engine.startswith("litert")


def test_boards_are_named_as_a_person_reaches_them() -> None:
    assert (Board.parse("pi@board:2222").where, Board.parse("pi@board:2222").by_hand) == ("pi@board:2222", "ssh -p 2222 pi@board")
    assert (Board.parse("board").where, Board.parse("board").by_hand) == ("board", "ssh board")


def test_addresses_of_servers() -> None:
    assert Server.parse("10.0.0.7:9090", None, tracked=False) == Server("10.0.0.7", 9090)
    assert Server.parse("[fe80::1]:9190", "pi4", tracked=True) == Server("fe80::1", 9190, "pi4", True)
    for text in ("host", "host:0", ":9090", "a b:1", "user@host:1"):
        with pytest.raises(UsageError, match="is not HOST:PORT"):
            Server.parse(text, None, tracked=False)
