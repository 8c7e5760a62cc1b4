"""What happens where TVM's AArch64 libraries cannot be had, or are not what they should be."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from mpqc.errors import LoweringError, ToolMissingError
from mpqc.lowering import toolchain
from mpqc.lowering.toolchain import zig, zig_triple
from mpqc.runtime import libraries
from mpqc.runtime.libraries import MEMBERS, cache_folder


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and a pip that reaches no index."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert tmp_path in cache_folder().parents
    return cache_folder()


def wheel(folder: Path, package: str, content: bytes) -> Path:
    """A wheel of the installed version of `package` with `content` as its library."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{package.replace('-', '_')}-{libraries.version(package)}-py3-none-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBERS[package], content)
    return path


def test_without_an_index_the_error_says_where_wheels_may_be_put(empty_cache: Path) -> None:
    with pytest.raises(ToolMissingError, match=r"apache-tvm==.*put apache_tvm-.*whl into .*wheels"):
        libraries.libraries()


def test_wheels_put_into_the_cache_are_taken(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "KNOWN", {})
    for package in MEMBERS:
        wheel(empty_cache / "wheels", package, package.encode())
    assert [path.read_bytes() for path in libraries.libraries()] == [b"apache-tvm", b"apache-tvm-ffi"]


def test_a_wheel_with_other_content_is_refused(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = wheel(empty_cache / "wheels", "apache-tvm", b"something else")
    monkeypatch.setattr(libraries, "KNOWN", {path.name.split(".manylinux")[0]: "0" * 64})
    with pytest.raises(ToolMissingError, match=hashlib.sha256(path.read_bytes()).hexdigest()):
        libraries.libraries()


def test_a_wheel_that_is_no_wheel_is_refused(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "KNOWN", {})
    wheel(empty_cache / "wheels", "apache-tvm", b"").write_bytes(b"not a zip file")
    with pytest.raises(ToolMissingError, match="has no tvm/lib"):
        libraries.libraries()


def test_the_compilers_first_error_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int f(void) { return missing; }")
    with pytest.raises(LoweringError, match="missing"):
        zig("cc", "aarch64-linux-gnu", ["-c", tmp_path / "bad.c", "-o", tmp_path / "bad.o"])


def test_a_missing_linker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find_spec", lambda _name: None)
    with pytest.raises(ToolMissingError, match="pip install ziglang"):
        zig("cc", "aarch64-linux-gnu", [])


def test_files_run_with_old_c_libraries() -> None:
    assert zig_triple("aarch64-linux-gnu") == "aarch64-linux-gnu.2.28"
    assert zig_triple("x86_64-linux-gnu") == "x86_64-linux-gnu.2.28"
