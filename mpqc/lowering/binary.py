"""Relax module -> model.so: TVM generates the code and the binary section of constants, zig links them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from mpqc.errors import LoweringError
from mpqc.lowering.lowered import Lowered
from mpqc.lowering.toolchain import zig

NO_DEBUG = "SECTIONS { /DISCARD/ : { *(.debug*) } } INSERT AFTER .comment;\n"
"""Linker script that drops the debug sections TVM always makes (a third of a small module) and keeps the symbols, by which profilers name code."""


def build(lowered: Lowered, path: str | Path) -> Path:
    """Writes the shared library of `lowered` to `path`, whole or not at all, and returns its path.

    Raises LoweringError (code generation or linking failed, the file cannot be written) or ToolMissingError (no zig).
    """
    path = Path(path)
    executable = _compiled(lowered)
    triple = str(lowered.target.llvm_target["mtriple"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mpqc-link-") as folder:
            partial = Path(folder) / "model.so"
            executable.export_library(str(partial), fcompile=_linker(triple), workspace_dir=folder)
            os.replace(partial, path)
    except OSError as error:
        raise LoweringError("cannot write the module", where=str(path), why=error.strerror or str(error)) from error
    return path


def llvm_target(lowered: Lowered) -> tvm.target.Target:
    """TVM's target for the chip, with the number of cores that it runs on."""
    return tvm.target.Target({**lowered.target.llvm_target, "num-cores": lowered.target.cores})


def _compiled(lowered: Lowered) -> Any:
    try:
        with tvm.transform.PassContext(opt_level=3):
            return relax.build(lowered.module, llvm_target(lowered))
    except Exception as error:  # TVM raises many classes; all mean that this program does not compile
        why = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        raise LoweringError("TVM does not compile the program", where=lowered.target.name, why=why) from error


def _linker(triple: str) -> Any:
    def link(output: str, objects: list[str] | str, **_options: Any) -> None:
        files = [objects] if isinstance(objects, str) else objects
        script = Path(output).with_suffix(".ld")
        script.write_text(NO_DEBUG, encoding="utf-8")
        zig("cc", triple, ["-shared", "-O2", f"-Wl,-T,{script}", "-Wl,--build-id=none", "-Wl,-soname,model.so", *files, "-o", output])

    link.output_format = "so"  # type: ignore[attr-defined]
    return link
