"""Every way to reach a board, on boards that are emulated: a real sshd with ONNX Runtime for AArch64 behind it, TVM's own RPC server, TVM's tracker.

    python benchmarks/boards.py            # minutes; fetches AArch64 packages by apt-get and pip into benchmarks/work

A small network runs on each board as `mpqc bench` and as `mpqc run` have it, whose outputs must be those of the integer numerics. TVM's server is its
Python one, run by an AArch64 Python under qemu-aarch64. Times are of the emulator: they say that all of it works, and nothing of any chip.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from provenance import REPO, SMOKE, WORK, write_results

sys.path.insert(0, str(REPO))
from mpqc.numerics.interpreter import Interpreter
from mpqc.qdq.read.program import read_qdq
from mpqc.runtime.run import SYSROOT
from mpqc.values.bench import read_bench
from tests.cli_runs import make_place
from tests.runtime.boards import SSHD, free_port, script, ssh_board, stopped, tracker, wait_for

KEY = "pi4"
PACKAGES = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libexpat1", "zlib1g", "libssl3", "libffi8", "libbz2-1.0", "liblzma5",
    "libsqlite3-0", "libuuid1",
)  # fmt: skip
WHEELS = (
    "apache-tvm==0.27.0", "apache-tvm-ffi==0.1.15.post2", "numpy", "ml_dtypes", "typing_extensions", "psutil", "cloudpickle", "onnxruntime==1.24.4",
    "flatbuffers", "packaging", "protobuf",
)  # fmt: skip
"""Newer ONNX Runtimes end in a segmentation fault under qemu 7.2, when they are imported"""
APT = """APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
Dir::State "{root}/state";
Dir::State::status "{root}/state/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "-";
"""
SOURCE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main\n"
SERVER = """
import sys
from tvm.rpc.server import PopenRPCServerState
port = int(sys.argv[1])
address = ("127.0.0.1", int(sys.argv[2])) if len(sys.argv) > 2 else None
PopenRPCServerState("127.0.0.1", port, port + 1, tracker_addr=address, key="pi4").thread.join()
"""
"""What `python -m tvm.exec.rpc_server` runs, without the process that watches it: an emulated program cannot start another"""


def aarch64_python(root: Path) -> Path:
    """A launcher of an AArch64 Python with TVM and ONNX Runtime, made once."""
    launcher = root / "python3"
    if launcher.is_file():
        return launcher
    for name in ("state/lists/partial", "cache/archives/partial", "files", "site", "packages"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "state" / "status").touch()
    (root / "apt.conf").write_text(APT.format(root=root))
    (root / "sources.list").write_text(SOURCE)
    environment = {**os.environ, "APT_CONFIG": str(root / "apt.conf")}
    for command in (["update", "-q"], ["download", *PACKAGES]):
        subprocess.run(["apt-get", *command], env=environment, cwd=root / "packages", check=True, stdout=subprocess.DEVNULL)
    for package in sorted((root / "packages").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, root / "files"], check=True)
    platforms = [word for version in ("2_27", "2_28", "2014") for word in ("--platform", f"manylinux{'_' * (version != '2014')}{version}_aarch64")]
    options = ["--quiet", "--python-version", "3.11", "--implementation", "cp", "--only-binary=:all:", "--no-deps", "--target", str(root / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *platforms, *options, *WHEELS], check=True)
    libraries = ":".join(f"{root}/files/{folder}/aarch64-linux-gnu" for folder in ("usr/lib", "lib"))
    settings = {"LD_LIBRARY_PATH": libraries, "PYTHONHOME": f"{root}/files/usr", "PYTHONPATH": f"{root}/site", "OMP_NUM_THREADS": "1"}
    words = " ".join(f"-E {name}={value}" for name, value in settings.items())
    return script(launcher, f'#!/bin/sh\nexec qemu-aarch64 -cpu cortex-a76 -L {SYSROOT} {words} {root}/files/usr/bin/python3.11 "$@"\n')


@contextmanager
def tvm_server(python: Path, folder: Path, *more: int) -> Iterator[int]:
    """Port of TVM's Python RPC server on an emulated board."""
    port = free_port()
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen([python, "-c", SERVER, str(port), *map(str, more)], stdout=log, stderr=log, cwd=folder)
    with stopped(server):
        deadline = time.monotonic() + 120
        while b"bind to" not in (folder / "server.log").read_bytes():
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)
        wait_for(port, folder / "server.log")
        yield port


def mpqc(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run([sys.executable, "-m", "mpqc", *map(str, arguments)], capture_output=True, text=True, check=False, env=environment)


def row(way: str, out: Path, options: Sequence[object], folder: Path) -> dict[str, object]:
    """What one way gives: bench and run, and whether the outputs are those of the numerics."""
    begun = time.perf_counter()
    done = mpqc("bench", out, *options, "--seconds", 0.2, "--warmup", 0.1, "--quiet")
    assert done.returncode == 0, done.stderr
    seconds, bench = time.perf_counter() - begun, read_bench(out / "bench.json")
    inputs = np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.save(folder / "x.npy", inputs)
    done = mpqc("run", out, *options, "--input", folder / "x.npy", "--output", folder / "y.npy")
    assert done.returncode == 0, done.stderr
    expected = Interpreter(read_qdq(out / "model.qdq.onnx")).run({"x": inputs})["y"]
    ran = [f"{item.name} {item.us.median / 1e3:.2f}" for item in bench.programs if item.us is not None]
    missing = [item.name for item in bench.programs if item.us is None]
    differ = int((np.load(folder / "y.npy") != expected).sum())
    print(f"{way}: {seconds:.0f} s, {', '.join(ran)}", flush=True)
    shown = {"emulated ms": ", ".join(ran), "not there": ", ".join(missing) or "-"}
    return {"way": way, "seconds": round(seconds, 1), **shown, "outputs that differ": differ}


def main() -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        out = make_place(folder).out
        rows = [row("--emulate", out, ["--emulate"], folder)]
        python = None if SMOKE else aarch64_python(WORK / "aarch64")
        if SSHD is not None:
            (folder / "board").mkdir()
            board = stack.enter_context(ssh_board(folder / "board", python or "none"))
            rows.append(row("--ssh: sshd, AArch64 Python", out, board.options, folder))
        if python is not None:
            port = stack.enter_context(tvm_server(python, folder))
            rows.append(row("--rpc: TVM's Python server", out, ["--rpc", f"127.0.0.1:{port}", "--key", KEY], folder))
            queue = stack.enter_context(tracker())
            (folder / "tracked").mkdir()
            stack.enter_context(tvm_server(python, folder / "tracked", queue))
            rows.append(row("--tracker: TVM's tracker and Python server", out, ["--tracker", f"127.0.0.1:{queue}", "--key", KEY], folder))
    assert not any(found["outputs that differ"] for found in rows), json.dumps(rows)
    write_results("boards", "Boards, all emulated by qemu-aarch64 as a Cortex-A76: times of the emulator, which say nothing of any chip", rows)


if __name__ == "__main__":
    main()
