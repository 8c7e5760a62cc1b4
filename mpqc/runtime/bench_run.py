"""Runs the folder of a benchmark: in the emulator, on a board by ssh, or inside TVM's RPC server there. All give the same JSON."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpqc.errors import RunError
from mpqc.runtime.bench_folder import Box, tolerance
from mpqc.runtime.remote import Board, Server, require_board, timed
from mpqc.runtime.run import emulator, launcher
from mpqc.values.bench import PLAN
from mpqc.values.reach import Reach

if TYPE_CHECKING:
    from mpqc.runtime.rpc import Session

PATIENCE = 3600.0
"""Seconds that a benchmark may take besides its repeated runs"""
PROGRAMS = 12
"""That are run, at most, more or less; the first of them twice"""
Say = Callable[[str], None]


def run_bench(folder: Path, reach: Reach, box: Box, say: Say) -> str:
    """What the benchmark in `folder` gives where `reach` says, as JSON; a line to `say` for each program. Raises RunError, ToolMissingError."""
    if reach.emulate:
        return _emulated(folder)
    if reach.ssh is not None:
        return timed(folder, board(reach, reach.ssh), PATIENCE + PROGRAMS * (box.seconds + box.warmup_seconds))
    return _over_rpc(folder, reach, box, say)


def require_reach(reach: Reach) -> None:
    """Raises, before anything slow, UsageError for an address that is none and RunError where nothing answers."""
    if reach.emulate:
        emulator("max")
    elif reach.ssh is not None:
        require_board(board(reach, reach.ssh))
    elif reach.places:
        rpc_server(reach).require()


def board(reach: Reach, address: str) -> Board:
    """The board that --ssh names, with what else ssh is told. Raises UsageError."""
    identity = ["-i", str(reach.identity)] if reach.identity else []
    return Board.parse(address, "--ssh", [*identity, *(word for text in reach.ssh_options for word in ("-o", text))])


def place(reach: Reach) -> str:
    """Where a program runs, in words."""
    if reach.emulate:
        return "emulator"
    if reach.ssh is not None:
        return f"ssh {reach.ssh}"
    return f"rpc {reach.rpc}" if reach.rpc is not None else f"tracker {reach.tracker}, key {reach.key}"


def _emulated(folder: Path) -> str:
    environment = {**os.environ, "MPQC_LAUNCHER": shlex.join(launcher(folder)), "MPQC_PYTHON": "none"}
    command, pipe = ["sh", str(folder / "run.sh")], subprocess.PIPE
    with subprocess.Popen(command, env=environment, text=True, process_group=0, stdout=pipe, stderr=pipe) as run:
        try:
            stdout, stderr = run.communicate()
        except BaseException:  # Ctrl-C, say: nothing of it goes on
            os.killpg(run.pid, signal.SIGKILL)
            raise
    if run.returncode:
        lines = [line for line in stderr.splitlines() if line.strip()]
        why = lines[-1].removeprefix("mpqc-runner: ") if lines else f"exit code {run.returncode}"
        why = why.replace(f"{folder}{os.sep}", "")  # a copy, which nobody will find
        raise RunError("failed in the emulator", where="mpqc bench", why=why, hint="mpqc build makes a damaged bundle again")
    return stdout


def _over_rpc(folder: Path, reach: Reach, box: Box, say: Say) -> str:
    from mpqc.runtime.rpc import session

    server = rpc_server(reach)
    with session(server) as there:
        for file in sorted((*(folder / "inputs").iterdir(), *(folder / "expected").iterdir())):
            there.send(file, file.name)
        say(f"{server.where}: {PLAN}")
        check = ["--profile", "--expected", "{there}", "--tolerance", tolerance(folder)]
        runs = {PLAN: _run_there(there, folder / "model.so", [*check, *box.options])}
        for module in sorted((folder / "programs").glob("*.so")):
            say(f"{server.where}: {module.stem}")
            runs[module.stem] = _run_or_why(there, module, box.options)
    if not runs[PLAN]["as_expected"]:
        raise RunError("the outputs differ from what they must be", where=server.where, why="a time of wrong results says nothing")
    return json.dumps({"schema_version": 1, "runs": runs})


def rpc_server(reach: Reach) -> Server:
    """The server or tracker that --rpc or --tracker names. Raises UsageError."""
    return Server.parse(reach.tracker or reach.rpc or "", reach.key, tracked=reach.tracker is not None)


def _run_there(there: Session, module: Path, options: Sequence[str]) -> dict[str, Any]:
    there.send(module, module.name)
    return dict(json.loads(there.run(["--model", f"{{there}}/{module.name}", "--input", "{there}", *options])))


def _run_or_why(there: Session, module: Path, options: Sequence[str]) -> dict[str, Any]:
    try:
        return _run_there(there, module, options)
    except RunError as error:
        return {"error": error.why or error.what}
