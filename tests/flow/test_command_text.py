"""The command of a report asks for what was asked: read back by the command line it is the same request."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from mpqc.cli.listing import Commands, Grouped, later
from mpqc.cli.requests import LabelledFiles
from mpqc.flow.analysis import Material
from mpqc.flow.command_text import command_text
from mpqc.values.budget import Budget, Resource
from mpqc.values.recipe import Recipe
from mpqc.values.request import Options

READ: list[Options] = []


def compile(model: Annotated[Path, typer.Argument()], files: LabelledFiles, options: Options) -> None:
    """Keeps what it is asked."""
    READ.append(options)


def read_back(text: str) -> Options:
    app = typer.Typer(cls=Commands, rich_markup_mode=None)
    app.command("compile", cls=Grouped)(later(compile))
    app.command("other", cls=Grouped)(later(compile))
    done = CliRunner().invoke(app, shlex.split(text)[1:])
    assert done.exit_code == 0, done.output + str(done.exception)
    return READ.pop()


BUDGETS = (Budget(Resource.LATENCY, 5500.25), Budget(Resource.SIZE, 1536.0), Budget(Resource.WEIGHT_BITS, 3.5))


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(target="neoverse-n1", budgets=BUDGETS, fixed={"conv 1": None, "a=b": 8}, seed=3, solver_seconds=1.5),
        Options(budgets=(Budget(Resource.ACTIVATION_BITS, 4.0),), strategy="uniform", uniform_bits=(4, 8), weight_grid="integer"),
        Options(shapes={"x": (1, 3, 8, 8)}, values={"rate": 16000.0}, samples=7, mean=(0.5, 0.25, 0.125), std=(58.4,), scale=1 / 255, bgr=True),
        Options(preset="imagenet", resize="stretch", layout="nhwc", effort="high", repair_seconds=90.0, max_drop="1%", metric="top5"),
        Options(strategy="auto", training=Recipe(steps=12, batch=4, augment="flip_crop"), prune="0.3"),
        Options(strategy="qbitopt", training=Recipe(seconds=60.0)),
        Options(strategy="fit", training=Recipe(steps=5)),
        Options(input_range=(0.0, 255.0), price=True, allow_slower=True, opset=21),
    ],
)
def test_it_is_read_back_as_the_same_request(options: Options) -> None:
    material = Material("a folder/my net.onnx", Path("somewhere/images"))
    text = command_text(material, options)
    assert text.startswith("mpqc compile 'my net.onnx' --data images --")
    found = read_back(text)
    drop = None if options.max_drop is None else str(options.max_drop)
    assert found == replace(options, max_drop=drop, training=found.training)
    if options.training is not None:
        assert found.training is not None
        assert (found.training.steps, found.training.seconds, found.training.batch) == (
            options.training.steps, options.training.seconds, options.training.batch,
        )  # fmt: skip


def test_what_came_from_memory_is_named_so() -> None:
    text = command_text(Material(object(), [1], labels=None), Options(metric=len))
    assert text == "mpqc compile MODEL --data DATA --target cortex-a76 --metric MODULE:FUNCTION"
