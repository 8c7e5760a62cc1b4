"""Cost rows: what a machine measured or modelled for one kernel at one shape. A row that does not say where it comes from is refused."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path

from mpqc.errors import TargetError
from mpqc.facts.kinds import FLOAT_BITS, OpKind

RUNTIME_KERNELS = ("call", "run")
"""What the runtime adds: `call` to every kernel, `run` to every run of a program."""
KERNELS = (*(kind.value for kind in OpKind), *RUNTIME_KERNELS)
"""What a row may name: the op kinds of a target file, and the runtime's own work."""
ORIGIN = re.compile(r"modelled|measured on \S.*")


@dataclass(frozen=True)
class Shape:
    """Shape parameters of a kernel run, batch included in the heights.

    Convolutions and pools: NHWC extents, kernel and strides. gemm: out_h rows of in_c inputs give out_c outputs.
    Elementwise kernels: out_h * out_w * out_c values; in_* describe the input where it differs.
    """

    in_h: int = 1
    in_w: int = 1
    in_c: int = 1
    out_h: int = 1
    out_w: int = 1
    out_c: int = 1
    kernel_h: int = 1
    kernel_w: int = 1
    stride_h: int = 1
    stride_w: int = 1
    groups: int = 1

    @property
    def pixels(self) -> int:
        """Output positions."""
        return self.out_h * self.out_w

    @property
    def inputs(self) -> int:
        """Input values."""
        return self.in_h * self.in_w * self.in_c

    @property
    def outputs(self) -> int:
        """Output values."""
        return self.pixels * self.out_c

    @property
    def taps(self) -> int:
        """Products a convolution sums for one output: in_c / groups * kernel."""
        return self.in_c // self.groups * self.kernel_h * self.kernel_w


SHAPE_COLUMNS = tuple(field.name for field in fields(Shape))


@dataclass(frozen=True)
class CostRow:
    """Cycles of one run of `kernel` on one core, with warm caches where they fit."""

    kernel: str
    shape: Shape
    weight_bits: int | None
    """Container of the weights; None where the kernel has none"""
    activation_bits: int
    cycles: float
    origin: str
    """`modelled` or `measured on DEVICE`"""
    method: str
    """How the cycles were obtained: tool and settings"""
    date: str
    """ISO date"""
    commit: str
    """mpqc commit whose kernels ran"""


COLUMNS = ("kernel", *SHAPE_COLUMNS, "weight_bits", "activation_bits", "cycles", "origin", "method", "date", "commit")


def read_rows(path: Path) -> tuple[tuple[CostRow, ...], list[TargetError]]:
    """The good rows of the CSV file `path`, and one error, naming file, row and column, for every bad one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        return (), [TargetError("cannot read the cost rows", where=str(path), why=str(error))]
    if not lines or tuple(lines[0]) != COLUMNS:
        return (), [_header_error(path, lines[0] if lines else [])]
    return _parse_lines(lines[1:], path)


def _parse_lines(lines: list[list[str]], path: Path) -> tuple[tuple[CostRow, ...], list[TargetError]]:
    rows: dict[tuple[object, ...], CostRow] = {}
    errors: list[TargetError] = []
    for number, line in enumerate(lines, start=2):
        try:
            row = parse_row(line, f"{path}: row {number}")
            key = (row.kernel, row.shape, row.weight_bits, row.activation_bits)
            if key in rows:
                raise TargetError("repeats an earlier row", where=f"{path}: row {number}", hint="keep one row a kernel, shape and widths")
            rows[key] = row
        except TargetError as error:
            errors.append(error)
    return tuple(rows.values()), errors


def _header_error(path: Path, header: list[str]) -> TargetError:
    unknown = [name for name in header if name not in COLUMNS]
    missing = [name for name in COLUMNS if name not in header]
    why = f"unknown column {unknown[0]!r}" if unknown else f"column {missing[0]!r} is missing" if missing else "the columns are in another order"
    return TargetError("the header is wrong", where=f"{path}: row 1", why=why, hint=f"write {','.join(COLUMNS)}")


def parse_row(line: list[str], where: str) -> CostRow:
    """The row in `line`, whose fields stand in the order of COLUMNS. Raises TargetError naming the column."""
    if len(line) != len(COLUMNS):
        raise TargetError(f"{len(line)} fields instead of {len(COLUMNS)}", where=where)
    text = dict(zip(COLUMNS, (field.strip() for field in line), strict=True))
    if text["kernel"] not in KERNELS:
        raise TargetError(f"{text['kernel']!r} is not a kernel", where=f"{where}: kernel", hint=f"use one of {', '.join(KERNELS)}")
    shape = Shape(**{name: _integer(text[name], f"{where}: {name}", 1) for name in SHAPE_COLUMNS})
    weight_bits = _integer(text["weight_bits"], f"{where}: weight_bits", 1, 16) if text["weight_bits"] else None
    activation_bits = _integer(text["activation_bits"], f"{where}: activation_bits", 1, FLOAT_BITS)
    return CostRow(text["kernel"], shape, weight_bits, activation_bits, _cycles(text["cycles"], where), **_provenance(text, where))


def _integer(text: str, where: str, low: int, high: int = 1 << 31) -> int:
    if not re.fullmatch(r"\d{1,10}", text) or not low <= int(text) <= high:
        raise TargetError(f"{text!r} is not a whole number from {low} to {high}", where=where)
    return int(text)


def _cycles(text: str, where: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or float(text) <= 0:
        raise TargetError(f"{text!r} is not a positive number of cycles", where=f"{where}: cycles")
    return float(text)


def _provenance(text: dict[str, str], where: str) -> dict[str, str]:
    if not ORIGIN.fullmatch(text["origin"]):
        raise TargetError(f"{text['origin']!r} is no origin", where=f"{where}: origin", hint="write `modelled` or `measured on DEVICE`")
    for column in ("method", "commit"):
        if not text[column]:
            raise TargetError("is empty", where=f"{where}: {column}", hint="say how and with which commit the cycles were obtained")
    try:
        date.fromisoformat(text["date"])
    except ValueError:
        raise TargetError(f"{text['date']!r} is not a date", where=f"{where}: date", hint="write YYYY-MM-DD") from None
    return {column: text[column] for column in ("origin", "method", "date", "commit")}


def write_rows(rows: Iterable[CostRow], path: Path) -> None:
    """Write `rows` as a CSV file that `read_rows` accepts."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_fields(row) for row in rows)


def _fields(row: CostRow) -> list[str]:
    shape = [str(getattr(row.shape, name)) for name in SHAPE_COLUMNS]
    weight_bits = "" if row.weight_bits is None else str(row.weight_bits)
    return [row.kernel, *shape, weight_bits, str(row.activation_bits), f"{row.cycles:.1f}", row.origin, row.method, row.date, row.commit]
