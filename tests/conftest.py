"""Shared fixtures: golden files, the optional `shared` folder, and what happens where the emulator is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli_runs import Mpqc, Place

REPO = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MPQC_SHARED", REPO.parent / "shared"))


def pytest_configure() -> None:
    """The product looks for the pricing tool where it is told to; here that is the shared folder, where there is one."""
    beside = SHARED / "tools" / "a76" / "a76time"
    if beside.is_file() and not os.environ.get("MPQC_PRICER"):
        os.environ["MPQC_PRICER"] = str(beside)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the emulator its tests are skipped by name, except in CI, where they run and fail."""
    libraries = Path("/usr/aarch64-linux-gnu/lib/libstdc++.so.6")
    if (shutil.which("qemu-aarch64") and libraries.exists()) or os.environ.get("CI"):
        return
    skip = pytest.mark.skip(reason="qemu-aarch64 or its C library is missing: apt-get install qemu-user libc6-arm64-cross libstdc++6-arm64-cross")
    for item in items:
        if item.get_closest_marker("emulator"):
            item.add_marker(skip)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` compares text with tests/golden/NAME; a missing golden is a failure unless --update-golden."""

    def compare(name: str, text: str) -> None:
        path = REPO / "tests" / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path} is missing: run pytest --update-golden and read the result"
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """`shared("onnx/x.onnx")`: a file of the optional shared folder ($MPQC_SHARED, else ../shared); skips by name when absent."""

    def locate(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"shared/{name} is absent")
        return path

    return locate


@pytest.fixture
def mpqc(capfd: pytest.CaptureFixture[str]) -> Mpqc:
    """`mpqc("compile", path, ...)`: the command line in this process; also what libraries write to the streams is seen."""
    from tests.cli_runs import call

    return lambda *arguments: call(capfd, arguments)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A small network compiled once; tests must not change its files."""
    from tests.cli_runs import make_place

    return make_place(tmp_path_factory.mktemp("place"))
