"""Commands ask for records: the options of a command are made from the fields of the records that it takes (mpqc.values.option)."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Annotated, Any, get_type_hints

import typer

from mpqc.cli import requests
from mpqc.facts.amounts import parse_flag
from mpqc.facts.resources import Flag, flags
from mpqc.values.budget import Budget
from mpqc.values.option import Option, Several, asked_fields


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """`command` for typer, with the options of its records in place of these; other parameters stay as they are.

    It is called with the records made. What the options say raises UsageError where it cannot be meant.
    """
    hints = get_type_hints(command, {**command.__globals__, **vars(requests)}, include_extras=True)
    names = inspect.signature(command).parameters

    def run(**given: Any) -> None:
        command(**{name: made(hints[name], given) if is_dataclass(hints[name]) else given[name] for name in names})

    run.__doc__ = command.__doc__
    parts = [part for name in names for part in (parameters(hints[name]) if is_dataclass(hints[name]) else [_argument(name, hints[name])])]
    run.__signature__ = inspect.Signature(parts)  # type: ignore[attr-defined]
    return run


def parameters(record: Any) -> list[inspect.Parameter]:
    """The options of `record`, for typer."""
    return [part for name, asked in asked_fields(record).items() for part in _of_field(record, name, asked)]


def made(record: Any, given: Mapping[str, Any]) -> Any:
    """`record` from the values of its options; those without a value are left to it. A record's `asked` may make of them what it likes."""
    values = {name: value for name, asked in asked_fields(record).items() if (value := _value(asked, name, given)) is not None}
    return record.asked(values) if hasattr(record, "asked") else record(**values)


def _value(asked: Option | Several, name: str, given: Mapping[str, Any]) -> Any:
    if isinstance(asked, Several):
        return _budgets(given) if asked.kind is Budget else made(asked.kind, given)
    value = given[name]
    if asked.notation is None or value is None:
        return value
    return asked.notation.read(value, asked.spelled(name)[0]) if value != [] else None


def _budgets(given: Mapping[str, Any]) -> tuple[Budget, ...]:
    return tuple(budget for flag in flags() if (text := given[flag.parameter]) is not None for budget in parse_flag(flag, text))


def _of_field(record: type, name: str, asked: Option | Several) -> list[inspect.Parameter]:
    if isinstance(asked, Option):
        return [_parameter(record, name, asked)]
    if asked.kind is Budget:
        return [_budget(flag, _group(record, name)) for flag in flags()]
    return [_left_out(item) for item in parameters(asked.kind)]


def _parameter(record: type, name: str, asked: Option) -> inspect.Parameter:
    default, kind = _written(record, name, asked)
    if asked.open:
        default, kind = None, kind | None
    info = typer.Option(
        *asked.spelled(name),
        help=asked.help,
        min=asked.least,
        max=asked.most,
        metavar=asked.notation.form if asked.notation else asked.unit or None,
        rich_help_panel=_group(record, name),
    )
    return _keyword(name, default, Annotated[kind, info])


def _written(record: type, name: str, asked: Option) -> tuple[Any, Any]:
    """Default and type of the option: the field's own, or text where values have a notation."""
    default = next(item.default for item in fields(record) if item.name == name)
    if asked.notation is None:
        return default, _kind(_owner(record, name), name)
    if asked.notation.repeated:
        return [], list[str]
    return asked.notation.write(default) if asked.notation.write else None, str | None


def _owner(record: type, name: str) -> type:
    return next(base for base in record.__mro__ if name in vars(base).get("__annotations__", {}))


def _group(record: type, name: str) -> str:
    return str(vars(_owner(record, name)).get("GROUP", ""))


def _left_out(item: inspect.Parameter) -> inspect.Parameter:
    """The same option of a record that may not be there at all: its default holds where it is."""
    kind, info = item.annotation.__origin__, item.annotation.__metadata__[0]
    if item.default not in (None, []):
        info.show_default = f"{item.default}"
    return _keyword(item.name, None, Annotated[kind | None, info])


def _budget(flag: Flag, group: str) -> inspect.Parameter:
    info = typer.Option(flag.option, help=f"{flag.help}, for example {flag.example}", metavar="AMOUNT", rich_help_panel=group)
    return _keyword(flag.parameter, None, Annotated[str | None, info])


def _kind(owner: type, name: str) -> Any:
    """The type of the field; where values need no notation, it is one that typer knows."""
    alone = SimpleNamespace(__annotations__={name: owner.__annotations__[name]})
    return get_type_hints(alone, vars(sys.modules[owner.__module__]))[name]


def _keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _argument(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
