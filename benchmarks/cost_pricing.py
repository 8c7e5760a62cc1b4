"""Prices kernels in cycles of a Cortex-A76: compiles them, links them with a small driver, and runs each under a76time.

a76time counts executed blocks under qemu-aarch64 and prices them with llvm-mca and a cache model. It is found in
$MPQC_SHARED/tools/a76, else ../shared/tools/a76 beside the checkout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tvm
import tvm_ffi

if TYPE_CHECKING:
    from mpqc.lowering.kernels.kernel import Kernel

HERE = Path(__file__).resolve().parent
TARGET = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}
METHOD = "a76time: qemu-aarch64 block counts priced by llvm-mca neoverse-n1 and a cache model; warm caches; one core"


def find_a76time() -> Path:
    """The pricing tool; exits with a sentence where it is absent."""
    root = Path(os.environ.get("MPQC_SHARED", HERE.parent.parent / "shared"))
    tool = root / "tools" / "a76" / "a76time"
    if not tool.is_file():
        sys.exit(f"{tool} is missing: set MPQC_SHARED to the folder that has tools/a76")
    return tool


class Driver:
    """Kernels in one AArch64 program, run by index."""

    def __init__(self, kernels: Sequence[Kernel], folder: Path) -> None:
        self.folder, self.kernels = folder, kernels
        folder.mkdir(parents=True, exist_ok=True)
        _compile(kernels, folder / "kernels.o")
        _write_table(kernels, folder)
        _link(folder)

    def cycles(self, index: int, tool: Path) -> float:
        """Modelled cycles of one run of kernel `index`, warm."""
        command = [self.folder / "driver", index, "{n}", self.folder / "constants.bin"]
        return modelled_cycles(tool, command, (1, 2), self.kernels[index].name)


def bundle_cycles(bundle: Path, tool: Path, runs: tuple[int, int] = (1, 2)) -> float:
    """Modelled cycles of one run of a whole bundle, warm, runtime included."""
    command = [bundle / "bin" / "mpqc-runner", "--model", bundle / "model.so", "--repeat", "{n}", "--warmup", "1", "--threads", "1"]
    return modelled_cycles(tool, command, runs, str(bundle), f"LD_LIBRARY_PATH={bundle / 'lib'}")


def modelled_cycles(tool: Path, command: Sequence[object], runs: tuple[int, int], what: str, *environment: str) -> float:
    """Cycles of one repeat of an AArch64 program whose argument {n} says how many; `environment` holds NAME=VALUE."""
    options = ["--json", "-", "--runs", *map(str, runs), *(part for pair in environment for part in ("-E", pair))]
    done = subprocess.run([sys.executable, str(tool), *options, "--", *map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what}: {done.stderr.strip()}")
    return float(json.loads(done.stdout)["modelled_cycles"])


def _compile(kernels: Sequence[Kernel], path: Path) -> None:
    functions = {kernel.name: kernel.func.with_attr("global_symbol", kernel.name) for kernel in kernels}
    module = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(TARGET))
    module.mod.write_to_file(str(path), "o")


def _write_table(kernels: Sequence[Kernel], folder: Path) -> None:
    offset, entries, names = 0, [], {kernel.name for kernel in kernels}
    with (folder / "constants.bin").open("wb") as blob:
        for kernel in kernels:
            constants = iter(kernel.constants)
            buffers = list(kernel.func.params)
            first = len(buffers) - 1 - len(kernel.constants)
            arguments = []
            for position, buffer in enumerate(buffers):
                is_constant = first <= position < len(buffers) - 1
                data = np.ascontiguousarray(next(constants)).tobytes() if is_constant else b""
                arguments.append(_argument(buffer, offset if is_constant else -1))
                offset += blob.write(data)
            entries.append(f"{{__tvm_ffi_{kernel.name}, {len(arguments)}, {{{', '.join(arguments)}}}}}")
    declared = "\n".join(f"extern int __tvm_ffi_{name}(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);" for name in sorted(names))
    table = ",\n".join(entries)
    (folder / "kernels.inc").write_text(f"{declared}\nstatic Entry kernels[] = {{\n{table}\n}};\n", encoding="utf-8")


def _argument(buffer: tvm.ir.Var, offset: int) -> str:
    dtype = np.dtype(str(buffer.dtype))
    shape = [int(extent) for extent in buffer.shape]
    code = {"i": "kDLInt", "u": "kDLUInt", "f": "kDLFloat"}[dtype.kind]
    size = int(np.prod(shape)) * dtype.itemsize
    return f"{{{len(shape)}, {{{', '.join(map(str, shape)) or 1}}}, {{{code}, {dtype.itemsize * 8}, 1}}, {size}, {offset}}}"


def _link(folder: Path) -> None:
    include = Path(tvm_ffi.__file__).parent / "include"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.28", "-O2", f"-I{include}", f"-I{folder}"]
    command += [str(HERE / "cost_driver.c"), str(folder / "kernels.o"), "-lm", "-o", str(folder / "driver")]
    subprocess.run(command, check=True)
