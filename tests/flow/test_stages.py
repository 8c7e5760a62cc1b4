"""Stages take values, few of them and typed: what a stage can see is what its result can depend on."""

from __future__ import annotations

import ast
import re
from dataclasses import FrozenInstanceError, fields
from functools import cache
from pathlib import Path

import pytest

from mpqc.values.recipe import Recipe
from mpqc.values.request import Checking, Choosing, Judging, Options, Reading, Repairing, Seeded, Training, Writing
from mpqc.values.system import Deploying

ROOT = Path(__file__).resolve().parents[2] / "mpqc"


@cache
def functions() -> dict[str, list[ast.arg]]:
    """`file:function` -> parameters, of the rooms that string stages together."""
    files = [*(ROOT / "flow").glob("*.py"), *(ROOT / "pruning").glob("*.py"), *(ROOT / "report").glob("*.py"), ROOT / "training" / "phase.py"]
    found = {}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                given = node.args
                parameters = [item for item in (*given.posonlyargs, *given.args, *given.kwonlyargs) if item.arg != "self"]
                found[f"{file.stem}:{node.name}"] = parameters
    return found


def test_only_the_driver_sees_the_whole_request_and_the_whole_analysis() -> None:
    both = {}
    for name, parameters in functions().items():
        kinds = {ast.unparse(item.annotation) for item in parameters if item.annotation is not None}
        if {"Options", "Analysis"} <= kinds:
            both[name] = kinds
    assert {name.split(":")[0] for name in both} <= {"pipeline"}


def test_nothing_untyped_crosses_a_border() -> None:
    """`**facts  # type: ignore` hides a parameter that was renamed or forgotten until somebody runs into it."""
    hidden = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in ROOT.rglob("*.py")
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if re.search(r"\*\*\w*[^*]*# type: ignore", line)
    ]
    assert hidden == []


def test_options_are_the_parts_and_nothing_else() -> None:
    parts = {item.name for part in (Seeded, Choosing, Reading, Repairing, Training, Checking, Judging, Writing, Deploying) for item in fields(part)}
    assert {item.name for item in fields(Options)} == parts
    asked = Options(target="abstract", samples=8, mean=(1.0,), seed=7, training=Recipe())
    assert asked.reading == Reading(samples=8, mean=(1.0,), seed=7)
    assert asked.choosing == Choosing(target="abstract", seed=7)
    assert type(asked.reading) is Reading
    with pytest.raises(FrozenInstanceError):
        asked.reading.samples = 9  # type: ignore[misc]
