"""Prices AArch64 programs in cycles of a Cortex-A76 with a76time: programs of kernels, and whole bundles.

a76time counts executed blocks under qemu-aarch64 and prices them with llvm-mca and a cache model. It is found in
$MPQC_SHARED/tools/a76, else ../shared/tools/a76 beside the checkout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
METHOD = "a76time: qemu-aarch64 block counts priced by llvm-mca neoverse-n1 and a cache model; warm caches; one core"


def find_a76time() -> Path:
    """The pricing tool; exits with a sentence where it is absent."""
    root = Path(os.environ.get("MPQC_SHARED", HERE.parent.parent / "shared"))
    tool = root / "tools" / "a76" / "a76time"
    if not tool.is_file():
        sys.exit(f"{tool} is missing: set MPQC_SHARED to the folder that has tools/a76")
    return tool


def kernel_cycles(program: Path, index: int, tool: Path, name: str) -> float:
    """Modelled cycles of one warm run of kernel `index` of a program that mpqc.runtime.cost_program wrote."""
    return modelled_cycles(tool, [program / "driver", index, "{n}", program / "constants.bin"], (1, 2), name)


def bundle_cycles(bundle: Path, tool: Path, runs: tuple[int, int] = (1, 2)) -> float:
    """Modelled cycles of one run of a whole bundle, warm, runtime included."""
    command = [bundle / "bin" / "mpqc-runner", "--model", bundle / "model.so", "--repeat", "{n}", "--warmup", "1", "--threads", "1"]
    return modelled_cycles(tool, command, runs, str(bundle), f"LD_LIBRARY_PATH={bundle / 'lib'}")


def modelled_cycles(tool: Path, command: Sequence[object], runs: tuple[int, int], what: str, *environment: str) -> float:
    """Cycles of one repeat of an AArch64 program whose argument {n} says how many; `environment` holds NAME=VALUE."""
    options = ["--json", "-", "--runs", *map(str, runs), *(part for pair in environment for part in ("-E", pair))]
    done = subprocess.run([sys.executable, str(tool), *options, "--", *map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what}: {done.stderr.strip()}")
    return float(json.loads(done.stdout)["modelled_cycles"])
