"""A finished folder as the result that its compile gave."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from mpqc.errors import PlanError
from mpqc.flow.analysis import Material, analyze_network
from mpqc.flow.request_file import Asked, read_request
from mpqc.flow.results import MODEL, Analysis, Compiled
from mpqc.report.file import read_report
from mpqc.values.plan import read_plan
from mpqc.values.request import Options
from mpqc.workspace.folder import Workspace
from mpqc.workspace.job import Job
from mpqc.workspace.lock import locked
from mpqc.workspace.progress import Progress
from mpqc.workspace.state import PLAN, stale_files


def load(folder: str | Path) -> Compiled:
    """The result of the compile or build that wrote `folder`. Its analysis is made again, from checkpoints, when it is asked for.

    Raises PlanError where no compile finished there, and where the plan was changed since.
    """
    root = Path(folder)
    stale = stale_files(root)
    if stale:
        raise PlanError("plan.json is another one since", where=str(root), why=f"{', '.join(stale)} are stale", hint=f"mpqc build {root}")
    if not (root / MODEL).is_file():
        raise PlanError("no compile finished here", where=str(root), hint="run mpqc compile, or mpqc build after mpqc analyze and mpqc allocate")
    return Compiled(read_plan(root / PLAN), read_report(root / "report.json"), root, partial(analyzed_again, root))


def analyzed_again(root: Path) -> Analysis:
    """The analysis of the compile that wrote `root`. Raises PlanError where network or data are no longer there."""
    asked = read_request(Workspace(root))
    plan = read_plan(root / PLAN)
    options = replace(asked.options, plan=plan, fixed={}, budgets=()) if plan.proof.status == "given" else asked.options
    return analyzed_of(root, material_of(asked), options)


def analyzed_of(root: Path, material: Material, options: Options) -> Analysis:
    """The analysis of the finished compile of `material` in `root`, from its checkpoints."""
    workspace = Workspace(root)
    with locked(workspace):
        return analyze_network(material, options, Job(workspace, Progress(quiet=True, mute=True)))


def material_of(asked: Asked) -> Material:
    """What a folder's request works on."""
    return Material(asked.source, asked.data, asked.labels)
