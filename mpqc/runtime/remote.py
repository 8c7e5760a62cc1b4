"""A board reached over the network: `ssh` takes a folder there, runs its run.sh, and brings back what it prints."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mpqc.errors import RunError, ToolMissingError, UsageError

ADDRESS = re.compile(r"(?P<host>(?:[\w.-]+@)?[\w][\w.-]*|(?:[\w.-]+@)?\[[0-9a-fA-F:.]+\])(?::(?P<port>\d{1,5}))?", re.ASCII)
THERE = 'set -e; there=$(mktemp -d); trap \'rm -rf "$there"\' EXIT; tar xf - -C "$there"; sh "$there"/run.sh'
"""What the board runs: nothing of it depends on what the user wrote."""


@dataclass(frozen=True)
class Board:
    """Where ssh finds a board. `host` may begin with `user@`."""

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Board:
        """HOST, USER@HOST, either with :PORT. Raises UsageError for anything else (an option for ssh, say)."""
        found = ADDRESS.fullmatch(text)
        port = int(found["port"]) if found and found["port"] else None
        if found is None or (port is not None and not 0 < port < 1 << 16):
            raise UsageError(f"{text!r} is not HOST[:PORT]", where="--rpc", hint="write for example pi@raspberrypi.local, or 192.168.0.7:2222")
        return cls(found["host"].replace("[", "").replace("]", ""), port)

    @property
    def command(self) -> list[str]:
        """The ssh command, which never asks anything."""
        return ["ssh", "-o", "BatchMode=yes", *(["-p", str(self.port)] if self.port else []), "--", self.host]


def timed(folder: Path, board: Board, seconds: float = 3600.0) -> str:
    """What `folder`'s run.sh prints on `board`; nothing stays there. Raises ToolMissingError without ssh, RunError where anything fails."""
    if shutil.which("ssh") is None:
        raise ToolMissingError("ssh is missing", why="--rpc reaches the board through it", hint="apt-get install openssh-client")
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name)
        archive.seek(0)
        return _run([*board.command, THERE], archive, board.host, seconds)


def _run(command: list[str], stdin: object, host: str, seconds: float) -> str:
    try:
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False, timeout=seconds)  # type: ignore[call-overload]
    except subprocess.TimeoutExpired as error:
        raise RunError(f"no answer within {seconds:.0f} s", where=host, hint="run the folder's run.sh on the board, then give --times") from error
    if done.returncode:
        why = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
        hint = "try  ssh " + host + "  by hand" if done.returncode == 255 else f"exit code {done.returncode} on the board"
        raise RunError("the kernels could not be timed there", where=host, why=why, hint=hint)
    return str(done.stdout)
