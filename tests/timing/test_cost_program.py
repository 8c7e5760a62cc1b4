"""The program of kernels that boards time: it runs, and its times become rows that say where they were measured."""

from __future__ import annotations

import itertools
import subprocess
from pathlib import Path

import pytest

from mpqc.errors import TargetError
from mpqc.runtime.run import emulator
from mpqc.targets import load_target, read_rows, write_rows
from mpqc.timing.grid import cases
from mpqc.timing.program import grid_target, rows_from_times, write_calibration

TARGET = load_target("cortex-a55")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = [case for kind in ("conv", "gemm", "table", "quantize") for case in itertools.islice(cases([kind], grid_target(TARGET)), 2)]
    return write_calibration(TARGET, chosen, tmp_path_factory.mktemp("calibration"))


@pytest.mark.emulator
def test_the_board_times_every_kernel(program: Path, tmp_path: Path) -> None:
    command = [*emulator("cortex-a76"), str(program / "driver"), "0.001", str(program / "constants.bin")]
    times = tmp_path / "times.csv"
    times.write_text(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    rows = rows_from_times(TARGET, program, times, "an emulator", "abc1234")
    assert [row.kernel for row in rows] == ["conv", "conv", "gemm", "gemm", "table", "table", "quantize", "quantize"]
    assert {row.origin for row in rows} == {"measured on an emulator"}
    assert all(row.cycles > 0 for row in rows)
    write_rows(rows, tmp_path / "rows.csv")
    found, problems = read_rows(tmp_path / "rows.csv")
    assert not problems
    assert [row.shape for row in found] == [row.shape for row in rows]


def test_times_become_cycles_of_the_clock(program: Path, tmp_path: Path) -> None:
    times = tmp_path / "times.csv"
    times.write_text("kernel,nanoseconds\n" + "".join(f"{index},{1000 + index}\n" for index in range(8)))
    rows = rows_from_times(TARGET, program, times, "RK3588", "abc1234")
    assert [row.cycles for row in rows] == pytest.approx([(1000 + index) * 1.8 for index in range(8)])
    assert rows[0].weight_bits == 8
    assert rows[4].weight_bits is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "times for 8 kernels"),
        ("kernel,nanoseconds\n0,5\n", "1 times for 8 kernels"),
        ("kernel,nanoseconds\n" + "".join(f"{index},{index}\n" for index in range(8)), r"line 2: '0,0' is not a time of kernel 0"),
        ("kernel,nanoseconds\n" + "0,5\n" * 8, r"line 3: '0,5' is not a time of kernel 1"),
    ],
)
def test_times_that_do_not_fit_are_named(program: Path, tmp_path: Path, text: str, message: str) -> None:
    times = tmp_path / "times.csv"
    times.write_text(text)
    with pytest.raises(TargetError, match=message):
        rows_from_times(TARGET, program, times, "RK3588", "abc1234")


def test_times_of_another_chip_are_refused(program: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="of cortex-a55, not of cortex-a72"):
        rows_from_times(load_target("cortex-a72"), program, tmp_path / "times.csv", "Pi 4", "abc1234")


def test_a_cost_only_target_has_nothing_to_time(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="abstract: is cost-only"):
        write_calibration(load_target("abstract"), [], tmp_path)
