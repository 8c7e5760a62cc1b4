"""Compiles kernels for a Cortex-A76 or for this machine, runs many cases in one process and hands back their outputs."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
import tvm_ffi

from mpqc.lowering.kernels.kernel import Isa, Kernel

DRIVER = Path(__file__).with_name("driver.c")
ARM = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}
HOST = {"kind": "llvm"}
CODES = {"i": 0, "u": 1, "f": 2, "b": 6}


@dataclass(frozen=True, eq=False)
class Case:
    """One call: a kernel, its activation inputs and, where known, the output that it must give."""

    kernel: Kernel
    inputs: tuple[np.ndarray, ...]
    expected: np.ndarray | None = None
    label: str = ""


def check(cases: Sequence[Case], isa: Isa, *, tasks: int = 1) -> None:
    """Fails unless every case gives exactly its expected output."""
    for case, got in zip(cases, run(cases, isa, tasks=tasks), strict=True):
        assert case.expected is not None
        np.testing.assert_array_equal(got, case.expected, err_msg=f"{case.kernel.name} {case.label} ({isa}, {tasks} tasks)", strict=True)


def run(cases: Sequence[Case], isa: Isa, *, tasks: int = 1, repeats: int = 1) -> list[np.ndarray]:
    """Outputs of `cases`, run under qemu-aarch64 -cpu cortex-a76 for dotprod and on this machine for generic, the work cut into `tasks`."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        command = program(cases, isa, place)
        subprocess.run([*command, str(place / "cases"), str(place / "out"), str(tasks), str(repeats)], check=True, timeout=300)
        return list(split((place / "out").read_bytes(), [case.kernel for case in cases]))


def program(cases: Sequence[Case], isa: Isa, place: Path) -> list[str]:
    """Writes the program and the file `cases` into `place`; returns the command that runs it."""
    kernels = distinct(case.kernel for case in cases)
    module = tvm.IRModule({name: kernel.func.with_attr("global_symbol", name) for name, kernel in kernels.items()})
    tvm.compile(module, target=tvm.target.Target(ARM if isa == "dotprod" else HOST)).mod.write_to_file(str(place / "kernels.o"), "o")
    (place / "table.c").write_text(table(list(kernels)))
    link(place, isa)
    (place / "cases").write_bytes(encode(cases, list(kernels)))
    return (["qemu-aarch64", "-cpu", "cortex-a76"] if isa == "dotprod" else []) + [str(place / "program")]


def distinct(kernels: Iterable[Kernel]) -> dict[str, Kernel]:
    """One kernel a name, after checking that equal names mean equal code."""
    found: dict[str, Kernel] = {}
    for kernel in kernels:
        assert re.fullmatch(r"[A-Za-z_]\w*", kernel.name), kernel.name
        first = found.setdefault(kernel.name, kernel)
        assert first is kernel or tvm_ffi.structural_equal(first.func, kernel.func), f"two different kernels are called {kernel.name}"
    return found


def table(names: Sequence[str]) -> str:
    """C source of the table of functions that driver.c calls."""
    lines = [f"extern int __tvm_ffi_{name}(void*, const void*, int, void*);" for name in names]
    return "\n".join([*lines, "void* const mpqc_functions[] = {", *(f"  (void*)__tvm_ffi_{name}," for name in names), "};", ""])


def link(place: Path, isa: Isa) -> None:
    """Static program from driver.c, table.c and kernels.o."""
    flags = ["-target", "aarch64-linux-musl", "-static"] if isa == "dotprod" else []
    sources = [str(DRIVER), str(place / "table.c"), str(place / "kernels.o")]
    command = [sys.executable, "-m", "ziglang", "cc", *flags, "-O1", "-fno-sanitize=undefined", *sources, "-o", str(place / "program"), "-lm"]
    subprocess.run(command, check=True, timeout=300)


def encode(cases: Sequence[Case], names: Sequence[str]) -> bytes:
    """The file that driver.c reads."""
    parts = [struct.pack("<i", len(cases))]
    for case in cases:
        arguments = [*case.inputs, *case.kernel.constants]
        parts.append(struct.pack("<2i", names.index(case.kernel.name), len(arguments) + 1))
        for array in arguments:
            parts += [describe(array.shape, array.dtype), np.ascontiguousarray(array).tobytes()]
        parts.append(describe(case.kernel.output_shape, np.dtype(case.kernel.output_dtype)))
    return b"".join(parts)


def describe(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Type and shape of one argument."""
    return struct.pack(f"<3i{len(shape)}q", CODES[dtype.kind], dtype.itemsize * 8, len(shape), *shape)


def split(data: bytes, kernels: Sequence[Kernel]) -> Iterable[np.ndarray]:
    """The outputs in `data`, one after the other."""
    at = 0
    for kernel in kernels:
        size = int(np.prod(kernel.output_shape)) * np.dtype(kernel.output_dtype).itemsize
        yield np.frombuffer(data[at : at + size], kernel.output_dtype).reshape(kernel.output_shape)
        at += size
    assert at == len(data)
