"""A program of kernels: the grid of cost rows compiled for a chip and linked with a small driver, to be priced or timed.

The driver (driver.c) needs neither Python nor TVM's runtime on the board.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm import tirx

from mpqc.errors import LoweringError, TargetError
from mpqc.lowering.binary import compile_kernel
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.relax_module import kernel_target
from mpqc.lowering.scratch import plan_workspace
from mpqc.lowering.toolchain import zig
from mpqc.runtime.libraries import include_folders
from mpqc.targets import CostRow, Shape, Target

if TYPE_CHECKING:
    from mpqc.timing.case import Case

DRIVER = Path(__file__).with_name("driver.c")
_CODES = {"i": "kDLInt", "u": "kDLUInt", "f": "kDLFloat"}
_RUN = """#!/bin/sh
# Times every kernel on one core of this board: ./run.sh > times.csv
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/driver" "${1:-0.05}" "$here/constants.bin"
"""


def write_program(kernels: Sequence[Kernel], llvm_target: Mapping[str, object], folder: Path, cores: int = 4) -> Path:
    """Compiles `kernels`, as modules for a chip of `cores` hold them, into `folder`/driver, which runs them by index, and returns the folder.

    Raises LoweringError where a kernel does not compile or link, ToolMissingError without zig.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deployed = [_deployed(kernel, index, cores) for index, kernel in enumerate(kernels)]
    objects = _compile(deployed, tvm.target.Target({**llvm_target, "num-cores": cores}), folder)
    _write_table(kernels, deployed, folder)
    includes = [f"-I{path}" for path in (*include_folders(), folder)]
    zig("cc", str(llvm_target["mtriple"]), ["-O2", *includes, DRIVER, *objects, "-lm", "-o", folder / "driver"])
    for path in (*objects, folder / "kernels.inc"):
        path.unlink()
    return folder


def write_calibration(target: Target, cases: Sequence[Case], folder: Path) -> Path:
    """A folder to copy to a board of `target`: `./run.sh > times.csv` there times every case; `rows_from_times` reads the result.

    Raises TargetError for a cost-only target, LoweringError, ToolMissingError.
    """
    if not target.llvm_target:
        raise TargetError("is cost-only: there are no kernels to time", where=target.name)
    write_program([case.kernel for case in cases], target.llvm_target, folder, target.cores)
    grid = [_described(case) for case in cases]
    (folder / "grid.json").write_text(json.dumps({"schema_version": 1, "target": target.name, "cases": grid}, indent=1), encoding="utf-8")
    script = folder / "run.sh"
    script.write_text(_RUN, encoding="utf-8")
    script.chmod(0o755)
    return folder


def _described(case: Case) -> dict[str, object]:
    widths = {"weight_bits": case.weight_bits, "activation_bits": case.activation_bits}
    return {"kernel": case.kind, "shape": asdict(case.shape), **widths}


def rows_from_times(target: Target, folder: Path, times: Path, device: str, commit: str) -> tuple[CostRow, ...]:
    """Cost rows `measured on DEVICE` from the CSV that run.sh printed; cycles are those of the target's clock.

    Raises TargetError, naming file and line, for times that do not fit the folder.
    """
    clock = clock_hz(target)
    cases = _read_grid(folder / "grid.json", target)
    nanoseconds = _read_times(times, len(cases))
    origin = {"origin": f"measured on {device}", "method": "cost_driver: shortest run, one core, warm caches"}
    provenance = {**origin, "date": date.today().isoformat(), "commit": commit}
    cycles = [spent * clock / 1e9 for spent in nanoseconds]
    return tuple(
        CostRow(case["kernel"], Shape(**case["shape"]), case["weight_bits"], case["activation_bits"], spent, **provenance)
        for case, spent in zip(cases, cycles, strict=True)
    )


