"""Boards for tests: an AArch64 emulator that a real sshd, or a real TVM RPC server and tracker, reaches on this machine."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpqc.lowering.toolchain import zig
from mpqc.runtime.libraries import include_folders, libraries
from mpqc.runtime.run import emulator

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
NO_SSHD = "sshd is missing: apt-get install openssh-server"
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {root}/host
AuthorizedKeysFile {root}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
AcceptEnv MPQC_* TMPDIR
SetEnv MPQC_PYTHON={python}
"""
DROP = """#!/bin/sh
# A board that is switched off while it runs: the connection's own sshd is killed.
pid=$$
while [ "$pid" -gt 1 ]; do
    pid=$(cut -d ' ' -f 4 "/proc/$pid/stat")
    case $(cat "/proc/$pid/comm") in sshd*) kill -9 "$pid"; break ;; esac
done
sleep 5
"""


@dataclass(frozen=True)
class SshBoard:
    """A board that ssh reaches; `options` are those of mpqc."""

    root: Path
    port: int

    @property
    def options(self) -> list[object]:
        """An emulated core."""
        return self.launched_by(self.root / "launch")

    def launched_by(self, launcher: Path, *more: str) -> list[object]:
        """With a launcher of its own, and variables."""
        settings = " ".join((f"MPQC_LAUNCHER={launcher}", *more))
        asked = ("StrictHostKeyChecking=no", f"UserKnownHostsFile={self.root}/known", "LogLevel=ERROR", f"SetEnv={settings}")
        address = f"{getpass.getuser()}@127.0.0.1:{self.port}"
        return ["--ssh", address, "--identity", self.root / "user", *(part for text in asked for part in ("--ssh-option", text))]


@contextmanager
def ssh_board(root: Path, python: Path | str = "none") -> Iterator[SshBoard]:
    """A board behind an sshd of its own, with keys made for it, and a Python for other engines."""
    if SSHD is None:
        if os.environ.get("CI"):
            pytest.fail(NO_SSHD)
        pytest.skip(NO_SSHD)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
    board = SshBoard(root, free_port())
    (root / "config").write_text(CONFIG.format(port=board.port, root=root, python=python))
    script(root / "launch", f'#!/bin/sh\nexec {shlex.join(emulator("cortex-a76"))} "$@"\n')
    script(root / "drop", DROP)
    with (root / "log").open("wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", root / "config"], stderr=log)
    with stopped(server):
        wait_for(board.port, root / "log")
        yield board


@contextmanager
def rpc_board(program: Path, root: Path, key: str, tracker: int | None = None) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Port and process of the server that `build_rpc_board` made, in the emulator."""
    root.mkdir(exist_ok=True)
    more = [] if tracker is None else [str(tracker)]
    command = [*emulator("cortex-a76"), str(program), str(root), key, *more]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    with stopped(server):
        assert server.stdout is not None
        yield int(server.stdout.readline()), server


@contextmanager
def tracker() -> Iterator[int]:
    """Port of TVM's own tracker, in a thread."""
    from tvm.rpc import base
    from tvm.rpc.tracker import PopenTrackerServerState

    port = free_port()
    state = PopenTrackerServerState("127.0.0.1", port, port + 1, silent=True)
    try:
        yield port
    finally:
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            base.recvall(peer, 4)
            base.sendjson(peer, [base.TrackerCode.STOP, state.stop_key])
            state.thread.join(10)


def build_rpc_board(path: Path) -> Path:
    """The server of rpc_board.c, against TVM's AArch64 libraries."""
    folder = libraries()[0].parent
    includes = [f"-I{include}" for include in include_folders()]
    links = [f"-L{folder}", "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", f"-Wl,-rpath,{folder}"]
    zig("cc", "aarch64-linux-gnu", ["-O1", *includes, Path(__file__).with_name("rpc_board.c"), *links, "-o", path])
    return path


@contextmanager
def stopped(server: subprocess.Popen[str] | subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the process when the block does."""
    try:
        yield
    finally:
        server.kill()
        server.wait()


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A folder that holds 256 kB."""
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", path], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(port: int, log: Path) -> None:
    """Until something listens there."""
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(log.read_text())
