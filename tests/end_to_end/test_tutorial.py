"""The tutorial, run as it stands: every command of docs/tutorial.md succeeds, and prints the lines that are shown, whatever the figures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_runs import Mpqc

REPO = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?")


def steps() -> list[tuple[str, list[str]]]:
    """Commands with the lines that the next block says they print."""
    text = (REPO / "docs" / "tutorial.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(bash|text)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found: list[tuple[str, list[str]]] = []
    for kind, block in blocks:
        if kind == "bash":
            found.append((block, []))
        else:
            found[-1][1].extend(block.splitlines())
    return found


def plain(text: str) -> str:
    """`text` with every number as #, and one space for many."""
    return " ".join(NUMBER.sub("#", text).split())


@pytest.mark.slow
@pytest.mark.emulator
def test_every_step_does_what_is_shown(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, command in (("mpqc", f'"{sys.executable}" -m mpqc'), ("python", f'"{sys.executable}"')):
        (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tools / name).chmod(0o755)
    (tmp_path / "examples").symlink_to(REPO / "examples")
    path = os.pathsep.join((str(tools), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    assert len(steps()) >= 7
    for command, shown in steps():
        done = subprocess.run(["sh", "-ec", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}{done.stdout}{done.stderr}"
        said = [plain(line) for line in done.stdout.splitlines()]
        missing = [line for line in shown if not any(plain(line) in one for one in said)]
        assert missing == [], f"{command}{done.stdout}"


def test_the_docs_name_files_and_commands_that_exist() -> None:
    pages = [REPO / "README.md", *(REPO / "docs").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages if page.name != "cli.md")
    named = set(re.findall(r"`((?:examples|benchmarks|tests|targets|mpqc|docs)/[\w./-]+\.\w+)`", text))
    assert len(named) > 20
    assert {name for name in named if not (REPO / name).exists() and "NAME" not in name} == set()


@pytest.mark.parametrize("name", ["my-chip", "my-npu"])
def test_the_targets_of_the_pages_are_good(name: str, tmp_path: Path, mpqc: Mpqc) -> None:
    page = (REPO / "docs" / "how-to" / f"{name}.md").read_text(encoding="utf-8")
    text = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    path = tmp_path / f"{re.findall('^name = .(.*).$', text, re.MULTILINE)[0]}.toml"
    path.write_text(text, encoding="utf-8")
    done = mpqc("targets", "check", path)
    assert (done.code, done.out.splitlines()[-1]) == (0, f"{path}: good"), done.out
