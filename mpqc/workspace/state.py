"""Whether the files of an output folder belong together: what was finished, of which request and plan, and what is stale since the plan changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mpqc.errors import PlanError
from mpqc.values.json_file import Record, read_record
from mpqc.workspace.digest import File, digest
from mpqc.workspace.folder import MARKER, Workspace, to_json

SCHEMA_VERSION = 1
FINISHED = f"{MARKER}/finished.json"
SOLVED = f"{MARKER}/solved"
STALE = "STALE.txt"
"""Stands beside files of an older plan, for people"""
PLAN = "plan.json"
OF_PLAN = ("model.qdq.onnx", "model.so", "bundle", "bench.json", "report.json", "report.html")
"""What is made of a plan"""
KEPT = (PLAN, "sites.json", "sensitivities.json", *OF_PLAN)


@dataclass(frozen=True)
class Finished(Record):
    """finished.json: what a run left when it was done."""

    request: str
    """Digest of all that it was asked and given; empty where that has none"""
    files: Mapping[str, str]
    """File or folder -> digest of what is in it"""


def begin(workspace: Workspace) -> None:
    """From now on nothing in the folder is called finished."""
    workspace.remove(FINISHED)


def finish(workspace: Workspace, request: str) -> None:
    """What is in the folder now belongs together."""
    files = {name: found for name in KEPT if (found := _digest(workspace.path(name)))}
    workspace.write_text(FINISHED, to_json({"schema_version": SCHEMA_VERSION, "request": request, "files": files}))
    workspace.remove(STALE)


def renew(workspace: Workspace, names: Sequence[str]) -> None:
    """What is in the files `names` now belongs to what was finished there, if something was: it was added to them later."""
    known = _read(workspace.root)
    if known is None:
        return
    files = {**known.files, **{name: found for name in names if (found := _digest(workspace.path(name)))}}
    workspace.write_text(FINISHED, to_json({"schema_version": SCHEMA_VERSION, "request": known.request, "files": files}))


def is_finished(workspace: Workspace, request: str) -> bool:
    """Whether the folder holds all that `request` leaves, untouched since."""
    known = _read(workspace.root)
    if known is None or not request or known.request != request:
        return False
    return all(_digest(workspace.path(name)) == known.files.get(name, "") for name in KEPT)


def stale_files(root: Path) -> tuple[str, ...]:
    """The files in `root` that are of another plan than plan.json; none where no run was finished there."""
    known = _read(root)
    if known is None or known.files.get(PLAN, "") == _digest(root / PLAN):
        return ()
    return tuple(name for name in OF_PLAN if (root / name).exists())


def solved(workspace: Workspace) -> None:
    """Notes that plan.json is as the allocator wrote it, so that its proof is known to be its own."""
    workspace.write_text(SOLVED, _digest(workspace.path(PLAN)))


def is_solved(root: Path) -> bool:
    """Whether plan.json is as the allocator or a finished run wrote it, and nobody edited it."""
    known, now = _read(root), _digest(root / PLAN)
    written = (root / SOLVED).read_text(encoding="utf-8", errors="replace") if (root / SOLVED).is_file() else ""
    return now in (written, known.files.get(PLAN, "") if known else "")


def mark_stale(workspace: Workspace) -> tuple[str, ...]:
    """Writes what is stale to STALE, and returns it; where nothing is, STALE goes."""
    found = stale_files(workspace.root)
    if found:
        text = f"{', '.join(found)}: made of the plan before plan.json as it is now. mpqc build makes them of this one.\n"
        workspace.write_text(STALE, text)
    else:
        workspace.remove(STALE)
    return found


def _read(root: Path) -> Finished | None:
    """None where nothing is finished, or the record of it is damaged: then nothing is known to be."""
    with suppress(PlanError):
        return read_record(Finished, root / FINISHED, "record of a finished run", SCHEMA_VERSION)
    return None


def _digest(path: Path) -> str:
    """Of a file, or of all files in a folder with their names; empty where there is none."""
    if path.is_dir():
        return digest([(str(file.relative_to(path)), File(file)) for file in sorted(path.rglob("*")) if file.is_file()])
    return File(path).content if path.is_file() else ""
