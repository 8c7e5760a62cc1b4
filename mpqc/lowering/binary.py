"""Relax module -> model.so: TVM generates the code and the binary section of constants, zig links them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import tvm
from tvm import relax, tirx

from mpqc.errors import LoweringError
from mpqc.lowering.elf import defined_symbols, symbol_bytes
from mpqc.lowering.lowered import Lowered
from mpqc.lowering.plan_table import find_constants, pack_plan
from mpqc.lowering.toolchain import compile_c, link_shared
from mpqc.workspace.progress import steps

NO_DEBUG = "SECTIONS { /DISCARD/ : { *(.debug*) } } INSERT AFTER .comment;\n"
"""Linker script that drops the debug sections TVM always makes (a third of a small module) and keeps the symbols, by which profilers name code."""
HOOKS = Path(__file__).with_name("hooks.c")
LINKED = ("-Wl,--wrap=TVMFFIErrorSetRaisedFromCStrParts", "-Wl,-soname,model.so")
FOREIGN = frozenset(
    f"__{name}"
    for name in (
        *("TVMFFIFunctionCall", "TVMFFIEnvModLookupFromImports", "TVMFFIHandleInitOnce", "TVMFFIErrorSetRaisedFromCStr"),
        *("TVMBackendParallelBarrier", "TVMBackendAllocWorkspace", "TVMBackendFreeWorkspace"),
    )
)
"""Pointers that TVM's loader sets to functions which libmpqc has no counterpart of"""
STORED = "__tvm_ffi__library_bin"
"""What TVM's loader reads"""


def build(lowered: Lowered, path: str | Path) -> Path:
    """Writes the shared library of `lowered` to `path`, whole or not at all, and returns its path.

    Raises LoweringError (code generation or linking failed, the file cannot be written) or ToolMissingError (no zig).
    """
    path = Path(path)
    triple = str(lowered.target.llvm_target["mtriple"])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".mpqc-link-") as folder:
            partial = Path(folder) / "model.so"
            executable, kernels = _compiled(lowered, Path(folder))
            executable.export_library(str(partial), fcompile=_linker(lowered, triple, kernels), workspace_dir=folder)
            os.replace(partial, path)
    except OSError as error:
        raise LoweringError("cannot write the module", where=str(path), why=error.strerror or str(error)) from error
    return path


def llvm_target(lowered: Lowered) -> tvm.target.Target:
    """TVM's target for the chip, with the number of cores that it runs on."""
    return tvm.target.Target({**lowered.target.llvm_target, "num-cores": lowered.target.cores})


def _compiled(lowered: Lowered, folder: Path) -> tuple[Any, list[str]]:
    """The module with its first kernel (TVM packs the constants for the machine that it finds code for), and an object for each other one.

    Each kernel is compiled alone: in one LLVM module, inlining and register allocation of a kernel change with the kernels beside it,
    by up to a half of its time.
    """
    target, functions = llvm_target(lowered), lowered.module.functions
    kernels = [name for name, function in functions.items() if isinstance(function, tirx.PrimFunc)]
    rest = {name: function for name, function in functions.items() if name not in kernels[1:]}
    try:
        with tvm.transform.PassContext(opt_level=3):
            executable = relax.build(tvm.IRModule(rest), target)
        rest_of_them = steps(kernels[1:], len(kernels) - 1)
        return executable, [str(compile_kernel(functions[name], target, folder / f"{i}.o")) for i, name in enumerate(rest_of_them)]
    except Exception as error:  # TVM raises many classes; all mean that this program does not compile
        why = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
        raise LoweringError("TVM does not compile the program", where=lowered.target.name, why=why) from error


def compile_kernel(function: tirx.PrimFunc, target: tvm.target.Target, path: Path) -> Path:
    """Compiles `function`, which has a global_symbol, into the object file `path`."""
    module = tvm.IRModule({function.attrs["global_symbol"]: function})
    tvm.compile(module, target=target).mod.write_to_file(str(path), "o")
    return path


def _linker(lowered: Lowered, triple: str, more: list[str]) -> Any:
    """Links what TVM hands over with `more` objects, the plan, and hooks.c."""

    def link(output: str, objects: list[str] | str, **_options: Any) -> None:
        files = [*([objects] if isinstance(objects, str) else objects), *more]
        folder = Path(output).parent
        script = Path(output).with_suffix(".ld")
        script.write_text(NO_DEBUG, encoding="utf-8")
        plan = _plan(lowered, files)
        (folder / "plan.inc").write_text(",".join(map(str, plan)), encoding="utf-8")
        compile_c(triple, HOOKS, folder / "hooks.o", ["-O2", "-g0", "-fPIC", f"-I{folder}"])
        link_shared(triple, [*files, folder / "hooks.o"], Path(output), [*LINKED, f"-Wl,-T,{script}"])
        _check_calls(Path(output).read_bytes(), lowered)

    link.output_format = "so"  # type: ignore[attr-defined]
    return link


def _check_calls(module: bytes, lowered: Lowered) -> None:
    """Raises LoweringError where code of the module calls what only TVM's runtime has."""
    called = sorted(defined_symbols(module) & FOREIGN)
    if called:
        why = f"its code calls {', '.join(name.removeprefix('__') for name in called)}"
        hint = "keep the float nodes that call functions of TVM's runtime out of the deployed network"
        raise LoweringError("the runtime library cannot run this program", where=lowered.target.name, why=why, hint=hint)


def _plan(lowered: Lowered, objects: list[str]) -> bytes:
    """The plan, which says where in TVM's own section of constants each of them is."""
    stored = next((found for path in objects if (found := symbol_bytes(Path(path).read_bytes(), STORED)) is not None), None)
    if stored is None:
        raise LoweringError("TVM stores no constants where the runtime library reads them", where=lowered.target.name, why=f"no symbol {STORED}")
    sizes = [values.nbytes for values in lowered.constants]
    return pack_plan(lowered.description, find_constants(stored, lowered.constants), sizes)
