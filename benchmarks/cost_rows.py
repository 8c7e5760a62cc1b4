"""Writes the cost rows of the Cortex-A76: every kernel of the grid, compiled as mpqc deploys it and priced by a76time.

    python benchmarks/cost_rows.py                       # all kernels, about ten minutes -> targets/cortex-a76.csv
    python benchmarks/cost_rows.py --only conv gemm      # others keep their rows

Needs ../shared/tools/a76 (or $MPQC_SHARED), qemu-aarch64 with plugins, llvm-mca and zig.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from cost_pricing import METHOD, find_a76time, kernel_cycles
from cost_runtime import runtime_cycles

from mpqc.lowering.cost_grid import KINDS, Case, cases
from mpqc.runtime.cost_program import grid_target, write_program
from mpqc.targets import FOLDER, RUNTIME_KERNELS, CostRow, Shape, Target, load_target, read_rows, write_rows

BATCH = 24
"""Kernels a program"""


def main() -> None:
    """Price the kernels that were asked for and write the rows, keeping the rows of others."""
    options = _options()
    target, origin = load_target(options.target), Origin.now()
    kept = read_rows(options.output)[0] if options.output.exists() else ()
    with tempfile.TemporaryDirectory() as folder:
        rows = [*_kernel_rows(options.only, target, origin, Path(folder)), *_runtime_rows(options.only, target, origin, Path(folder))]
    write_rows([*rows, *(row for row in kept if row.kernel not in options.only)], options.output)
    print(f"{len(rows)} rows written to {options.output}")


def _options() -> argparse.Namespace:
    kernels = (*KINDS, *RUNTIME_KERNELS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cortex-a76", choices=["cortex-a76"], help="a76time knows this core only")
    parser.add_argument("--only", nargs="+", default=kernels, choices=kernels, metavar="KERNEL", help="price these kernels only")
    parser.add_argument("--output", type=Path, default=FOLDER / "cortex-a76.csv")
    return parser.parse_args()


@dataclass(frozen=True)
class Origin:
    """What all rows of one run of this program say about where they come from."""

    date: str
    commit: str

    @classmethod
    def now(cls) -> Origin:
        """Today and the commit of the kernels."""
        return cls(date.today().isoformat(), _commit())

    def row(self, kernel: str, shape: Shape, weight_bits: int | None, cycles: float) -> CostRow:
        """A row with 8-bit activations."""
        return CostRow(kernel, shape, weight_bits, 8, cycles, "modelled", METHOD, self.date, self.commit)


def _kernel_rows(only: Collection[str], target: Target, origin: Origin, folder: Path) -> list[CostRow]:
    todo = list(cases([kind for kind in KINDS if kind in only], grid_target(target)))
    batches = [todo[start : start + BATCH] for start in range(0, len(todo), BATCH)]
    return [row for index, batch in enumerate(batches) for row in price(batch, target, origin, folder / str(index))]


def price(todo: list[Case], target: Target, origin: Origin, folder: Path) -> list[CostRow]:
    """One row for each of `todo`, run in one program built in `folder`."""
    tool = find_a76time()
    program = write_program([case.kernel for case in todo], target.llvm_target, folder)
    rows = []
    for index, case in enumerate(todo):
        cycles = kernel_cycles(program, index, tool, case.kernel.name)
        rows.append(origin.row(case.kind, case.shape, case.weight_bits, cycles))
        rate = case.kernel.macs / cycles if case.kernel.macs else case.shape.outputs / cycles
        print(f"{case.kernel.name:100s} {cycles:12.0f} cycles {rate:7.2f} a cycle", file=sys.stderr)
    return rows


def _runtime_rows(only: Collection[str], target: Target, origin: Origin, folder: Path) -> list[CostRow]:
    if not set(only) & set(RUNTIME_KERNELS):
        return []
    cycles = runtime_cycles(target, folder / "runtime", find_a76time())
    return [origin.row(kernel, Shape(), None, cycles[kernel]) for kernel in RUNTIME_KERNELS if kernel in only]


def _commit() -> str:
    """The commit of the kernels, with a + where the files differ from it."""
    kernels = "mpqc/lowering/kernels"
    root = Path(__file__).resolve().parent.parent
    changed = subprocess.run(["git", "status", "--porcelain", kernels], cwd=root, capture_output=True, text=True, check=True).stdout
    head = subprocess.run(["git", "log", "-1", "--format=%h", "--", kernels], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    return f"{head}+" if changed.strip() else head


if __name__ == "__main__":
    main()
