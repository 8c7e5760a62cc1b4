"""JSON files as frozen records. pydantic checks types, missing and unknown keys; a file that is broken is refused in one line.

pydantic is imported where a file is read, not before: `mpqc --help` reads none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from mpqc.errors import PlanError

T = TypeVar("T")
SHOWN = 60
"""Characters of a wrong value that a message repeats, at most"""
SAID = ("missing", "value_error", "unexpected_keyword_argument", "extra_forbidden")
"""Faults that need no value to be understood"""


class Record:
    """Base of the dataclasses that files hold: nothing is converted ("8" is no 8), unknown keys are refused."""

    __pydantic_config__: ClassVar[Mapping[str, object]] = {"extra": "forbid", "strict": True}


def read_record(kind: type[T], path: Path, what: str, version: int | None = None, hint: str = "") -> T:
    """The `kind` in the file `path`, which is called `what` in messages.

    `version`: what `schema_version` must be; None for a file without one. Raises PlanError naming file, key and fault; `hint` is for a file that
    is not there.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise PlanError(f"cannot read the {what}", where=str(path), why=error.strerror or str(error), hint=hint) from error
    return parse_record(kind, text, str(path), what, version)


def parse_record(kind: type[T], text: str | bytes, where: str, what: str, version: int | None = None) -> T:
    """The `kind` that the JSON `text` says; as read_record."""
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import from_json, to_json

    try:
        raw = from_json(text)
    except ValueError as error:
        raise PlanError(f"not a {what}: not JSON", where=where, why=str(error)) from error
    content = _without_version(raw, where, what, version)
    try:
        found = TypeAdapter(kind).validate_json(to_json(content))
    except ValidationError as error:
        raise _refused(dict(error.errors(include_url=False)[0]), where, what) from error
    except PlanError as error:  # what a record itself refuses
        raise PlanError(error.what, where=": ".join(filter(None, (where, error.where))), why=error.why, hint=error.hint) from error
    endless = next(_not_finite(content, ()), None)
    if endless is not None:
        raise PlanError(f"not a {what}", where=f"{where}: {key_of(endless)}", why="neither NaN nor an infinity is a number that can be used")
    return found


def _not_finite(value: Any, key: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    """Keys of the numbers in `value` that are NaN or infinite."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _not_finite(item, (*key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_finite(item, (*key, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield key


def _without_version(raw: object, where: str, what: str, version: int | None) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise PlanError(f"not a {what}: a JSON object is needed", where=where)
    if version is None:
        return raw
    found = raw.get("schema_version")
    if type(found) is not int or found != version:
        raise PlanError(f"schema_version is not {version}", where=where, hint=f"make the {what} again with this version of mpqc")
    return {key: value for key, value in raw.items() if key != "schema_version"}


def _refused(detail: dict[str, Any], where: str, what: str) -> PlanError:
    key = key_of(detail["loc"])
    return PlanError(f"not a {what}", where=f"{where}: {key}" if key else where, why=fault_of(detail))


def key_of(location: tuple[int | str, ...]) -> str:
    """Where in a file pydantic found a fault: `choices[3].bits`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def fault_of(detail: Mapping[str, Any]) -> str:
    """What pydantic found, with the value where that is not said yet."""
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return "unknown key"
    if detail["type"] == "missing":
        return "is missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    shown = "" if detail["type"] in SAID else f"{_short(detail['input'])}: "
    return f"{shown}{message[:1].lower()}{message[1:]}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def read_json(path: Path) -> Any:
    """What the JSON text in `path` holds, whatever it is. Raises OSError, or ValueError saying why it is none."""
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str) -> Any:
    """What JSON text holds. Raises ValueError saying why it is none."""
    from pydantic_core import from_json

    return from_json(text, allow_inf_nan=False)
