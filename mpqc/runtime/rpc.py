"""A board that runs TVM's own RPC server, alone or behind TVM's tracker: files go there, and the runner, as a library, runs inside the server."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm import rpc

from mpqc.errors import RunError
from mpqc.runtime.libraries import plugin
from mpqc.runtime.remote import Server

WAITING = 600.0
"""Seconds that a board of the tracker may be busy with others"""
SESSION = 3600
"""Seconds after which a server ends the session itself"""
PLUGIN = "libmpqc_run.so"
ENTRY = "mpqc_run"
BROKEN = ("kShutdown", "kNone", "Socket", "socket")
"""In what TVM says where the other side is gone"""
SERVER_HINT = "is TVM's RPC server, of the same version and this key, still running there?"


@dataclass(frozen=True, eq=False)
class Session:
    """An open session: a folder of its own on the board, and the runner there."""

    remote: Any
    run_there: Any
    folder: str
    where: str

    def send(self, path: Path, name: str) -> None:
        """Copies a file into the folder there. Raises RunError where it does not arrive whole."""
        upload(self.remote, path, name, self.where)

    def fetch(self, name: str) -> bytes:
        """The content of a file there."""
        with told(self.where, "a file does not come back"):
            return bytes(self.remote.download(name))

    def run(self, options: Sequence[object]) -> str:
        """What mpqc-runner says, as JSON, with these options; `{there}` in one is the folder. Raises RunError in the board's words."""
        words = [str(word).replace("{there}", self.folder) for word in options]
        broken = next((word for word in words if "\n" in word), None)
        if broken is not None:
            raise RunError("an option with a line end cannot be sent", where=self.where, why=broken)
        with told(self.where, "it failed on the board"):
            return str(self.run_there("\n".join(words)))


@contextmanager
def session(server: Server) -> Iterator[Session]:
    """A session on `server`, or on the next free board of a tracker, with the runner loaded. Raises RunError where there is none to be had."""
    runner = plugin()
    server.require()
    with told(server.where, "no session", SERVER_HINT):
        remote = _requested(server) if server.tracked else rpc.connect(server.host, server.port, server.key, SESSION)
    upload(remote, runner, PLUGIN, server.where)
    with told(server.where, "the runner does not load there", SERVER_HINT):
        entry = remote.load_module(PLUGIN)[ENTRY]
        folder = str(remote.get_function("tvm.rpc.server.workpath")(""))
    yield Session(remote, entry, folder, server.where)


def upload(remote: Any, path: Path, name: str, where: str) -> None:
    """Copies a file to the board, and reads it back: TVM's server does not say where its disk is full. Raises RunError."""
    with told(where, "a file does not get there"):
        remote.upload(str(path), name)
        there = bytes(remote.download(name))
    if there != path.read_bytes():
        why = f"{len(there):,} of {path.stat().st_size:,} bytes of {name} are there"
        raise RunError("a file does not arrive whole", where=where, why=why, hint="is its disk full?")


@contextmanager
def told(where: str, what: str, hint: str = "") -> Iterator[None]:
    """What TVM raises in the block as RunError, in one line."""
    try:
        yield
    except RunError:
        raise
    except (RuntimeError, OSError, AttributeError, ValueError, AssertionError, TypeError) as error:
        reason = _reason(error)
        gone = any(text in reason for text in BROKEN)
        why, hint = (f"the connection broke ({reason})", SERVER_HINT) if gone else (reason, hint)
        raise RunError(what, where=where, why=why, hint=hint) from error


def _reason(error: Exception) -> str:
    """The sentence in what TVM raises: without traces of either side."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("File ", "Traceback", "RPCError: Error caught", "Stack trace", "[bt]", "at ", "#", "^"))]
    return (said[-1] if said else type(error).__name__).removeprefix("RuntimeError: ").removeprefix("InternalError: ")


def _requested(server: Server) -> Any:
    """A session with a board of the tracker; others that wait come first."""
    with _limited(WAITING):
        tracker = rpc.connect_tracker(server.host, server.port)
        known = _keys(tracker.summary())
        if server.key not in known:
            hint = f"it knows {', '.join(sorted(known))}" if known else "no board has registered with it"
            raise RunError("the tracker has no board of this key", where=server.where, hint=hint)
        return tracker.request(server.key, session_timeout=SESSION, max_retry=1)


def _keys(summary: Mapping[str, Any]) -> set[str]:
    return {str(row["key"]).partition(":")[2] for row in summary["server_info"]}


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Sockets that are made in the block wait no longer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
