"""Where a figure comes from: command, date, commit and kind of machine, put on top of every result file."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "benchmarks" / "results"
WORK = REPO / "benchmarks" / "work"
"""Folder for what benchmarks write along the way; not part of the project."""


def provenance() -> dict[str, str]:
    """The facts that let anyone rerun the figure."""
    script = Path(sys.argv[0]).resolve()
    command = shlex.join(["python", str(script.relative_to(REPO)) if REPO in script.parents else script.name, *sys.argv[1:]])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPO, capture_output=True, text=True, check=False).stdout.strip()
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "-uno", ".", ":!benchmarks/results"], cwd=REPO, capture_output=True, text=True, check=False
    ).stdout.strip()
    machine = f"{os.cpu_count()}-core {platform.machine()}"
    return {"command": command, "date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit + ("+changes" if dirty else ""), "machine": machine}


def write_results(name: str, title: str, rows: list[dict[str, object]], notes: list[str] | None = None) -> None:
    """Writes results/NAME.json and a table results/NAME.md of `rows` (equal keys), each with its provenance."""
    facts = provenance()
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    head = [f"# {title}", "", f"`{facts['command']}`, {facts['date']}, commit {facts['commit']}, {facts['machine']}", ""]
    lines = head + [line + "\n" for line in notes or []] + _table(rows)
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(rows: list[dict[str, object]]) -> list[str]:
    if not rows:
        return ["no rows"]
    names = list(rows[0])
    body = ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *body]


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def shared(name: str) -> Path:
    """A file of the optional shared folder ($MPQC_SHARED, else ../shared). Exits by name where it is absent."""
    path = Path(os.environ.get("MPQC_SHARED", REPO.parent / "shared")) / name
    if not path.exists():
        sys.exit(f"shared/{name} is absent: set MPQC_SHARED to the folder that has it")
    return path
