"""A board reached over the network: `ssh` takes a folder there, runs its run.sh, and brings back what it prints."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mpqc.errors import RunError, ToolMissingError, UsageError

ADDRESS = re.compile(r"(?P<host>(?:[\w.-]+@)?[\w][\w.-]*|(?:[\w.-]+@)?\[[0-9a-fA-F:.]+\])(?::(?P<port>\d{1,5}))?", re.ASCII)
SERVER = re.compile(r"(?P<host>[\w][\w.-]*|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})", re.ASCII)
CLEAN = "there=$(mktemp -d); trap 'rm -rf \"$there\"' EXIT; trap 'exit 1' HUP INT TERM"
THERE = f'set -e; {CLEAN}; tar xf - -C "$there"; echo @mpqc; sh "$there"/run.sh'
"""What the board runs: nothing of it depends on what the user wrote."""
BEGIN = b"@mpqc\n"
"""After what the shell there says of itself (a greeting in .bashrc)"""
NO_SPACE = ("No space left on device", "Disk quota exceeded")
SSH_FAILED = 255
"""Exit code of ssh itself"""
PATIENCE = 10.0
"""Seconds for a connection to be made"""
ALIVE = ("-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
"""A board that answers no more is given up after a minute"""


@dataclass(frozen=True)
class Board:
    """Where ssh finds a board. `host` may begin with `user@`."""

    host: str
    port: int | None = None
    options: tuple[str, ...] = ()
    """Further words for ssh"""

    @classmethod
    def parse(cls, text: str, where: str = "--ssh", options: Sequence[str] = ()) -> Board:
        """HOST, USER@HOST, either with :PORT. Raises UsageError for anything else (an option for ssh, say)."""
        found = ADDRESS.fullmatch(text)
        port = int(found["port"]) if found and found["port"] else None
        if found is None or (port is not None and not 0 < port < 1 << 16):
            raise UsageError(f"{text!r} is not HOST[:PORT]", where=where, hint="write for example pi@raspberrypi.local, or 192.168.0.7:2222")
        return cls(found["host"].replace("[", "").replace("]", ""), port, tuple(options))

    @property
    def where(self) -> str:
        """As messages name it."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def by_hand(self) -> str:
        """The command as a person would type it."""
        return f"ssh {self.host}" if self.port is None else f"ssh -p {self.port} {self.host}"

    @property
    def command(self) -> list[str]:
        """The ssh command, which never asks anything."""
        return ["ssh", "-o", "BatchMode=yes", *self.options, *ALIVE, *(["-p", str(self.port)] if self.port else []), "--", self.host]


@dataclass(frozen=True)
class Server:
    """A server, or a tracker that hands out servers of `key`."""

    host: str
    port: int
    key: str = ""
    tracked: bool = False

    @classmethod
    def parse(cls, text: str, key: str | None, *, tracked: bool) -> Server:
        """HOST:PORT. Raises UsageError for anything else."""
        found = SERVER.fullmatch(text)
        if found is None or not 0 < int(found["port"]) < 1 << 16:
            where = "--tracker" if tracked else "--rpc"
            raise UsageError(f"{text!r} is not HOST:PORT", where=where, hint="write for example 192.168.0.7:9090")
        return cls(found["host"].strip("[]"), int(found["port"]), key or "", tracked)

    @property
    def where(self) -> str:
        """As messages name it."""
        return f"{self.host}:{self.port}" + (f" ({self.key})" if self.key else "")

    def require(self) -> None:
        """Raises RunError at once where nothing listens: TVM would try for a minute."""
        try:
            with socket.create_connection((self.host, self.port), PATIENCE):
                return
        except OSError as error:
            hint = f"start  python -m {'tvm.exec.rpc_tracker' if self.tracked else 'tvm.exec.rpc_server'}"
            raise RunError("nothing answers there", where=self.where, why=error.strerror or str(error), hint=hint) from error


def timed(folder: Path, board: Board, seconds: float = 3600.0) -> str:
    """What `folder`'s run.sh prints on `board`, as text; see `carried_out`."""
    return carried_out(folder, board, seconds).decode("utf-8", "replace")


def carried_out(folder: Path, board: Board, seconds: float = 3600.0) -> bytes:
    """What `folder`'s run.sh prints on `board`; nothing stays there. Raises ToolMissingError without ssh, RunError where anything fails."""
    _need_ssh()
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name)
        size = archive.tell()
        archive.seek(0)
        _, begun, said = _run(board, THERE, archive, seconds, size).partition(BEGIN)
    if not begun:
        raise RunError("it does not run commands", where=board.where, why="nothing of what was asked came back", hint=f"try  {board.by_hand} true")
    return said


def require_board(board: Board) -> None:
    """Raises RunError where ssh does not get to `board`, ToolMissingError without ssh: at once, before anything slow."""
    _need_ssh()
    with open(os.devnull, "rb") as nothing:
        _run(board, "true", nothing, 60.0, 0)


def _need_ssh() -> None:
    if shutil.which("ssh") is None:
        raise ToolMissingError("ssh is missing", why="the board is reached through it", hint="apt-get install openssh-client")


def unpacked(data: bytes, where: str) -> dict[str, bytes]:
    """The files in a tar archive that a board sent, by name. Raises RunError for anything else."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            return {entry.name.rsplit("/", 1)[-1]: _content(tar, entry) for entry in tar if entry.isfile()}
    except tarfile.TarError as error:
        raise RunError("the board sent no archive", where=where, why=str(error)) from error


def _content(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(entry)
    return b"" if file is None else file.read()


def _run(board: Board, command: str, stdin: IO[bytes], seconds: float, size: int) -> bytes:
    try:
        done = subprocess.run([*board.command, command], stdin=stdin, capture_output=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        hint = "run the folder's run.sh on the board by hand, and give what it prints"
        raise RunError(f"no answer within {seconds:.0f} s", where=board.where, hint=hint) from error
    if done.returncode:
        raise _failure(done.returncode, done.stderr.decode("utf-8", "replace").splitlines(), board, size)
    return done.stdout


def _failure(code: int, stderr: list[str], board: Board, size: int) -> RunError:
    """What went wrong, in one line of the board's own words."""
    lines = [line.strip() for line in stderr if line.strip()]
    full = next((line for line in lines if any(text in line for text in NO_SPACE)), None)
    if full is not None:
        hint = f"{size / 1e6:.0f} MB go to its folder for temporary files; free some, or set TMPDIR there (SendEnv, or its ~/.ssh/environment)"
        return RunError("the board has no space left", where=board.where, why=full, hint=hint)
    why = lines[-1].removeprefix("mpqc-runner: ") if lines else "no message"
    if code == SSH_FAILED:
        return RunError("ssh does not get there, or lost it", where=board.where, why=why, hint=f"try  {board.by_hand}  by hand")
    return RunError("it failed on the board", where=board.where, why=why, hint=f"exit code {code} there")
