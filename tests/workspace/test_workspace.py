"""The output folder: whole files or none, checkpoints that resume, other people's files left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpqc.errors import MpqcError, UsageError
from mpqc.workspace.folder import Workspace, open_workspace


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "out")
    workspace.write_text("plan.json", "old")

    def interrupted() -> None:
        with workspace.replacing("plan.json") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert workspace.path("plan.json").read_text() == "old"
    assert [path.name for path in workspace.root.iterdir() if path.name != ".mpqc"] == ["plan.json"]


def test_a_folder_with_other_files_needs_force(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="did not write"):
        open_workspace(tmp_path)
    open_workspace(tmp_path, force=True)
    open_workspace(tmp_path)  # the folder is mpqc's now
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        open_workspace(tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(MpqcError, match="cannot write"):
        open_workspace(tmp_path / "out")


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is absent")
    workspace = Workspace(tmp_path)

    def fill() -> None:
        with workspace.replacing("model.so"), open("/dev/full", "w") as full:
            full.write("x" * 100_000)

    with pytest.raises(MpqcError, match="No space left"):
        fill()
    assert list(tmp_path.iterdir()) == []
