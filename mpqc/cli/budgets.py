"""The --budget-* options, made from the table of resources."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mpqc.facts.amounts import parse_flag
from mpqc.facts.resources import Flag, flags, over_names
from mpqc.values.budget import Budget

PARAMETER = "budgets"


def with_budgets(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with one option a kind of budget in place of its parameter `budgets`, which gets what they say together.

    The options raise UsageError for amounts without a unit.
    """
    asked = {flag.parameter: flag for flag in flags()}

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        texts = [(flag, options.pop(name)) for name, flag in asked.items()]
        command(*arguments, **options, budgets=parse_texts(texts))

    signature = inspect.signature(command, eval_str=True)
    run.__signature__ = signature.replace(parameters=_expanded(signature, asked))  # type: ignore[attr-defined]
    return run


def parse_texts(texts: list[tuple[Flag, str | None]]) -> tuple[Budget, ...]:
    """All budgets that were asked for; None where a flag was not given. Raises UsageError for amounts without a unit."""
    return tuple(budget for flag, text in texts if text is not None for budget in parse_flag(flag, text))


def _expanded(signature: inspect.Signature, asked: dict[str, Flag]) -> list[inspect.Parameter]:
    options = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=_option(asked[name])) for name in asked]
    expanded = [options if parameter.name == PARAMETER else [parameter] for parameter in signature.parameters.values()]
    return [parameter for part in expanded for parameter in part]


def _option(flag: Flag) -> Any:
    return Annotated[str | None, typer.Option(flag.option, help=f"{flag.help}, for example {flag.example}")]


def over_help() -> str:
    """What `pareto --over` takes, for its help."""
    *others, last = over_names()
    return f"{', '.join(others)} or {last}"