def clock_hz(target: Target) -> int:
    """The clock that turns time into cycles. Raises TargetError where the target file has none."""
    if target.clock_hz is None:
        raise TargetError("is needed to turn time into cycles", where=f"{target.name}: clock_hz")
    return target.clock_hz


def grid_target(target: Target) -> KernelTarget:
    """What the kernels of the grid need to know of `target`."""
    return kernel_target(target)


def _read_grid(path: Path, target: Target) -> list[dict]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        named, cases = raw["target"], list(raw["cases"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TargetError("cannot read the grid", where=str(path), why=f"{type(error).__name__}: {error}") from error
    if named != target.name:
        raise TargetError(f"the times are of {named}, not of {target.name}", where=str(path))
    return cases


def _read_times(path: Path, count: int) -> list[float]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise TargetError("cannot read the times", where=str(path), why=str(error)) from error
    if len(lines) != count + 1 or lines[0] != ["kernel", "nanoseconds"]:
        raise TargetError(f"{max(len(lines) - 1, 0)} times for {count} kernels", where=str(path), hint="let run.sh finish")
    return [_time(line, index, f"{path}: line {index + 2}") for index, line in enumerate(lines[1:])]


def _time(line: list[str], index: int, where: str) -> float:
    if len(line) != 2 or line[0] != str(index) or not line[1].isdigit() or int(line[1]) == 0:
        raise TargetError(f"{','.join(line)!r} is not a time of kernel {index}", where=where)
    return float(line[1])


def _deployed(kernel: Kernel, index: int, cores: int) -> tirx.PrimFunc:
    return plan_workspace(kernel.func, cores).func.with_attr("global_symbol", f"kernel{index}")


def _compile(functions: Sequence[tirx.PrimFunc], target: tvm.target.Target, folder: Path) -> list[Path]:
    try:
        return [compile_kernel(function, target, folder / f"{function.attrs['global_symbol']}.o") for function in functions]
    except Exception as error:  # TVM raises many classes; all mean that a kernel does not compile
        raise LoweringError("TVM does not compile the kernels", why=str(error).strip().splitlines()[-1]) from error


def _write_table(kernels: Sequence[Kernel], deployed: Sequence[tirx.PrimFunc], folder: Path) -> None:
    entries, offset = [], 0
    with (folder / "constants.bin").open("wb") as blob:
        for index, (kernel, function) in enumerate(zip(kernels, deployed, strict=True)):
            arguments, offset = _arguments(kernel, function, offset)
            for constant in kernel.constants:
                blob.write(np.ascontiguousarray(constant).tobytes())
            entries.append(f"{{__tvm_ffi_kernel{index}, {len(arguments)}, {{{', '.join(arguments)}}}}}")
    declared = "\n".join(f"extern int __tvm_ffi_kernel{index}(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);" for index in range(len(kernels)))
    table = ",\n".join(entries)
    (folder / "kernels.inc").write_text(f"{declared}\nstatic Entry kernels[] = {{\n{table}\n}};\n", encoding="utf-8")


def _arguments(kernel: Kernel, function: tirx.PrimFunc, offset: int) -> tuple[list[str], int]:
    """The driver's arguments of `function`, whose constants begin at `offset` in the file, and where they end."""
    first = len(kernel.func.params) - 1 - len(kernel.constants)
    arguments = []
    for position, buffer in enumerate(function.params):
        is_constant = first <= position < first + len(kernel.constants)
        arguments.append(_argument(buffer, offset if is_constant else -1))
        offset += kernel.constants[position - first].nbytes if is_constant else 0
    return arguments, offset


def _argument(buffer: tirx.Var, offset: int) -> str:
    dtype, shape = np.dtype(str(buffer.dtype)), [int(extent) for extent in buffer.shape]
    extents = ", ".join(map(str, shape)) or "1"
    size = int(np.prod(shape)) * dtype.itemsize
    return f"{{{len(shape)}, {{{extents}}}, {{{_CODES[dtype.kind]}, {dtype.itemsize * 8}, 1}}, {size}, {offset}}}"
