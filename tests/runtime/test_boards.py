"""`mpqc bench` and `mpqc run` on boards: an emulated core behind a real sshd, and behind a real TVM RPC server and tracker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mpqc.flow.bench import Subject
from mpqc.flow.contestants import contestants_of
from mpqc.values.bench import EMULATED, FLOAT, INT8, PLAN, Bench, read_bench
from tests.cli_runs import Mpqc, Place
from tests.runtime.boards import SshBoard, build_rpc_board, free_port, rpc_board, small_disk, ssh_board, tracker

pytestmark = pytest.mark.emulator
SHORT = ("--seconds", 0.05, "--warmup", 0, "--quiet")
KEY = "pi4"


@pytest.fixture(scope="module")
def kept(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder whose baselines are made."""
    out = tmp_path_factory.mktemp("kept") / "out"
    shutil.copytree(place.out, out)
    made = contestants_of(out, Subject.of(out).target, ())
    assert set(made.programs) == {INT8, FLOAT}
    return out


@pytest.fixture
def out(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "out"))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshBoard]:
    with ssh_board(tmp_path_factory.mktemp("board")) as found:
        yield found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rpc_board(tmp_path_factory.mktemp("rpc") / "rpc_board")


@pytest.fixture(scope="module")
def server(program: Path) -> Iterator[int]:
    with rpc_board(program, program.parent / "root", KEY) as (port, _):
        yield port


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mine") / "x.npy"
    np.save(path, np.random.default_rng(5).standard_normal((3, 3, 8, 8)).astype(np.float32))
    return path


def check(bench: Bench, out: Path) -> None:
    """All that every benchmark in the emulator must say."""
    assert bench.how == EMULATED
    assert [row.name for row in bench.programs][:3] == [PLAN, INT8, FLOAT]
    for row in bench.programs[:3]:
        assert row.us is not None, row.absent
        assert 0 < row.us.min <= row.us.median <= row.us.p90 <= row.us.p99
        assert row.us.runs >= 5
        assert row.load_us
        assert row.first_us
        assert row.peak_bytes
    absent = {row.name: row.absent for row in bench.programs[3:]}
    assert set(absent) == {"onnxruntime-float", "onnxruntime-int8"}
    assert all(absent.values())
    layers = {row.name: row for row in bench.layers}
    predicted = {row["name"]: row["predicted_us"] for row in json.loads((out / "report.json").read_text())["layers"]}
    assert {"conv0", "conv1", "conv2", "mean", "fc"} <= set(layers)
    assert layers["conv1"].predicted_us == predicted["conv1"] > 0
    assert all(0 < row.least_us <= row.us for row in bench.layers)
    assert any("say nothing of how long they take on the chip" in note for note in bench.notes)


def test_in_the_emulator(mpqc: Mpqc, out: Path, place: Place) -> None:
    done = mpqc("bench", out, "--emulate", *SHORT)
    assert done.code == 0, done.err
    assert "emulated" in done.out
    assert "measured" not in done.out
    check(read_bench(out / "bench.json"), out)
    report = json.loads((out / "report.json").read_text())
    assert report["bench"]["programs"][0]["name"] == PLAN
    shown = mpqc("report", out).out
    assert "emulated us" in shown
    assert "bench: emulated on qemu-aarch64" in shown
    again = mpqc(*place.compiling, "--budget-size", "2000B", "-o", out)
    assert again.code == 0, again.err
    assert json.loads((out / "report.json").read_text())["bench"] is not None, "a finished compile must be found finished"


def test_on_a_board_by_ssh(mpqc: Mpqc, out: Path, board: SshBoard) -> None:
    done = mpqc("bench", out, *board.options, *SHORT, "--json", "--threads", 2, "--device", "my board")
    assert done.code == 0, done.err
    bench = read_bench(out / "bench.json")
    check(bench, out)
    assert json.loads(done.out) == json.loads((out / "bench.json").read_text())
    assert (bench.device, bench.threads) == ("my board", 2)
    assert bench.reached.startswith("ssh ")
    assert bench.programs[3].absent == "MPQC_PYTHON is none"


def test_a_run_by_ssh_gives_what_the_numerics_give(mpqc: Mpqc, out: Path, board: SshBoard, mine: Path, tmp_path: Path) -> None:
    for options, name in ((board.options, "there"), (["--emulate"], "here")):
        done = mpqc("run", out, *options, "--input", mine, "--output", tmp_path / f"{name}.npy")
        assert done.code == 0, done.err
    np.testing.assert_array_equal(np.load(tmp_path / "there.npy"), np.load(tmp_path / "here.npy"))


def test_a_board_that_drops_the_connection(mpqc: Mpqc, out: Path, board: SshBoard) -> None:
    before = (out / "report.json").read_bytes()
    done = mpqc("bench", out, *board.launched_by(board.root / "drop"), *SHORT)
    assert "ssh does not get there, or lost it" in done.complaint(1)
    assert not (out / "bench.json").exists()
    assert (out / "report.json").read_bytes() == before


