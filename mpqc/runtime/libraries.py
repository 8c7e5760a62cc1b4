"""The runner, compiled from runner.cc with libmpqc by zig; and TVM's runtime libraries for AArch64, out of the wheels of the installed versions.

The libraries are for TVM's own RPC server on a board: a bundle does without. All is kept in the user's cache folder: nothing but pip is needed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from mpqc.errors import ToolMissingError
from mpqc.lowering.toolchain import zig
from mpqc.runtime.board_library import board_library, kept
from mpqc.workspace.caches import cache_home

TRIPLE = "aarch64-linux-gnu"
PLATFORM = "manylinux_2_28_aarch64"
MEMBERS = {"apache-tvm": "tvm/lib/libtvm_runtime.so", "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so"}
"""TVM's runtime on a board, by wheel."""
KNOWN = {
    "apache_tvm-0.27.0-py3-none-manylinux_2_27_aarch64": "de4f71f4a89d883cc3cf9beb2e654cb0ab70d5da77f556e8ec35a193a2a6cdb6",
    "apache_tvm_ffi-0.1.15.post2-cp311-cp311-manylinux_2_24_aarch64": "13efa12e3b81add67e40a2b5453203421af55827bd9cecc1fac56efd6e614282",
}
"""SHA-256 of the wheels this version was tested with; for others pip's own check against the index has to do."""
SOURCES = Path(__file__).parent
FLAGS = ("-std=c++17", "-O2", "-s", "-Wl,--build-id=none", "-Wl,--gc-sections", "-fvisibility=hidden", "-ldl", "-lpthread")
PLUGIN = (
    *FLAGS, "-shared", "-fPIC", "-DMPQC_PLUGIN", "-DTVM_FFI_DLL=", '-DTVM_FFI_DLL_EXPORT=__attribute__((visibility("default")))',
    "-Wl,--version-script={sources}/plugin.map", "-Wl,-rpath,$ORIGIN/../lib", "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi",
)  # fmt: skip
"""What makes a library of the runner. Its copy of class tvm::ffi::Error, made for libc++, must not take the place of TVM's own (libstdc++)."""


def cache_folder(having: str = "") -> Path:
    """Where TVM's libraries are kept, one that has the file `having` if there is such; named after the TVM versions they belong to."""
    name = f"runtime-{TRIPLE}-{'-'.join(version(package) for package in MEMBERS)}"
    return cache_home("mpqc", f"{name}/{having}") / name


def libraries() -> tuple[Path, ...]:
    """TVM's AArch64 libraries, fetched on first use.

    Raises ToolMissingError where pip reaches no index that has them, or where a wheel is not the one that was tested.
    """
    names = [Path(member).name for member in MEMBERS.values()]
    folder = cache_folder(f"lib/{names[-1]}") / "lib"
    paths = tuple(folder / name for name in names)
    if not all(path.is_file() for path in paths):
        _fetch(folder)
    return paths


def runner(triple: str = TRIPLE) -> Path:
    """The runner for `triple`, compiled on first use. Raises ToolMissingError or LoweringError."""
    dynamic = ("-dynamic",) if triple.endswith("musl") else ()
    return _built("mpqc-runner", triple, (*FLAGS, *dynamic))


def plugin() -> Path:
    """The runner as an AArch64 library that TVM's RPC server loads, compiled on first use. Raises ToolMissingError or LoweringError."""
    more = (f"-L{libraries()[0].parent}", *(f"-I{folder}" for folder in include_folders()))
    return _built("libmpqc_run.so", TRIPLE, (*(flag.format(sources=SOURCES) for flag in PLUGIN), *more))


def _built(name: str, triple: str, flags: Sequence[str]) -> Path:
    """The runner's sources compiled with `flags` and libmpqc."""
    library = board_library(triple).static
    sources = [library, *sorted((*SOURCES.glob("*.h"), SOURCES / "native" / "mpqc.h", SOURCES / "plugin.map", SOURCES / "runner.cc"))]

    def compile_runner(folder: Path) -> None:
        zig("c++", triple, [SOURCES / "runner.cc", library, *flags, "-o", folder / name])

    return kept(f"{Path(name).stem}-{triple}", sources, (name, triple, *flags), compile_runner) / name


def include_folders() -> tuple[Path, ...]:
    """Header folders of the installed tvm-ffi package."""
    import tvm_ffi.libinfo as libinfo

    return Path(libinfo.find_include_path()), Path(libinfo.find_dlpack_include_path())


def _fetch(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as wheels:
            for package, member in MEMBERS.items():
                _extract(_wheel(package, Path(wheels)), member, folder)
    except OSError as error:
        raise ToolMissingError("cannot keep TVM's AArch64 libraries", where=str(folder), why=error.strerror or str(error)) from error


def _wheel(package: str, folder: Path) -> Path:
    """The wheel of the installed version of `package` for AArch64: from `wheels/` in the cache folder, else by pip."""
    pattern = f"{package.replace('-', '_')}-{version(package)}-*{PLATFORM}.whl"
    given = cache_folder("wheels") / "wheels"
    found = next(given.glob(pattern), None) or _download(package, folder, pattern, given)
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    if KNOWN.get(found.name.split(".manylinux")[0], digest) != digest:
        raise ToolMissingError("the wheel is not the one that was tested", where=found.name, why=f"SHA-256 {digest}")
    return found


def _download(package: str, folder: Path, pattern: str, given: Path) -> Path:
    wanted = f"{package}=={version(package)}"
    options = ["--platform", PLATFORM, "--only-binary=:all:", "--no-deps", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], capture_output=True, text=True, check=False)
    found = next(folder.glob(pattern), None)
    if done.returncode or found is None:
        why = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "pip wrote no wheel")
        raise ToolMissingError(f"cannot get {wanted} for AArch64", why=why, hint=f"connect to a package index, or put {pattern} into {given}")
    return found


def _extract(wheel: Path, member: str, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ToolMissingError(f"has no {member}", where=wheel.name, why=str(error)) from error
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(data)
    os.chmod(file.name, 0o755)
    os.replace(file.name, folder / Path(member).name)
