"""Cost rows of a target from its kernels themselves: priced by a pricing tool, or timed on a board that ssh reaches."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from mpqc.errors import TargetError
from mpqc.facts.kinds import FLOATS
from mpqc.runtime.remote import Board, timed
from mpqc.targets import RUNTIME_KERNELS, CostRow, OpKind, Shape, Target
from mpqc.timing.case import Case
from mpqc.timing.grid import KINDS, cases
from mpqc.timing.pricer import Pricer
from mpqc.timing.program import clock_hz, grid_target, rows_from_times, write_calibration, write_program
from mpqc.timing.runtime import runtime_cycles
from mpqc.values.version import __version__

BATCH = 24
"""Kernels a program that is priced"""
ACTIVATION_BITS = 8
LEAST = 0.1
"""Cycles of a row that a difference leaves nothing of"""
Say = Callable[[str], None]


def grid(target: Target, only: Collection[str] = ()) -> list[Case]:
    """The kernel runs that `target` has code for, of the kinds `only` (empty: all). Raises TargetError for a cost-only target."""
    if target.llvm is None:
        raise TargetError("is cost-only: there are no kernels to time", where=target.name)
    return [case for case in cases([kind for kind in KINDS if not only or kind in only], grid_target(target)) if _has_kernel(case, target)]


def _has_kernel(case: Case, target: Target) -> bool:
    if case.kind in FLOATS:
        return True
    widths = (case.weight_bits, case.activation_bits)
    return target.kernel_bits(OpKind(case.kind), *widths) == widths


def modelled_rows(target: Target, pricer: Pricer, only: Collection[str] = (), say: Say = lambda line: None) -> tuple[CostRow, ...]:
    """Rows `modelled` by `pricer`, a line to `say` for each; with the runtime's own where they are asked for.

    Raises TargetError for a cost-only target, UsageError where the tool models another core, ToolMissingError, LoweringError, RunError.
    """
    todo, origin = grid(target, only), Origin("modelled", pricer.method)
    pricer.require(target)
    with tempfile.TemporaryDirectory(prefix="mpqc-calibrate-") as name:
        rows = list(_priced(todo, target, pricer, origin, Path(name), say))
        if not only or set(only) & set(RUNTIME_KERNELS):
            rows += _runtime_rows(target, pricer, origin, Path(name), only)
    return tuple(rows)


def board_grid(target: Target, only: Collection[str] = ()) -> list[Case]:
    """The part of `grid` that a board times: kernels, no differences of two."""
    return [case for case in grid(target, only) if case.less is None]


def measured_rows(target: Target, board: Board, device: str, folder: Path, only: Collection[str] = ()) -> tuple[CostRow, ...]:
    """Rows `measured on DEVICE`: the program of kernels goes to `board`, runs there, and its times come back. `folder` keeps all files.

    Raises TargetError, ToolMissingError (no ssh), RunError (the board does not answer, or the program fails there).
    """
    clock_hz(target)  # where there is none, nothing has to run first
    write_calibration(target, board_grid(target, only), folder)
    times = folder / "times.csv"
    times.write_text(timed(folder, board), encoding="utf-8")
    return rows_from_times(target, folder, times, device, kernels_commit())


def merged(rows: Collection[CostRow], target: Target, only: Collection[str]) -> tuple[CostRow, ...]:
    """`rows`, and those that `target` has of kernels that `only` leaves out."""
    return (*rows, *(row for row in target.rows if only and row.kernel not in only))


@dataclass(frozen=True)
class Origin:
    """What all rows of one calibration say of where they come from."""

    origin: str
    method: str

    def row(self, kernel: str, shape: Shape, weight_bits: int | None, activation_bits: int, cycles: float) -> CostRow:
        """One row of today."""
        return CostRow(kernel, shape, weight_bits, activation_bits, cycles, self.origin, self.method, date.today().isoformat(), kernels_commit())


def kernels_commit() -> str:
    """The commit of the kernels, with a + where the files differ from it; the version of an installed mpqc."""
    kernels = Path(__file__).resolve().parents[1] / "lowering" / "kernels"
    head = _git("log", "-1", "--format=%h", "--", kernels)
    if head is None or not head:
        return f"mpqc {__version__}"
    return f"{head}+" if _git("status", "--porcelain", kernels) else head


def _git(*arguments: object) -> str | None:
    try:
        done = subprocess.run(["git", *map(str, arguments)], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()


def _priced(todo: list[Case], target: Target, pricer: Pricer, origin: Origin, folder: Path, say: Say) -> Iterator[CostRow]:
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        kernels = [kernel for case in batch for kernel in (case.kernel, case.less) if kernel is not None]
        program = write_program(kernels, target.llvm_target, folder / str(start), target.cores)
        numbers = iter(range(len(kernels)))
        for index, case in enumerate(batch):
            cycles = pricer.kernel(program, next(numbers))
            if case.less is not None:
                cycles = max(cycles - pricer.kernel(program, next(numbers)), LEAST)
            rate = (case.kernel.macs or case.shape.outputs) / cycles
            say(f"{start + index + 1}/{len(todo)} {case.kernel.name}: {cycles:.0f} cycles, {rate:.2f} a cycle")
            yield origin.row(case.kind, case.shape, case.weight_bits, case.activation_bits, cycles)


def _runtime_rows(target: Target, pricer: Pricer, origin: Origin, folder: Path, only: Collection[str]) -> list[CostRow]:
    cycles = runtime_cycles(target, folder / "runtime", pricer)
    wanted = [kernel for kernel in RUNTIME_KERNELS if not only or kernel in only]
    return [origin.row(kernel, Shape(), None, ACTIVATION_BITS, max(cycles[kernel], LEAST)) for kernel in wanted]
