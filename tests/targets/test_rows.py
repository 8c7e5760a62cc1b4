"""Cost rows: read as written, and refused by file, row and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpqc import targets
from mpqc.errors import TargetError
from mpqc.targets import CostRow, Shape, check_target, load_target, read_rows, write_rows
from mpqc.targets.rows import COLUMNS

ROW = CostRow("conv", Shape(32, 32, 16, 32, 32, 16, 3, 3), 4, 8, 123456.5, "modelled", "a76time", "2026-11-21", "abc1234")


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = (ROW, CostRow("table", Shape(out_c=64), None, 8, 99.0, "measured on Raspberry Pi 5", "perf", "2026-11-21", "abc1234"))
    write_rows(rows, tmp_path / "rows.csv")
    assert read_rows(tmp_path / "rows.csv") == (rows, [])


def altered(folder: Path, column: str, text: str) -> Path:
    path = folder / "rows.csv"
    write_rows([ROW], path)
    header, line = path.read_text().splitlines()
    fields = line.split(",")
    fields[COLUMNS.index(column)] = text
    path.write_text("\n".join((header, ",".join(fields))) + "\n")
    return path


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("origin", ""),
        ("origin", "guessed"),
        ("origin", "measured on "),
        ("method", ""),
        ("date", "yesterday"),
        ("commit", " "),
        ("cycles", "-5"),
        ("cycles", "0"),
        ("cycles", "nan"),
        ("weight_bits", "17"),
        ("activation_bits", ""),
        ("in_h", "0"),
        ("kernel_w", "3.5"),
        ("kernel", "fft"),
    ],
)
def test_a_bad_field_is_named(tmp_path: Path, column: str, text: str) -> None:
    path = altered(tmp_path, column, text)
    rows, problems = read_rows(path)
    assert rows == ()
    assert [problem.where for problem in problems] == [f"{path}: row 2: {column}"]


def test_a_repeated_row_is_named(tmp_path: Path) -> None:
    write_rows([ROW, ROW], tmp_path / "rows.csv")
    rows, problems = read_rows(tmp_path / "rows.csv")
    assert rows == (ROW,)
    assert [problem.where for problem in problems] == [f"{tmp_path / 'rows.csv'}: row 3"]


@pytest.mark.parametrize("header", ["", "kernel,cycles", ",".join((*COLUMNS, "mood")), ",".join(COLUMNS[::-1])])
def test_a_wrong_header_is_named(tmp_path: Path, header: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(header + "\n")
    assert [problem.where for problem in read_rows(path)[1]] == [f"{path}: row 1"]


def chip(folder: Path, rows: list[CostRow]) -> Path:
    text = (targets.FOLDER / "cortex-a55.toml").read_text(encoding="utf-8")
    path = folder / "chip.toml"
    path.write_text(text.replace("alignment = 64", 'alignment = 64\ncost_rows = "chip.csv"').replace("cortex-a55", "chip"), encoding="utf-8")
    write_rows(rows, folder / "chip.csv")
    return path


def test_a_target_carries_its_rows(tmp_path: Path) -> None:
    assert load_target(chip(tmp_path, [ROW])).rows == (ROW,)


def test_a_row_without_an_origin_stops_the_target(tmp_path: Path) -> None:
    path = chip(tmp_path, [ROW])
    rows = tmp_path / "chip.csv"
    rows.write_text(rows.read_text().replace("modelled", ""))
    with pytest.raises(TargetError, match=r"chip\.csv: row 2: origin"):
        load_target(path)


def test_a_row_for_a_kernel_that_the_target_lacks_is_refused(tmp_path: Path) -> None:
    path = chip(tmp_path, [CostRow("conv", ROW.shape, 3, 8, 1.0, "modelled", "a76time", "2026-11-21", "abc1234")])
    assert "no conv kernel at w3a8" in str(check_target(path)[0])