def test_a_board_without_space(mpqc: Mpqc, out: Path, board: SshBoard, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as small:
        line = mpqc("bench", out, *board.launched_by(board.root / "launch", f"TMPDIR={small}"), *SHORT).complaint(1)
        assert "the board has no space left" in line
        assert "No space left on device" in line
        assert not list(small.iterdir()), "what was sent is removed"


@pytest.mark.slow
def test_an_rpc_board_without_space(mpqc: Mpqc, out: Path, program: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "root") as root, rpc_board(program, root, KEY) as (port, _):
        line = mpqc("bench", out, "--rpc", f"127.0.0.1:{port}", "--key", KEY, *SHORT, "--alone").complaint(1)
    assert "a file does not arrive whole" in line
    assert "is its disk full?" in line
    assert not (out / "bench.json").exists()


def test_wrong_results_have_no_time(mpqc: Mpqc, out: Path, board: SshBoard, server: int) -> None:
    expected = next((out / "bundle" / "expected").iterdir())
    np.save(expected, np.load(expected) + 1)
    assert "the outputs differ" in mpqc("bench", out, *board.options, *SHORT, "--alone").complaint(1)
    assert "the outputs differ" in mpqc("bench", out, "--rpc", f"127.0.0.1:{server}", "--key", KEY, *SHORT, "--alone").complaint(1)
    assert not (out / "bench.json").exists()


def test_a_folder_that_benchmarks_itself(mpqc: Mpqc, out: Path, board: SshBoard, tmp_path: Path) -> None:
    done = mpqc("bench", out, "--bundle", tmp_path / "folder", *SHORT)
    assert done.code == 0, done.err
    environment = {**os.environ, "MPQC_LAUNCHER": str(board.root / "launch"), "MPQC_PYTHON": "none"}
    run = subprocess.run([tmp_path / "folder" / "run.sh", "--threads", "2"], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (tmp_path / "results.json").write_text(run.stdout)
    done = mpqc("bench", out, "--results", tmp_path / "results.json", "--device", "my board")
    assert done.code == 0, done.err
    bench = read_bench(out / "bench.json")
    check(bench, out)
    assert (bench.threads, bench.reached) == (2, "results of its own run.sh")
    assert "exists already" in mpqc("bench", out, "--bundle", tmp_path / "folder").complaint(2)


def test_on_a_board_of_an_rpc_server(mpqc: Mpqc, out: Path, server: int) -> None:
    done = mpqc("bench", out, "--rpc", f"127.0.0.1:{server}", "--key", KEY, *SHORT)
    assert done.code == 0, done.err
    bench = read_bench(out / "bench.json")
    check(bench, out)
    assert bench.board.machine == "aarch64"
    assert any("RPC server" in note for note in bench.notes)


def test_a_run_over_rpc_gives_what_the_numerics_give(mpqc: Mpqc, out: Path, server: int, mine: Path, tmp_path: Path) -> None:
    for options, name in ((["--rpc", f"127.0.0.1:{server}", "--key", KEY], "there"), (["--emulate"], "here")):
        done = mpqc("run", out, *options, "--input", mine, "--output", tmp_path / f"{name}.npy")
        assert done.code == 0, done.err
    np.testing.assert_array_equal(np.load(tmp_path / "there.npy"), np.load(tmp_path / "here.npy"))


def test_two_boards_of_a_tracker(mpqc: Mpqc, out: Path, program: Path, tmp_path: Path) -> None:
    with tracker() as port, rpc_board(program, tmp_path / "a", KEY, port), rpc_board(program, tmp_path / "b", KEY, port):
        for _ in range(3):
            done = mpqc("bench", out, "--tracker", f"127.0.0.1:{port}", "--key", KEY, *SHORT, "--alone")
            assert done.code == 0, done.err
        assert read_bench(out / "bench.json").reached == f"tracker 127.0.0.1:{port}, key {KEY}"
        used = [len(list((tmp_path / name).iterdir())) for name in ("a", "b")]
        assert sum(used) == 3
        assert min(used) > 0
        line = mpqc("bench", out, "--tracker", f"127.0.0.1:{port}", "--key", "pi9", *SHORT, "--alone").complaint(1)
        assert "the tracker has no board of this key" in line
        assert f"it knows {KEY}" in line


def test_an_rpc_board_that_is_switched_off(mpqc: Mpqc, out: Path, program: Path, tmp_path: Path) -> None:
    with rpc_board(program, tmp_path / "root", KEY) as (port, server):

        def switch_off() -> None:
            while not list((tmp_path / "root").glob("session*/model.so")):
                time.sleep(0.02)
            time.sleep(0.5)
            os.killpg(server.pid, signal.SIGKILL)

        thread = threading.Thread(target=switch_off)
        thread.start()
        done = mpqc("bench", out, "--rpc", f"127.0.0.1:{port}", "--key", KEY, "--seconds", 20, "--warmup", 0, "--quiet", "--alone")
        thread.join()
    assert "it failed on the board: the connection broke" in done.complaint(1)
    assert not (out / "bench.json").exists()


@pytest.mark.parametrize("option", ["--rpc", "--tracker"])
def test_where_nothing_listens(mpqc: Mpqc, out: Path, option: str) -> None:
    line = mpqc("bench", out, option, f"127.0.0.1:{free_port()}", "--key", KEY, *SHORT).complaint(1)
    assert "nothing answers there" in line
    assert "python -m tvm.exec.rpc_" in line


def test_a_server_of_another_key(mpqc: Mpqc, out: Path, server: int) -> None:
    assert "no session" in mpqc("bench", out, "--rpc", f"127.0.0.1:{server}", "--key", "other", *SHORT).complaint(1)
