"""A folder for what is kept between runs, also where the user's cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mpqc.errors import MpqcError
from mpqc.lowering import toolchain
from mpqc.workspace.caches import cache_home


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files; the user's cache folder is one that nobody can write."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"mpqc-cache-{os.getuid()}"


def test_the_users_cache_folder_is_taken_where_it_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_home("mpqc") == tmp_path / "cache" / "mpqc"
    assert os.listdir(tmp_path / "cache" / "mpqc") == []


def test_without_home_the_users_entry_in_the_password_file_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_home("mpqc").is_dir()


def test_elsewhere_it_is_a_private_folder_and_the_same_one_again(temporary: Path) -> None:
    assert cache_home("zig") == cache_home("zig") == temporary / "zig"
    assert temporary.stat().st_mode & 0o777 == 0o700


def test_what_a_read_only_folder_has_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mpqc").mkdir()
    (tmp_path / "mpqc" / "lib").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("mpqc.workspace.caches._writable", lambda _: False)
    assert cache_home("mpqc", "lib") == tmp_path / "mpqc"
    with pytest.raises(MpqcError, match="XDG_CACHE_HOME"):
        cache_home("mpqc", "runner")


@pytest.mark.parametrize("kind", ["open to others", "a link", "a file"])
def test_a_folder_that_another_could_have_laid_out_is_refused(temporary: Path, tmp_path: Path, kind: str) -> None:
    if kind == "open to others":
        temporary.mkdir()
        temporary.chmod(0o777)
    elif kind == "a link":
        (tmp_path / "elsewhere").mkdir()
        temporary.symlink_to(tmp_path / "elsewhere")
    else:
        temporary.touch()
    with pytest.raises(MpqcError, match="mpqc-cache-"):
        cache_home("zig")


def test_zig_is_told_of_it_unless_the_user_has_chosen(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert toolchain._environment()[toolchain.CACHE] == str(temporary / "zig")
    monkeypatch.setenv(toolchain.CACHE, "/somewhere")
    assert toolchain._environment()[toolchain.CACHE] == "/somewhere"


def test_onnx_runtime_is_asked_to_tell_nobody() -> None:
    import mpqc

    assert mpqc.__name__
    assert os.environ["ORT_DISABLE_TELEMETRY"]
