"""Options are made from the fields of records: one place for name, help, unit and default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from mpqc.cli import app as commands
from mpqc.cli import requests
from mpqc.cli.asking import expanded, made, parameters
from mpqc.cli.listing import Commands, Grouped, later
from mpqc.errors import UsageError
from mpqc.values.notation import RANGE
from mpqc.values.option import KEY, Option, asked_fields, option, several
from mpqc.values.recipe import Recipe
from mpqc.values.request import Options, Reading
from tests.cli_runs import Mpqc


@dataclass(frozen=True)
class Rinse(Recipe):
    """A copy of a record of a record, with one field more."""

    rinses: int = option(3, "how often colours are washed out", "--qat-rinses", unit="rinses", least=1)


@dataclass(frozen=True)
class Painted(Options):
    """A copy of the request of a compile, with three fields more."""

    GROUP = "Paint"
    hue: float = option(0.25, "the colour of everything", unit="turns", most=1)
    span: tuple[float, float] = option((0.0, 1.0), "from where to where", "--paint-span", notation=RANGE)
    glossy: bool = option(False, "whether it shines")
    dried: int = 0
    """Not asked for"""
    training: Recipe | None = several(None, Rinse)


def paint(model: Annotated[Path, typer.Argument()], options: Painted) -> None:
    """Paints."""
    print(options.hue, options.span, options.glossy, options.dried, options.training, model)


def painted(*arguments: str) -> tuple[int, str]:
    """Exit code and output of the command `paint` in a group of two."""
    app = typer.Typer(cls=Commands, rich_markup_mode=None)
    app.command("paint", cls=Grouped)(later(paint))
    app.command("other", cls=Grouped)(later(paint))
    done = CliRunner().invoke(app, ["paint", *arguments], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def test_a_field_more_is_an_option_more() -> None:
    _, text = painted("--help")
    sections = {part.split(":")[0]: part for part in text.split("\n\n")}
    assert "--hue <turns>" in sections["Paint"]
    assert "the colour of everything  [default: 0.25; x<=1" in sections["Paint"]
    assert ["--paint-span", "<LEAST,LARGEST>", "from", "where", "to", "where"] in [line.split() for line in sections["Paint"].splitlines()]
    assert "--qat-rinses <rinses>" in text
    assert "dried" not in text
    assert "the colour of everything" not in sections["Time"]


def test_its_value_arrives_typed() -> None:
    assert painted("x.onnx") == (0, "0.25 (0.0, 1.0) False 0 None x.onnx\n")
    code, text = painted("x.onnx", "--hue", "0.5", "--paint-span", "2,3", "--glossy", "--qat-steps", "9", "--qat-rinses", "2")
    assert (code, text) == (0, f"0.5 (2.0, 3.0) True 0 {Rinse(steps=9, rinses=2)} x.onnx\n")
    assert painted("x.onnx", "--hue", "2")[0] == 2


def test_what_cannot_be_read_names_the_option_of_the_field() -> None:
    with pytest.raises(UsageError, match="--paint-span: '3,2' is not a least and a largest value"):
        made(Painted, {**untouched(Painted), "span": "3,2"})


def untouched(record: Any) -> dict[str, Any]:
    """The values of the options of `record` where none is given."""
    return {item.name: item.default for item in parameters(record)}


RECORDS = sorted(
    {kind for kind in vars(requests).values() if isinstance(kind, type) and is_dataclass(kind)} | {Recipe}, key=lambda kind: kind.__name__
)


@pytest.mark.parametrize("record", [kind for kind in RECORDS if kind not in (Recipe, requests.Benching, requests.Running)])
def test_without_options_a_record_is_its_defaults(record: type) -> None:
    assert made(record, untouched(record)) == record()


def test_whatever_python_can_ask_for_the_command_line_can() -> None:
    """Arguments of a torch module are the exception: no file holds one."""
    assert {item.name for item in fields(Options)} - set(asked_fields(Options)) == {"example_inputs"}


@pytest.mark.parametrize("record", RECORDS)
def test_every_field_that_is_asked_for_says_how(record: type) -> None:
    for name, asked in asked_fields(record).items():
        if isinstance(asked, Option):
            assert asked.help.rstrip(".") == asked.help != ""
            assert all(spelling.startswith("-") for spelling in asked.spelled(name))
    assert all(item.annotation.__metadata__ for item in parameters(record))


def test_a_default_in_a_notation_reads_back() -> None:
    for record in RECORDS:
        for item in fields(record):
            asked = item.metadata.get(KEY)
            if isinstance(asked, Option) and asked.notation and asked.notation.write:
                assert asked.notation.read(asked.notation.write(item.default), "") == item.default


@pytest.mark.parametrize(
    "command", [commands.compile, commands.analyze, commands.allocate, commands.pareto, commands.lower, commands.calibrate_target]
)
def test_a_command_has_the_options_of_its_records_and_arguments(command: Callable[..., None]) -> None:
    whole = expanded(command.__wrapped__)  # type: ignore[attr-defined]
    names = list(whole.__signature__.parameters)  # type: ignore[attr-defined]
    assert len(names) == len(set(names))
    if command in (commands.compile, commands.analyze):
        assert set(asked_fields(Reading)) <= set(names)


def test_help_has_what_the_records_say(mpqc: Mpqc) -> None:
    text = " ".join(mpqc("compile", "--help").out.split())
    for record in (Options, Recipe, requests.LabelledFiles, requests.Showing):
        for name, asked in asked_fields(record).items():
            if isinstance(asked, Option):
                assert " ".join(asked.help.split()).replace("- ", "-") in text.replace("- ", "-")
                assert asked.spelled(name)[0] in text
