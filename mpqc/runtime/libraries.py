"""TVM's runtime libraries for AArch64, out of the wheels of the installed versions, and the runner built against them.

Both are kept in the user's cache folder. The runner is compiled from runner.cc by zig, so nothing but pip is needed.
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
from importlib.util import find_spec
from pathlib import Path

from mpqc.errors import ToolMissingError
from mpqc.lowering.toolchain import zig
from mpqc.workspace.caches import cache_home

TRIPLE = "aarch64-linux-gnu"
PLATFORM = "manylinux_2_28_aarch64"
MEMBERS = {"apache-tvm": "tvm/lib/libtvm_runtime.so", "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so"}
"""The two libraries that the runner needs, by wheel; threads and the loader of constants are in the first."""
KNOWN = {
    "apache_tvm-0.27.0-py3-none-manylinux_2_27_aarch64": "de4f71f4a89d883cc3cf9beb2e654cb0ab70d5da77f556e8ec35a193a2a6cdb6",
    "apache_tvm_ffi-0.1.15.post2-cp311-cp311-manylinux_2_24_aarch64": "13efa12e3b81add67e40a2b5453203421af55827bd9cecc1fac56efd6e614282",
}
"""SHA-256 of the wheels this version was tested with; for others pip's own check against the index has to do."""
SOURCES = Path(__file__).parent
FLAGS = (
    "-std=c++17", "-O2", "-s", "-Wl,--build-id=none", "-Wl,-rpath,$ORIGIN/../lib",
    # Nothing in the runner refers to libtvm_runtime by symbol: it registers itself when loaded.
    "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi",
    # The runner's copy of class tvm::ffi::Error, made for libc++, must not take the place of the libraries' own, made for libstdc++.
    "-fvisibility=hidden", "-DTVM_FFI_DLL=",
)  # fmt: skip
PLUGIN = (
    "-shared", "-fPIC", "-DMPQC_PLUGIN", '-DTVM_FFI_DLL_EXPORT=__attribute__((visibility("default")))',
    "-Wl,--version-script={sources}/plugin.map",
)  # fmt: skip
"""What makes a library of the runner"""


def cache_folder(having: str = "") -> Path:
    """Where libraries and runners are kept, one that has the file `having` if there is such; named after the TVM versions they belong to."""
    name = f"runtime-{TRIPLE}-{'-'.join(version(package) for package in MEMBERS)}"
    return cache_home("mpqc", f"{name}/{having}") / name


def libraries() -> tuple[Path, ...]:
    """The AArch64 libraries that a runner needs, fetched on first use.

    Raises ToolMissingError where pip reaches no index that has them, or where a wheel is not the one that was tested.
    """
    names = [Path(member).name for member in MEMBERS.values()]
    folder = cache_folder(f"lib/{names[-1]}") / "lib"
    paths = tuple(folder / name for name in names)
    if not all(path.is_file() for path in paths):
        _fetch(folder)
    return paths


def runner() -> Path:
    """The AArch64 runner, compiled on first use. Raises ToolMissingError or LoweringError."""
    return _built("mpqc-runner", FLAGS)


def plugin() -> Path:
    """The runner as an AArch64 library that TVM's RPC server loads, compiled on first use. Raises ToolMissingError or LoweringError."""
    return _built("libmpqc_run", (*FLAGS, *PLUGIN), ".so")


def _built(stem: str, flags: Sequence[str], suffix: str = "") -> Path:
    """The runner's sources compiled with `flags`; its name changes with anything that it is made of."""
    sources = [path.read_bytes() for path in sorted((*SOURCES.glob("*.h"), SOURCES / "plugin.map", SOURCES / "runner.cc"))]
    content = b"".join((*sources, " ".join((*flags, version("ziglang"))).encode()))
    name = f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"
    path = cache_folder(name) / name
    if not path.is_file():
        _compile(path, flags)
    return path


def licences() -> tuple[Path, ...]:
    """Licence and notice of TVM, which whoever passes its libraries on has to pass on as well."""
    spec = find_spec("tvm")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    return tuple(path for path in (folder / "LICENSE", folder / "NOTICE") if path.is_file())


def include_folders() -> tuple[Path, ...]:
    """Header folders of the installed tvm-ffi package."""
    import tvm_ffi.libinfo as libinfo

    return Path(libinfo.find_include_path()), Path(libinfo.find_dlpack_include_path())


def _compile(path: Path, flags: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    folders = [f"-L{libraries()[0].parent}", *(f"-I{folder}" for folder in include_folders())]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        zig("c++", TRIPLE, [*folders, SOURCES / "runner.cc", *(flag.format(sources=SOURCES) for flag in flags), "-o", partial])
        os.replace(partial, path)


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
