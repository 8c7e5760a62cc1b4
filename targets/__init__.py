"""Targets: what a chip can do and what it costs, one TOML a chip with CSV cost rows beside it.

A chip is added by one TOML file; `load_target("path/to/chip.toml")` reads it, `check_target` lists everything wrong with it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mpqc.errors import TargetError, UsageError
from mpqc.facts.kinds import FLOAT_BITS, FLOATS, STAND_INS, WEIGHTED, OpKind
from mpqc.targets.rows import RUNTIME_KERNELS, CostRow, Shape, read_rows, write_rows
from mpqc.targets.schema import Target
from mpqc.values.json_file import fault_of, key_of

__all__ = [
    "FOLDER",
    "RUNTIME_KERNELS",
    "STAND_INS",
    "WEIGHTED",
    "CostRow",
    "OpKind",
    "Shape",
    "Target",
    "check_target",
    "list_targets",
    "load_target",
    "read_rows",
    "write_rows",
]

FOLDER = Path(__file__).parent


def list_targets() -> tuple[str, ...]:
    """Names of the targets that come with mpqc, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_target(name_or_path: str | Path) -> Target:
    """The target with this name, or the one described by this TOML file.

    Raises UsageError for a name that no target has, TargetError (where = `file: key` or `file: row N: column`) for a file that is wrong.
    """
    path = _locate(name_or_path)
    target, problems = _read(path)
    if problems:
        raise _first(problems, path)
    assert target is not None
    return target


def check_target(path: str | Path) -> list[TargetError]:
    """Everything that is wrong with the target file `path` and its cost rows; empty when it is good."""
    return _read(Path(path))[1]


def _locate(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, str) and text in list_targets():
        return FOLDER / f"{text}.toml"
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text:
        return Path(name_or_path)
    raise UsageError(f"no target is called {text!r}", where="--target", hint=f"use one of {', '.join(list_targets())}, or the path of a TOML file")


def _first(problems: list[TargetError], path: Path) -> TargetError:
    first = problems[0]
    if len(problems) == 1:
        return first
    more = f"{len(problems) - 1} more: mpqc targets check {path}"
    return TargetError(first.what, where=first.where, why=first.why, hint="; ".join(part for part in (first.hint, more) if part))


def _read(path: Path) -> tuple[Target | None, list[TargetError]]:
    try:
        raw, folder = _completed(_toml(path), path)
    except TargetError as error:
        return None, [error]
    if "rows" in raw:
        return None, [TargetError("unknown key", where=f"{path}: rows", hint="name a CSV file in cost_rows")]
    target, problems = _validate(raw, path)
    rows, row_problems = _rows(raw.get("cost_rows"), path, folder)
    if target is None or problems or row_problems:
        return None, problems + row_problems
    stray = [_stray(row, target, path) for row in rows if _is_stray(row, target)]
    return (None, stray) if stray else (target.model_copy(update={"rows": rows}), [])


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise TargetError("cannot read the target", where=str(path), why="nested too deeply") from error
    except (OSError, ValueError) as error:
        raise TargetError("cannot read the target", where=str(path), why=str(error)) from error


def _completed(raw: dict[str, Any], path: Path) -> tuple[dict[str, Any], Path]:
    """`raw` with what it does not say from the target that it names as its `base`, and the folder where its cost rows lie.

    Raises TargetError for a base that no target with mpqc has, or that has a base itself.
    """
    name = raw.pop("base", None)
    if name is None:
        return raw, path.parent
    bases = [known for known in list_targets() if known != path.stem and "base" not in _toml(FOLDER / f"{known}.toml")]
    if name not in bases:
        raise TargetError(
            f"{name!r} is no target that others can be made from", where=f"{path}: base", hint=f"use one without a base itself: {', '.join(bases)}"
        )
    return _toml(FOLDER / f"{name}.toml") | raw, path.parent if "cost_rows" in raw else FOLDER


def _validate(raw: dict[str, Any], path: Path) -> tuple[Target | None, list[TargetError]]:
    try:
        target = Target.model_validate(raw)
    except ValidationError as error:
        return None, [_problem(dict(detail), path) for detail in error.errors(include_url=False)]
    if path.parent == FOLDER and target.name != path.stem:
        return None, [TargetError(f"{target.name!r} is not the name of the file", where=f"{path}: name")]
    return target, []


def _problem(detail: dict[str, Any], path: Path) -> TargetError:
    key, fault = key_of(detail["loc"]), fault_of(detail)
    if not key and ": " in fault:
        key, fault = fault.split(": ", 1)
    hint = "see the other target files for the keys there are" if detail["type"] == "extra_forbidden" else ""
    return TargetError(fault, where=f"{path}: {key}" if key else str(path), hint=hint)


def _rows(name: object, path: Path, folder: Path) -> tuple[tuple[CostRow, ...], list[TargetError]]:
    if not isinstance(name, str):
        return (), []
    if Path(name).name != name:
        return (), [TargetError(f"{name!r} is not a file beside the target", where=f"{path}: cost_rows")]
    return read_rows(folder / name)


def _is_stray(row: CostRow, target: Target) -> bool:
    if row.kernel in RUNTIME_KERNELS:
        return False
    kind = OpKind(row.kernel)
    if kind in FLOATS:  # every target with code has those
        return row.activation_bits != FLOAT_BITS or row.weight_bits is not None
    return target.kernel_bits(kind, row.weight_bits, row.activation_bits) != (row.weight_bits, row.activation_bits)


def _stray(row: CostRow, target: Target, path: Path) -> TargetError:
    widths = f"w{row.weight_bits}a{row.activation_bits}" if row.weight_bits else f"a{row.activation_bits}"
    return TargetError(f"{path.name} has no {row.kernel} kernel at {widths}", where=f"{path.parent / (target.cost_rows or '')}: {row.kernel}")
