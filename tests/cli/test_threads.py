"""Threads that wait do not spin for long in a process of mpqc's own; what the user set stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mpqc.cli.threads import BOUND, SPINS

FREE = {name: value for name, value in os.environ.items() if name not in (SPINS, "OMP_WAIT_POLICY")}
"""An environment in which the user set neither"""
SHOW = "import atexit, os; atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT'))); from mpqc.cli.app import run; run(['--version'])"
LOADED = """
import sys
import mpqc.cli.threads as threads
bound = threads.bound_spinning
threads.bound_spinning = lambda: (bound(), print("torch" in sys.modules))
from mpqc.cli.app import run
run(["--version"])
"""


@pytest.mark.parametrize(
    ("given", "left"),
    [({}, str(BOUND)), ({SPINS: "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_the_command_line_bounds_it_before_torch(given: dict[str, str], left: str) -> None:
    done = subprocess.run([sys.executable, "-c", SHOW], env=FREE | given, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == left


def test_no_torch_is_loaded_before() -> None:
    """OpenMP reads its environment when it is loaded, so that a bound set later would do nothing."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "False"


def test_openmp_takes_the_bound() -> None:
    """GNU OpenMP shows what it read; the wheel of PyTorch brings it along on Linux."""
    code = "from mpqc.cli.threads import bound_spinning; bound_spinning(); import torch; torch.ones(1 << 20).sum()"
    done = subprocess.run([sys.executable, "-c", code], env=FREE | {"OMP_DISPLAY_ENV": "verbose"}, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{BOUND}'" in done.stderr
