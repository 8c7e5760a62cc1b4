"""report.json and report.html: written, and the first read back as a value."""

from __future__ import annotations

from pathlib import Path

from mpqc.errors import PlanError
from mpqc.report.html import render
from mpqc.report.model import SCHEMA_VERSION, Report
from mpqc.report.text import totals
from mpqc.values.json_file import read_record
from mpqc.workspace.folder import Workspace, to_json


def write_report(report: Report, workspace: Workspace) -> None:
    """Writes report.json and report.html. Raises MpqcError where the folder cannot be written."""
    workspace.write_text("report.json", to_json(report.to_dict()))
    workspace.write_text("report.html", render(report))


def read_report(path: Path) -> Report:
    """The report in `path`. Raises PlanError naming file, key and fault for anything that is not one."""
    report = read_record(Report, path, "report", SCHEMA_VERSION, "run mpqc compile first")
    try:
        totals(report)  # what showing it needs beyond types: sizes of memory by their names, an evaluation of the step that is kept
    except (LookupError, StopIteration) as error:
        raise PlanError("not a report", where=str(path), why=f"it cannot be shown: {type(error).__name__} {error}") from error
    return report
