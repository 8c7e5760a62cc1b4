"""3x3 convolutions with stride 1 in every form on a Cortex-A76, layer by form by bits.

    python benchmarks/winograd_a76.py
    python benchmarks/winograd_a76.py --smoke    one small layer, writes nothing

Writes results/winograd_a76.md and .json. Cycles are modelled (a76time, one thread, warm caches), whole kernels: padding, transforms, requantization
and stores included. Weights are normal and fill their range, within the codes that the form allows. The model takes a 16-byte store a cycle; a
measured loop of nothing but stores got a third of that, so the last columns count each block of instructions at no less than 3 cycles a store.
Instructions an SDOT and spills are those of the loop with the most SDOT.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cost_pricing import pricer
from disassembly import DISASSEMBLERS, statistics
from kernels_a76 import LLVM_TARGET
from provenance import SMOKE, absent, few, write_results

from mpqc.lowering.kernels.conv import conv2d
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.winograd import refusal, winograd
from mpqc.numerics.winograd import SHORT, FormName
from mpqc.timing.pricer import Pricer
from mpqc.timing.program import write_program
from mpqc.values.program import Conv

LAYERS = ((56, 64, 64), (28, 128, 128), (14, 256, 256), (7, 512, 512), (112, 64, 64), (28, 256, 256), (16, 32, 32), (32, 16, 16))
"""Size, input channels, output channels: ResNet-18's, two of a UNet, two of ResNet-20"""
STORE_CYCLES = 3.0
LARGEST = {"tile": 14, "row": 42}


@dataclass(frozen=True)
class Setting:
    """A form at some bits."""

    form: FormName | None
    weight_bits: int
    input_bits: int

    @property
    def container(self) -> int:
        """Stored bits of a weight."""
        return next(width for width in (2, 4, 8) if width >= self.weight_bits)


SETTINGS = (Setting(None, 8, 8), Setting("row", 6, 7), Setting("row", 4, 7), Setting("tile", 5, 6), Setting("tile", 4, 6), Setting("tile", 2, 6))


def main() -> None:
    """Prices everything and writes the table."""
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    tool = next(filter(None, map(shutil.which, DISASSEMBLERS)), None)
    if tool is None:
        absent(f"no disassembler for AArch64: install one of {', '.join(DISASSEMBLERS)}")
    rows = [row for layer in (LAYERS[-2:-1] if SMOKE else LAYERS) for row in price(layer, tool)]
    notes = ["Gain: against the direct form at w8a8. Direct MAC: those of the layer, whatever the form multiplies."]
    write_results("winograd_a76", "3x3 convolutions with stride 1 on a Cortex-A76, by form and bits (modelled, one thread)", rows, notes)


def price(layer: tuple[int, int, int], disassembler: str) -> list[dict[str, object]]:
    """One row a setting."""
    size, inputs, outputs = layer
    settings = few(SETTINGS, 2)
    kernels = [make(layer, setting) for setting in settings]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        program = write_program(kernels, LLVM_TARGET, Path(folder))
        for index, (setting, kernel) in enumerate(zip(settings, kernels, strict=True)):
            cycles, slow = spent(pricer(), program, index)
            found = statistics(kernel.name, kernel, disassembler)
            first = rows[0] if rows else {"cycles": cycles, "at 3 cycles a store": slow}
            rows.append(
                {
                    "layer": f"{inputs}>{outputs} @{size}",
                    "form": setting.form or "direct",
                    "bits": f"w{setting.weight_bits}a{setting.input_bits}",
                    "cycles": round(cycles),
                    "direct MAC/cycle": round(kernel.macs / cycles, 1),
                    "gain": f"{float(str(first['cycles'])) / cycles:.2f}x",
                    "instructions an SDOT": found["instructions an SDOT"],
                    "spills": found["spills"],
                    "at 3 cycles a store": round(slow),
                    "gain so": f"{float(str(first['at 3 cycles a store'])) / slow:.2f}x",
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def make(layer: tuple[int, int, int], setting: Setting) -> Kernel:
    """The kernel of a layer, its outputs of the same bits as its inputs, after ReLU."""
    size, inputs, outputs = layer
    edge, low = 1 << (setting.weight_bits - 1), -(1 << (setting.input_bits - 1))
    weight = np.clip(np.rint(np.random.default_rng(0).normal(0, edge / 3, (outputs, inputs, 3, 3))), 1 - edge, edge - 1)
    weight = np.clip(weight, *(bound * LARGEST.get(setting.form or "", 127) for bound in (-1, 1))).astype(np.int8)
    multiplier = (1 / np.sqrt((weight.astype(np.float64) ** 2).sum(axis=(1, 2, 3)) + 1)).astype(np.float32)
    bias = (-low * weight.sum(axis=(1, 2, 3), dtype=np.int64)).astype(np.int32)
    bounds = {"low": low, "high": -low - 1}
    op = Conv("op", ("x",), ("y",), weight, setting.container, bias, multiplier, (1, 1), (1,) * 4, (1, 1), 1, **bounds)
    shape = (1, size, size, inputs)
    if setting.form is None:
        return conv2d(op, shape, (low, low), KernelTarget())
    assert not refusal(op, (low, -low - 1), setting.form), SHORT[setting.form].transformed(weight)
    return winograd(op, shape, (low, -low - 1), (low, low), KernelTarget(), setting.form)


def spent(tool: Pricer, program: Path, index: int) -> tuple[float, float]:
    """Cycles of a run as the tool models it, and with blocks bounded by their stores."""
    command = [program / "driver", index, "{n}", program / "constants.bin"]
    found = tool.priced(command, (1, 2), options=["--asm", "--top", "1000000"])
    extra = sum(block["runs"] * max(0.0, STORE_CYCLES * stores(block["asm"]) - block["core_cycles_per_run"]) for block in found["blocks"])
    return float(found["modelled_cycles"]), float(found["modelled_cycles"]) + extra


def stores(code: list[str]) -> int:
    """Vector registers that a block stores."""
    return sum(_registers(*line.split("\t", 1)) for line in code if line.startswith("st"))


def _registers(name: str, operands: str) -> int:
    if name == "stp":
        return 2 if operands[0] in "qd" else 0
    if name.startswith("st1"):
        return len(re.findall(r"v\d+", operands.split("}")[0]))
    return int(operands[0] in "qd")


if __name__ == "__main__":
    main()
