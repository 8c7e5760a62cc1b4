"""report.json and report.html: written, and the first read back as a value."""

from __future__ import annotations

import json
from pathlib import Path

from mpqc.errors import PlanError
from mpqc.report.html import render
from mpqc.report.model import SCHEMA_VERSION, Report
from mpqc.workspace.folder import Workspace, to_json


def write_report(report: Report, workspace: Workspace) -> None:
    """Writes report.json and report.html. Raises MpqcError where the folder cannot be written."""
    workspace.write_text("report.json", to_json(report.to_dict()))
    workspace.write_text("report.html", render(report))


def read_report(path: Path) -> Report:
    """The report in `path`. Raises PlanError naming the file and the first fault."""
    from pydantic import TypeAdapter, ValidationError

    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or raw.pop("schema_version", None) != SCHEMA_VERSION:
            raise PlanError(f"schema_version is not {SCHEMA_VERSION}", where=str(path))
        return TypeAdapter(Report).validate_python(raw)
    except OSError as error:
        raise PlanError("cannot read the report", where=str(path), why=error.strerror or str(error), hint="run mpqc compile first") from error
    except ValidationError as error:
        fault = error.errors()[0]
        raise PlanError("not a report", where=str(path), why=f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error
    except ValueError as error:
        raise PlanError("not a report", where=str(path), why=str(error)) from error
