"""Compiles kernels into one program and runs it: in the emulator for AArch64, directly for the host."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm

from mpqc.lowering.kernels.kernel import Kernel, KernelTarget

DRIVER = Path(__file__).with_name("driver.c")
SYSROOT = "/usr/aarch64-linux-gnu"
CODES = {"i": 0, "u": 1, "f": 2}


CORES: dict[str, frozenset[str]] = {"dotprod": frozenset({"neon", "dotprod"}), "neon": frozenset({"neon"}), "generic": frozenset()}
"""What the cores have that kernels are tested for"""


def core(isa: str, cores: int = 4) -> KernelTarget:
    """What the kernels need to know of a core, one of CORES."""
    return KernelTarget(CORES[isa], cores)


@dataclass(frozen=True)
class Machine:
    """Where kernels run."""

    cpu: str
    """LLVM's name; "host" for this machine's portable baseline"""

    @property
    def triple(self) -> str:
        return "x86_64-linux-gnu" if self.cpu == "host" else "aarch64-linux-gnu"

    @property
    def target(self) -> tvm.target.Target:
        cpu = {} if self.cpu == "host" else {"mcpu": self.cpu}
        return tvm.target.Target({"kind": "llvm", "mtriple": self.triple, **cpu})

    @property
    def command(self) -> list[str]:
        return [] if self.cpu == "host" else ["qemu-aarch64", "-cpu", self.cpu, "-L", SYSROOT]


A76, A72, A53, HOST = Machine("cortex-a76"), Machine("cortex-a72"), Machine("cortex-a53"), Machine("host")


@dataclass(frozen=True)
class Case:
    """One call of a kernel."""

    kernel: Kernel
    inputs: tuple[np.ndarray, ...]
    threads: int = 1
    repeats: int = 1


def run(cases: Sequence[Case], machine: Machine, folder: Path) -> list[np.ndarray]:
    """The output of every case; one compile, one process."""
    program = build([case.kernel for case in cases], machine, folder)
    write_cases(cases, folder / "cases")
    done = subprocess.run([*machine.command, program, folder / "cases", folder / "results"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
    return read_results(cases, folder / "results")


def build(kernels: Sequence[Kernel], machine: Machine, folder: Path) -> Path:
    """A static program with the kernels' code, called by position."""
    functions = {kernel.name: kernel.func for kernel in kernels}
    compiled = tvm.compile(tvm.IRModule(functions), target=machine.target)
    compiled.mod.write_to_file(str(folder / "kernels.o"))
    table = "\n".join(f"extern int __tvm_ffi_{name}();" for name in functions)
    names = ", ".join(f"__tvm_ffi_{kernel.name}" for kernel in kernels)
    (folder / "table.c").write_text(f"{table}\nint (*const kernels[])() = {{{names}}};\n")
    triple = machine.triple.replace("gnu", "musl")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-static", "-O1", "-w", "-g"]
    subprocess.run([*command, str(DRIVER), str(folder / "table.c"), str(folder / "kernels.o"), "-o", str(folder / "program")], check=True)
    return folder / "program"


def write_cases(cases: Sequence[Case], path: Path) -> None:
    with path.open("wb") as file:
        for index, case in enumerate(cases):
            arrays = [*case.inputs, *case.kernel.constants]
            file.write(np.array([index, case.threads, case.repeats, len(arrays) + 1], np.int32).tobytes())
            for array in arrays:
                file.write(_head(array.dtype, array.shape) + np.ascontiguousarray(array).tobytes())
            file.write(_head(np.dtype(case.kernel.output_dtype), case.kernel.output_shape))


def _head(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    return np.array([CODES[dtype.kind], dtype.itemsize * 8, len(shape)], np.int32).tobytes() + np.array(shape, np.int64).tobytes()


def read_results(cases: Sequence[Case], path: Path) -> list[np.ndarray]:
    raw, at, results = path.read_bytes(), 0, []
    for case in cases:
        dtype, shape = np.dtype(case.kernel.output_dtype), case.kernel.output_shape
        size = dtype.itemsize * int(np.prod(shape))
        results.append(np.frombuffer(raw[at : at + size], dtype).reshape(shape))
        at += size
    return results
