"""The C sources beside this file, compiled for the machine that runs them, where zig is there to do it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from mpqc.workspace.log_file import LOG

SOURCES = ("lsq.c", "fused.c", "weights.c", "pool.c")
HEADERS = ("pool.h",)
VOID = (
    *("lsq_forward", "norm_forward", "norm_backward", "round_forward", "round_backward"),
    *("weights_forward", "weights_backward", "weights_watch"),
)
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")


class Grid(ctypes.Structure):
    """grid_t of fused.c."""

    _fields_ = [
        ("kind", ctypes.c_int32),
        ("relu", ctypes.c_int32),
        ("inverse1", ctypes.c_float),
        ("low1", ctypes.c_float),
        ("high1", ctypes.c_float),
        ("weight1", ctypes.c_float),
        ("inverse2", ctypes.c_float),
        ("low2", ctypes.c_float),
        ("high2", ctypes.c_float),
        ("weight2", ctypes.c_float),
        ("step1", ctypes.c_float),
        ("step2", ctypes.c_float),
        ("bottom", ctypes.c_float),
        ("top", ctypes.c_float),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where nothing can compile them."""
    if find_spec("ziglang") is None or not sys.platform.startswith("linux"):
        return None
    with tempfile.TemporaryDirectory(prefix="mpqc-lsq-") as folder:
        for name in (*SOURCES, *HEADERS):
            (Path(folder) / name).write_text(files("mpqc.training.quantizers").joinpath(name).read_text(encoding="utf-8"), encoding="utf-8")
        path = Path(folder) / "lsq.so"
        sources = [str(Path(folder) / name) for name in SOURCES]
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, *sources, "-o", str(path), "-lpthread", "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            LOG.debug("the C sources are not compiled, torch ops take their place: %s", done.stderr.strip().splitlines()[:1])
            return None
        return _typed(ctypes.CDLL(str(path)))


def compiled() -> ctypes.CDLL:
    """`library` where it is known to be there."""
    found = library()
    assert found is not None, "suits() says whether there is one"
    return found


def _typed(found: ctypes.CDLL) -> ctypes.CDLL:
    pointer, real, count, grid = ctypes.c_void_p, ctypes.c_float, ctypes.c_int64, ctypes.POINTER(Grid)
    found.lsq_forward.argtypes = [pointer, pointer, count, real, real, real, ctypes.c_int]
    found.lsq_backward.argtypes = [pointer, pointer, pointer, count, real, real, real, ctypes.c_int]
    found.norm_forward.argtypes = [pointer] * 2 + [count] * 2 + [pointer] * 2 + [real] * 2 + [pointer] * 3 + [grid, ctypes.c_int]
    found.norm_backward.argtypes = [pointer] * 3 + [count] * 2 + [pointer] * 6 + [grid, ctypes.c_int]
    found.round_forward.argtypes = [pointer] * 3 + [count, grid, ctypes.c_int]
    found.round_backward.argtypes = [pointer] * 4 + [count, pointer, grid, ctypes.c_int]
    found.weights_forward.argtypes = [pointer] * 2 + [count] * 2 + [pointer] + [real] * 2 + [ctypes.c_int]
    found.weights_backward.argtypes = [pointer] * 4 + [count] * 2 + [pointer] + [real] * 3 + [ctypes.c_int, real]
    found.weights_watch.argtypes = [pointer] * 7 + [count] * 2 + [pointer] + [real] * 2 + [ctypes.c_int] + [real] * 2
    for name in VOID:
        getattr(found, name).restype = None
    found.lsq_backward.restype = ctypes.c_double
    return found
