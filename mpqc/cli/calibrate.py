"""`mpqc calibrate-target`: cost rows from the kernels themselves, priced in the emulator or timed on a board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.cli.files import existing
from mpqc.cli.requests import Calibrating, Quiet
from mpqc.errors import UsageError
from mpqc.workspace.progress import Progress

if TYPE_CHECKING:
    from mpqc.targets import CostRow, Target


def calibrate_target_command(name: str, given: Calibrating, showing: Quiet) -> None:
    """Rows in OUTPUT/NAME.csv; without a source of times, the folder to run on a board."""
    from mpqc.targets import load_target, read_rows
    from mpqc.timing.rows import board_grid

    target, folder, only = load_target(name), given.output_dir, _checked(given.only)
    path = folder / f"{target.name}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_file() and only:
        target = target.model_copy(update={"rows": read_rows(path)[0] or target.rows})
    if given.emulator:
        _write(_modelled(given, showing, target, only), target, only, path)
    elif given.ssh is not None:
        _write(_measured(given, given.ssh, target, only), target, only, path)
    elif given.times is not None:
        _write(_from_times(given, existing(given.times, "times"), target), target, (), path)
    else:
        from mpqc.timing.program import write_calibration

        write_calibration(target, board_grid(target, only), folder)
        print(f"copy {folder} to the board, run there  ./run.sh > times.csv  and give the file to --times")


def _checked(only: tuple[str, ...]) -> tuple[str, ...]:
    from mpqc.targets import RUNTIME_KERNELS
    from mpqc.timing.grid import KINDS

    known = (*KINDS, *RUNTIME_KERNELS)
    for name in only:
        if name not in known:
            raise UsageError(f"{name!r} is not a kernel of the grid", where="--only", hint=f"use some of {', '.join(known)}")
    return only


def _modelled(given: Calibrating, showing: Quiet, target: Target, only: tuple[str, ...]) -> tuple[CostRow, ...]:
    from mpqc.timing.pricer import find_pricer
    from mpqc.timing.rows import modelled_rows

    tool = find_pricer(given.pricer, target.llvm.mcpu if target.llvm else None)
    return modelled_rows(target, tool, only, Progress(quiet=showing.quiet).say)


def _measured(given: Calibrating, address: str, target: Target, only: tuple[str, ...]) -> tuple[CostRow, ...]:
    from mpqc.runtime.remote import Board
    from mpqc.timing.rows import measured_rows

    board = Board.parse(address)
    return measured_rows(target, board, given.device or board.host, given.output_dir, only)


def _from_times(given: Calibrating, times: Path, target: Target) -> tuple[CostRow, ...]:
    from mpqc.timing.program import rows_from_times
    from mpqc.timing.rows import kernels_commit

    assert given.device is not None
    return rows_from_times(target, given.output_dir, times, given.device, kernels_commit())


def _write(rows: tuple[CostRow, ...], target: Target, only: tuple[str, ...], path: Path) -> None:
    from mpqc.targets import write_rows
    from mpqc.timing.rows import merged

    partial = path.with_suffix(".partial")
    write_rows(merged(rows, target, only), partial)
    partial.replace(path)
    print(f'{len(rows)} rows in {path}: put it beside the target file, with cost_rows = "{path.name}" in it')
