"""Cortex-A72 and Cortex-A53, which have no SDOT: the inner loops of the SMULL kernels beside those of the portable ones.

    python benchmarks/no_dotprod.py

Writes results/no_dotprod.md and .json. The loop is the block of a kernel's code with the most multiplications; its instructions are
counted in the assembly, its cycles are modelled by llvm-mca with LLVM's model of the core, 100 repeats back to back, everything in L1.
A rough figure: what is outside the loop is not in it, nor are caches, and the model of the A53 has no accumulator forwarding.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from shutil import which

import numpy as np
import tvm
from provenance import absent, few, write_results

from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.timing.grid import _conv, _gemm

MCA = "llvm-mca-19"
REPEATS = 100
CORES = ("cortex-a72", "cortex-a53")
FORMS = {"generic": frozenset(), "neon": frozenset({"neon"})}
"""Name of each form and the features of a core that gets it"""
LAYERS = {
    "conv 3x3 64>64 @56": partial(_conv, (56, 56), (64, 64), 3, 1, 1),
    "conv 1x1 128>256 @28": partial(_conv, (28, 28), (128, 256), 1, 1, 1),
    "conv 3x3 3>32 @224 stride 2": partial(_conv, (224, 224), (3, 32), 3, 2, 1),
    "depthwise 3x3 144 @56": partial(_conv, (56, 56), (144, 144), 3, 1, 144),
    "depthwise 3x3 144 @56 stride 2": partial(_conv, (56, 56), (144, 144), 3, 2, 144),
    "depthwise 5x5 120 @28": partial(_conv, (28, 28), (120, 120), 5, 1, 120),
    "fully connected 1024>4096": partial(_gemm, 1, 1024, 4096),
}
USEFUL: dict[tuple[str, str], float] = {("conv 3x3 3>32 @224 stride 2", "generic"): 9 / 12, ("conv 3x3 3>32 @224 stride 2", "neon"): 9 / 16}
"""Share of the products that are not with padding, where it is not all of them: rows of nine weights, stored as 12 or 16"""


@dataclass(frozen=True)
class Loop:
    """The block of a kernel's code with the most multiplications, and its modelled cycles."""

    lines: tuple[str, ...]
    cycles: float
    useful: float

    @property
    def macs(self) -> float:
        """Useful products a repeat: lanes of every vector multiplication."""
        return self.useful * sum(_products(line) for line in self.lines)

    @property
    def spills(self) -> int:
        """Accesses of the stack."""
        return sum("[sp" in line for line in self.lines)


def loop_of(kernel: Kernel, core: str, useful: float) -> Loop:
    """Compiles `kernel` for `core` and prices its innermost loop. useful: share of its products that count."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": core})
    lines = max(_blocks(tvm.compile(kernel.func, target=target).mod.inspect_source("asm")), key=lambda block: sum(map(_products, block)))
    return Loop(tuple(lines), _cycles(lines, core), useful)


def _blocks(asm: str) -> Iterator[list[str]]:
    block: list[str] = []
    for line in asm.splitlines():
        label, code = line.startswith(".L") and not line.startswith(".Ltmp"), line.strip().split("//")[0]
        if line.startswith("\t") and not code.startswith("."):
            block.append(code)
        if label or line.startswith("\tb."):
            yield block
            block = []


def _products(line: str) -> int:
    """Lanes of a vector multiplication of integers; multiplications of floats are requantization."""
    name, _, operands = line.partition("\t")
    if not name.startswith(("smull", "smlal", "mla", "mul")) or "." not in operands:
        return 0
    return int(operands.split(",")[0].split(".")[1][:-1])


def _cycles(lines: list[str], core: str) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".s") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        command = [MCA, "-march=aarch64", f"-mcpu={core}", f"-iterations={REPEATS}", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    total = next(line for line in done.stdout.splitlines() if line.startswith("Total Cycles"))
    return int(total.split()[-1]) / REPEATS


def row(layer: str, bits: int, core: str) -> dict[str, object]:
    """One line of the table."""
    kernels = {form: LAYERS[layer](bits, KernelTarget(features)).kernel for form, features in FORMS.items()}
    before, after = (loop_of(kernel, core, USEFUL.get((layer, form), 1.0)) for form, kernel in kernels.items())
    return {
        "core": core,
        "layer": layer,
        "bits": bits,
        "instructions a MAC before": round(len(before.lines) / before.macs, 3),
        "instructions a MAC": round(len(after.lines) / after.macs, 3),
        "MAC/cycle before": round(before.macs / before.cycles, 2),
        "MAC/cycle": round(after.macs / after.cycles, 2),
        "times": round(after.macs / after.cycles / (before.macs / before.cycles), 2),
        "spills": after.spills,
    }


def main() -> None:
    """Writes the table."""
    if which(MCA) is None:
        absent(f"{MCA} is missing: apt-get install llvm-19")
    rows = [row(layer, bits, core) for core in few(CORES) for layer in few(LAYERS) for bits in few((8, 4))]
    for core in CORES:
        gain = np.exp(np.mean([np.log(float(str(r["times"]))) for r in rows if r["core"] == core]))
        print(f"{core}: {gain:.2f} times")
    notes = [
        "Before: portable loops. Inner loops only; depthwise loops include requantization. The peak of a Cortex-A72 is 8 MAC a cycle.",
        "Products with the zeros that pad rows of 3 input channels are not counted.",
        "Weights are seeded and fill their range as trained ones do; no two of -128 share an int16 sum unless the weights allow it.",
    ]
    write_results("no_dotprod", "Kernels on cores without SDOT (modelled by llvm-mca)", rows, notes)


if __name__ == "__main__":
    main()
