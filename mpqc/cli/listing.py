"""Commands whose options are made when they are asked for, and whose help shows these in the groups that their records name.

Listing the commands needs no options: the records, and what they import, are loaded for the one command that runs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

GENERAL = "Options"
"""The section of what has nothing to do with networks"""


def later(command: Callable[..., None]) -> Callable[..., None]:
    """`command` as it is listed, without its options."""

    @functools.wraps(command, assigned=("__name__", "__doc__", "__module__"))
    def listed() -> None:
        raise AssertionError("Commands runs the command itself")

    listed.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
    return listed


class Commands(TyperGroup):
    """A group of commands that are registered with `later`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is named, with its options."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, _whole(command) if isinstance(command, Grouped) else command, rest


def _whole(command: Grouped) -> Any:
    from mpqc.cli.asking import expanded

    assert command.callback is not None
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(command.name, cls=Grouped, epilog=command.epilog)(expanded(inspect.unwrap(command.callback)))
    return typer.main.get_command(alone)


class Grouped(TyperCommand):
    """A command whose help has a section a group."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the sections in the order in which their first option is declared; GENERAL comes last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for title, row in self._rows(ctx):
            sections.setdefault(title, []).append(row)
        for title, rows in sorted(sections.items(), key=lambda section: section[0] == GENERAL):
            with formatter.section(title):
                formatter.write_dl(rows)

    def _rows(self, ctx: Any) -> Iterator[tuple[str, tuple[str, str]]]:
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is None:
                continue
            if parameter.param_type_name == "argument":
                yield "Arguments", row
            else:
                yield getattr(parameter, "rich_help_panel", None) or GENERAL, (_left(parameter, row[0]), row[1])


def _left(parameter: Any, usual: str) -> str:
    """The left column: the unit or the form of the value stands for its type, where one is known."""
    form = getattr(parameter, "metavar", None)
    return f"{', '.join(sorted(parameter.opts, key=len))} <{form}>" if form else usual
