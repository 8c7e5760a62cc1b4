"""Where a figure comes from: command, date, commit and kind of machine, put on top of every result file.

Every script takes `--smoke`: a tiny run that shows that it still works, keeps nothing and needs nothing that is not there.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NoReturn, TypeVar

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "benchmarks" / "results"
SMOKE = "--smoke" in sys.argv
"""Whether this is a tiny run. The option is taken out of the arguments, which scripts parse by themselves."""
if SMOKE:
    sys.argv.remove("--smoke")
PASSED_ON = ["--smoke"] if SMOKE else []
"""For scripts that run themselves in a process of its own"""
T = TypeVar("T")


def _work() -> Path:
    if not SMOKE:
        return REPO / "benchmarks" / "work"
    if "MPQC_SMOKE_WORK" not in os.environ:
        os.environ["MPQC_SMOKE_WORK"] = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, os.environ["MPQC_SMOKE_WORK"], ignore_errors=True)
    return Path(os.environ["MPQC_SMOKE_WORK"])


WORK = _work()
"""Folder for what benchmarks write along the way; not part of the project."""


def few(items: Iterable[T], count: int = 1) -> list[T]:
    """All of `items`, or the first `count` in a smoke run."""
    return list(islice(items, count) if SMOKE else items)


def absent(what: str) -> NoReturn:
    """Ends the script where something is missing that not every machine has: an error, or in a smoke run a skip by name."""
    if SMOKE:
        print(f"skipped: {what}")
        sys.exit(0)
    sys.exit(what)


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
    """Writes results/NAME.json and a table results/NAME.md of `rows` (equal keys), each with its provenance. In a smoke run it prints the table."""
    facts = provenance()
    if SMOKE:
        print("\n".join(_table(rows)))
        return
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
        absent(f"shared/{name} is absent: set MPQC_SHARED to the folder that has it")
    return path
