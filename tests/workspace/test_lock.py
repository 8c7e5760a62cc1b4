"""One run at a time in a folder; what killed ones left goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpqc.errors import UsageError
from mpqc.workspace.folder import open_workspace
from mpqc.workspace.lock import locked
from tests.cli_runs import Mpqc, Place, listing


def test_a_second_run_is_told_who_runs_and_the_first_one_is_not_disturbed(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "out")
    with locked(workspace):
        with (
            pytest.raises(UsageError, match=r"another run of mpqc writes here \(wait for it") as refused,
            locked(workspace),
        ):
            pass
        assert refused.value.exit_code == 2
    with locked(workspace):
        pass


def test_the_command_line_says_it_in_one_line_and_touches_nothing(mpqc: Mpqc, place: Place, tmp_path: Path) -> None:
    with locked(open_workspace(tmp_path / "out")):
        before = listing(tmp_path / "out")
        line = mpqc(*place.compiling, "-o", tmp_path / "out").complaint(2)
        assert str(tmp_path / "out") in line
        assert "another run of mpqc" in line
        assert listing(tmp_path / "out") == before


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from mpqc.workspace.folder import open_workspace
from mpqc.workspace.lock import locked
workspace = open_workspace(Path({str(tmp_path / "out")!r}))
with locked(workspace), workspace.replacing("model.so") as partial:
    partial.write_text("half")
    workspace.path(".mpqc-link-abc").mkdir()
    workspace.path(".mpqc/.mpqc-probe-abc").write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    left = listing(tmp_path / "out")
    assert any("partial" in name for name in left)
    workspace = open_workspace(tmp_path / "out")
    workspace.write_text("plan.json", "kept")
    with locked(workspace):
        assert listing(tmp_path / "out") == {".mpqc", "plan.json"}


def test_what_another_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path)
    running, gone = tmp_path / f".host.so.{os.getppid()}.partial", tmp_path / ".host.so.999999999.partial"
    running.write_text("")
    gone.write_text("")
    with locked(workspace):
        assert (running.exists(), gone.exists()) == (True, False)
