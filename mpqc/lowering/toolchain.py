"""The compiler that links for every target: zig, a PyPI dependency, so that no system compiler is needed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mpqc.errors import LoweringError, ToolMissingError
from mpqc.lowering import android
from mpqc.values.system import ANDROID
from mpqc.workspace.caches import cache_home

CACHE = "ZIG_GLOBAL_CACHE_DIR"
GLIBC = "2.28"
"""Oldest C library that the files run with: that of the TVM wheels (manylinux_2_28), Debian 10 and later."""


def zig(tool: str, triple: str, arguments: Sequence[str | Path]) -> None:
    """Runs `zig cc` or `zig c++` for the target `triple` (LLVM's spelling).

    Raises ToolMissingError where the ziglang package is absent, LoweringError with the first line of the compiler's message where it fails.
    """
    zig_tool(tool, ["-target", zig_triple(triple), *arguments])


def compile_c(triple: str, source: Path, output: Path, flags: Sequence[str]) -> None:
    """Compiles the C file `source` into the object `output`. Raises as `zig` does."""
    headers = triple.replace(ANDROID, "musl")
    zig("cc", headers, [*flags, *(android.COMPILED if headers != triple else ()), "-c", source, "-o", output])


def link_shared(triple: str, files: Sequence[str | Path], output: Path, flags: Sequence[str]) -> None:
    """Links objects into the shared library `output`: a function that no library of the system has is an error. Raises as `zig` does."""
    found = _android() if triple.endswith(ANDROID) else ("-lm", "-ldl", "-lpthread")
    zig("cc", triple, ["-shared", "-O2", "-Wl,-z,defs", "-Wl,--build-id=none", *flags, *files, *found, "-o", output])


def _android() -> list[str | Path]:
    """What a library for Android is linked with."""
    return [*android.LINKED, *(_stand_in(library) for library in android.FUNCTIONS)]


def _stand_in(library: str) -> Path:
    names = " ".join(android.FUNCTIONS[library])
    folder = f"android-{hashlib.sha256(names.encode()).hexdigest()[:12]}"
    path = cache_home("mpqc", f"{folder}/{library}") / folder / library
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            source, made = android.stand_in(Path(scratch), library), Path(scratch) / library
            zig("cc", f"aarch64-linux-{ANDROID}", ["-nostdlib", "-shared", "-O2", "-w", "-fno-builtin", f"-Wl,-soname,{library}", source, "-o", made])
            os.replace(made, path)
    return path


def zig_tool(tool: str, arguments: Sequence[str | Path]) -> None:
    """Runs `zig TOOL`, for example `ar`. Raises as `zig` does."""
    if find_spec("ziglang") is None:
        raise ToolMissingError("zig is missing", why="it links the module", hint="pip install ziglang")
    command = [sys.executable, "-m", "ziglang", tool, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise LoweringError(f"zig {tool} failed", where=str(arguments[-1]), why=_first_error(done.stderr), hint=f"exit code {done.returncode}")


def _environment() -> dict[str, str]:
    """This process's, with a folder that zig can keep its C library in also where HOME is unset or cannot be written."""
    return {CACHE: str(cache_home("zig")), **os.environ}


def zig_triple(triple: str) -> str:
    """LLVM's `aarch64-linux-gnu` as zig writes it, with the C library's version; `-musl` and `-android` as they are."""
    machine, environment = triple.split("-")[0], triple.split("-")[-1]
    return f"{machine}-linux-{environment}" if environment in ("musl", ANDROID) else f"{machine}-linux-gnu.{GLIBC}"


def _first_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no message")
