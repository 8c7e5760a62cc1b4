"""Ctrl-C: exit code 130, one line, whole files only, and the same command goes on where it was cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpqc.cli.errors import ENDINGS, INTERRUPTED, TERMINATED, guarded
from tests.cli_runs import BUDGET, Mpqc, Place, listing

STOPPING = """
import os, signal, sys
import mpqc.{module} as module
original = module.{function}
def stopping(*arguments, **options):
    signal.raise_signal(signal.SIGINT)
    return original(*arguments, **options)
module.{function} = stopping
from mpqc.cli.app import run
run(sys.argv[1:])
"""
"""Runs the command line, which presses Ctrl-C itself when it comes to a function."""
PHASES = {
    "calibrate": ("quantize.calibration", "calibrate"),
    "sensitivities": ("sensitivity.measure", "measure"),
    "allocate": ("allocator.model", "_solved"),
    "export": ("qdq.write.export", "export_qdq"),
    "lower": ("lowering.binary", "_compiled"),
    "link": ("lowering.binary", "link_shared"),
    "report": ("flow.agreement", "measure"),
}


def assert_interrupted(code: int, out: str, err: str) -> None:
    assert code == INTERRUPTED, err
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]  # of the network, before it was stopped
    assert len(lines) == 1, err
    assert lines[0].startswith("mpqc: interrupted")


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["sensitivities", "link"])
def test_an_interrupted_compile_leaves_whole_files_and_goes_on(place: Place, mpqc: Mpqc, tmp_path: Path, phase: str) -> None:
    module, function = PHASES[phase]
    script = STOPPING.format(module=module, function=function)
    arguments = [str(argument) for argument in (*place.compiling, "--budget-size", BUDGET, "-o", tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert_interrupted(done.returncode, done.stdout, done.stderr)
    found = listing(tmp_path / "out")
    assert any(path.startswith(".mpqc/calibration-") for path in found)
    assert not any("partial" in path or "link" in path for path in found)
    assert "model.so" not in found
    kept = {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in found if path.startswith(".mpqc/")}
    assert mpqc(*arguments).code == 0
    assert {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in kept} == kept
    for name in ("model.qdq.onnx", "model.so"):
        assert (tmp_path / "out" / name).read_bytes() == (place.out / name).read_bytes()


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase not in ("sensitivities", "link")])
def test_ctrl_c_in_any_phase(place: Place, mpqc: Mpqc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    module, function = PHASES[phase]

    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(f"mpqc.{module}.{function}", stop)
    done = mpqc(*place.compiling, "--budget-size", BUDGET, "-o", tmp_path / "out")
    assert_interrupted(done.code, done.out, done.err)
    assert "interrupted" in (tmp_path / "out" / "log.txt").read_text()


def test_a_signal_from_outside_stops_the_compile(place: Place, tmp_path: Path) -> None:
    """As a terminal sends it: to the whole group, when the first checkpoint has been written."""
    arguments = [str(argument) for argument in (*place.compiling, "-o", tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mpqc", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not list((tmp_path / "out").glob(".mpqc/calibration-*.npz")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    # Python ends by the signal itself where Ctrl-C came while it ran a string of code; a shell shows 130 for both
    code = INTERRUPTED if process.returncode == -signal.SIGINT else process.returncode
    assert_interrupted(code, out, err)
    assert not any("partial" in path for path in listing(tmp_path / "out"))


@pytest.mark.parametrize("phase", ["calibrate", "allocate"])
def test_a_request_to_end_is_answered_like_ctrl_c(place: Place, mpqc: Mpqc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    module, function = PHASES[phase]
    monkeypatch.setattr(f"mpqc.{module}.{function}", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    done = mpqc(*place.compiling, "--budget-size", BUDGET, "-o", tmp_path / "out")
    assert (done.code, done.out) == (TERMINATED, "")
    assert done.err.startswith("mpqc: terminated: finished phases are kept")
    assert len(done.err.splitlines()) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_codes_are_those_of_a_shell() -> None:
    assert ENDINGS[signal.SIGTERM] == ("terminated", 128 + signal.SIGTERM)
    assert ENDINGS[signal.SIGINT] == ("interrupted", 128 + signal.SIGINT)


def test_ctrl_c_stops_the_solver_at_once() -> None:
    """A problem that takes far longer: CP-SAT must give up at the signal, not go on with what it has."""
    script = """
import os, random, signal, threading, time
from ortools.sat.python import cp_model
from mpqc.allocator.model import Effort, _set, _solved
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with the signal ignored
random.seed(0)
cp = cp_model.CpModel()
chosen = [cp.new_bool_var("") for _ in range(400)]
for _ in range(30):
    cp.add(sum(random.randint(1, 10**6) * literal for literal in chosen) <= 60 * 10**6)
cp.maximize(sum(random.randint(1, 10**6) * literal for literal in chosen))
solver = cp_model.CpSolver()
_set(solver.parameters, Effort(60.0, 1e9, 0))
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    _solved(solver, cp, 60.0)
except KeyboardInterrupt:
    print(time.monotonic() - start < 20)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_an_interrupt_that_a_library_turned_into_an_error_is_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    def library() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("callback failed") from error

    before = signal.getsignal(signal.SIGINT)
    assert guarded(library) == INTERRUPTED
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().err.startswith("mpqc: interrupted")
