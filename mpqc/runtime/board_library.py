"""libmpqc for a board, compiled by zig on first use and kept in the user's cache folder: what an application links, and the bundle's runner too."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from mpqc.lowering.toolchain import compile_c, link_shared, zig_tool
from mpqc.workspace.caches import cache_home

NATIVE = Path(__file__).parent / "native"
PARTS = ("libmpqc.c", "image.c", "model.c", "plan.c", "pool.c", "mpqc.h", "internal.h")
HEADERS = ("mpqc.h", "mpqc.hpp")
COMPILED = ("-std=c11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-fdata-sections")
LINKED = ("-s", "-Wl,--gc-sections", "-Wl,-soname,libmpqc.so")


@dataclass(frozen=True)
class BoardLibrary:
    """The same library in both forms."""

    shared: Path
    static: Path


def board_library(triple: str) -> BoardLibrary:
    """libmpqc.so and libmpqc.a for `triple`. Raises ToolMissingError or LoweringError."""
    folder = kept(f"libmpqc-{triple}", [NATIVE / part for part in PARTS], (triple, *COMPILED, *LINKED), _Maker(triple).make)
    return BoardLibrary(folder / "libmpqc.so", folder / "libmpqc.a")


def kept(name: str, sources: Sequence[Path], how: Sequence[str], make: Callable[[Path], None]) -> Path:
    """A folder that `make` filled from `sources` in the way `how`, made where the cache folder has none from just these."""
    content = b"".join(source.read_bytes() for source in sources) + repr((*how, version("ziglang"))).encode()
    folder = f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    path = cache_home("mpqc", folder) / folder
    if not path.is_dir():
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            partial = Path(scratch) / "made"
            partial.mkdir()
            make(partial)
            with suppress(OSError):  # another process was faster
                os.rename(partial, path)
    return path


@dataclass(frozen=True)
class _Maker:
    triple: str

    def make(self, folder: Path) -> None:
        """Both libraries of one object."""
        made = folder / "libmpqc.o"
        compile_c(self.triple, NATIVE / PARTS[0], made, COMPILED)
        zig_tool("ar", ["rcsD", folder / "libmpqc.a", made])
        link_shared(self.triple, [made], folder / "libmpqc.so", LINKED)
        made.unlink()
