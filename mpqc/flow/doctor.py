"""`mpqc doctor`: what this machine has of what mpqc needs, and what to do about what is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "onnx", "onnxruntime", "onnx-graphsurgeon", "torch", "ortools", "apache-tvm", "ziglang")
SYSROOT = Path("/usr/aarch64-linux-gnu")
APT = "apt-get install qemu-user libc6-arm64-cross libstdc++6-arm64-cross"


@dataclass(frozen=True)
class Check:
    """One thing that was looked for. `hint` says what to do where `ok` is False."""

    name: str
    ok: bool
    found: str
    hint: str = ""
    required: bool = True
    """False: only some commands need it."""


def examine() -> tuple[Check, ...]:
    """All checks, quick ones first; the compiler check compiles one tiny function."""
    return (_python(), *map(_package, PACKAGES), _code_generator(), _linker(), _emulator(), _sysroot())


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 11), found, "install Python 3.11 or newer")


def _package(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, "missing", f"pip install {name}")


def _code_generator() -> Check:
    name, hint = "AArch64 code generator", "install an apache-tvm wheel whose LLVM has AArch64"
    try:
        from tvm.target import codegen
    except ImportError as error:
        return Check(name, False, str(error), "pip install apache-tvm")
    known = {str(target) for target in codegen.llvm_get_targets()}
    return Check(name, "aarch64" in known, f"LLVM {codegen.llvm_version_major()}", hint)


def _linker() -> Check:
    command = [sys.executable, "-m", "ziglang", "version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Check("cross linker (zig)", done.returncode == 0, done.stdout.strip() or "missing", "pip install ziglang")


def _emulator() -> Check:
    path = shutil.which("qemu-aarch64")
    if path is None:
        return Check("emulator", False, "missing", APT, required=False)
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return Check("emulator", done.returncode == 0, done.stdout.split("\n")[0], APT, required=False)


def _sysroot() -> Check:
    wanted = [SYSROOT / "lib" / name for name in ("ld-linux-aarch64.so.1", "libstdc++.so.6")]
    missing = [str(path) for path in wanted if not path.exists()]
    return Check("AArch64 C and C++ libraries", not missing, ", ".join(missing) + " missing" if missing else str(SYSROOT), APT, required=False)
