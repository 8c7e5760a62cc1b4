"""The command that makes a result again, as its report shows it: every option that differs from its default, files by their names."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpqc.facts.amounts import format_amount
from mpqc.facts.resources import flags, resources_of
from mpqc.values.budget import Budget
from mpqc.values.notation import BITS, SECONDS, SHAPES
from mpqc.values.option import Option, asked_fields
from mpqc.values.recipe import Recipe
from mpqc.values.request import MEASURED, TRAINED, Options

if TYPE_CHECKING:
    from mpqc.flow.analysis import Material

DIGITS = 17
"""Of amounts, so that the same number is read back"""
LEFT_OUT = ("force", "teacher_cache", "pricer")
"""Options that change no result"""


def command_text(material: Material, options: Options) -> str:
    """One line for a shell. What came from memory is MODEL, DATA or LABELS there; a metric of the user's own is MODULE:FUNCTION."""
    words = ["mpqc", "compile", _file(material.source, "MODEL")]
    if material.data is not None:
        words += ["--data", _file(material.data, "DATA")]
    if material.labels is not None:
        words += ["--labels", "LABELS"]
    return shlex.join([*words, *_options(options)])


def _file(value: Any, otherwise: str) -> str:
    return os.fsencode(Path(value).name).decode("utf-8", "backslashreplace") if isinstance(value, (str, Path)) else otherwise


def _options(options: Options) -> Iterator[str]:
    default = Options()
    usual = TRAINED[0] if options.training is not None and options.plan is None else MEASURED[0]
    for name, asked in asked_fields(Options).items():
        value = getattr(options, name)
        same = value == (usual if name == "strategy" else getattr(default, name))
        if name in LEFT_OUT or (same and name != "target"):
            continue
        if isinstance(asked, Option):
            yield from _words(asked, name, value)
        elif asked.kind is Budget:
            yield from _budgets(value)
        else:
            yield from _recipe(value)


def _recipe(recipe: Recipe | None) -> Iterator[str]:
    if recipe is None:
        return
    bound = "steps" if recipe.seconds is None else "seconds"
    usual = {item.name: item.default for item in fields(Recipe)}
    for name, asked in asked_fields(Recipe).items():
        value = getattr(recipe, name)
        if name == bound or (value != usual[name] and name not in ("steps", "seconds")):
            yield from _words(asked, name, value)


def _budgets(budgets: Sequence[Budget]) -> Iterator[str]:
    limits: dict[str, float] = {}
    for budget in budgets:
        limits[budget.resource] = min(budget.limit, limits.get(budget.resource, budget.limit))
    for flag in flags():
        bounded = resources_of(flag)
        if any(resource in limits for resource in bounded):
            sides = (format_amount(resource, limits[resource], DIGITS) if resource in limits else "-" for resource in bounded)
            yield from (flag.option, "/".join(side.replace(" ", "").removesuffix("bits") for side in sides))


def _words(asked: Any, name: str, value: Any) -> Iterator[str]:
    spelled = asked.spelled(name)[0]
    if isinstance(value, bool):
        yield spelled
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (spelled, f"{key}={_item(item, asked)}")
    else:
        yield from (spelled, _text(value, asked))


def _item(value: Any, asked: Option) -> str:
    if asked.notation is SHAPES:
        return "x".join(map(str, value))
    return "float" if value is None else str(value)


def _text(value: Any, asked: Option) -> str:
    if asked.notation is BITS:
        return "/".join(map(str, value))
    if asked.notation is SECONDS:
        return f"{value!r}s"
    if isinstance(value, tuple):
        return ",".join(map(repr, value))
    if callable(value):
        return "MODULE:FUNCTION"
    return str(value) if isinstance(value, (str, int, float, Path)) else "plan.json"
