"""What a field of a request needs to be asked for on a command line. It is kept with the field, in its metadata, and nowhere else.

A record's own `GROUP` names the section of a command's help that its own fields stand in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

Value = TypeVar("Value")
KEY = "option"
"""Of a field's metadata"""


@dataclass(frozen=True)
class Notation:
    """How a value is written as text, where a number, a word or a path does not say it."""

    form: str
    """Shown where the text goes: NAME=BITS"""
    read: Callable[[Any, str], Any]
    """(text, option) -> value; all texts at once where the option is repeated. Raises UsageError, which names the option"""
    write: Callable[[Any], str] | None = None
    """For defaults in help; None: a default is not shown"""
    repeated: bool = False


@dataclass(frozen=True)
class Option:
    """How one field is asked for; its default is the field's own."""

    help: str
    names: tuple[str, ...] = ()
    """`--long`, `-s`; none: made of the field's name"""
    unit: str = ""
    """Of a number"""
    least: float | None = None
    most: float | None = None
    notation: Notation | None = None
    open: bool = False
    """Whether the request decides by its other fields where the option is not given; then help shows no default"""

    def spelled(self, name: str) -> tuple[str, ...]:
        """The spellings of the option of the field `name`."""
        return self.names or ("--" + name.replace("_", "-"),)


@dataclass(frozen=True)
class Several:
    """A field with more options than one: those of the record `kind`, or, for `Budget`, one a flag of the table of resources."""

    kind: type


def option(default: Value, help: str, *names: str, **facts: Any) -> Value:
    """A field of a frozen dataclass with its `Option`. `facts` are the other fields of that."""
    return _field(default, Option(help, names, **facts))


def several(default: Value, kind: type) -> Value:
    """A field whose options are those of `kind`."""
    return _field(default, Several(kind))


def _field(default: Value, asked: Option | Several) -> Value:
    if isinstance(default, Mapping):
        return cast(Value, field(default_factory=lambda: dict(default), metadata={KEY: asked}))
    return cast(Value, field(default=default, metadata={KEY: asked}))


def asked_fields(record: type) -> dict[str, Option | Several]:
    """The fields of `record` that can be asked for, in their order."""
    return {item.name: item.metadata[KEY] for item in fields(record) if KEY in item.metadata}


def spelling(record: type, name: str) -> str:
    """The option that asks for the field `name`, as messages name it."""
    asked = asked_fields(record)[name]
    return asked.spelled(name)[0] if isinstance(asked, Option) else name


def listed(words: Sequence[str], last: str, first: str = "") -> str:
    """`a, b or c`, with `first` behind the first of them."""
    texts = [words[0] + first, *words[1:]]
    return f"{', '.join(texts[:-1])} {last} {texts[-1]}"
