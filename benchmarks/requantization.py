"""Cycles that requantization costs for each output, by its form: a 1x1 convolution of 16 channels less its SDOT.

    python benchmarks/requantization.py

Writes results/requantization.md and .json. Modelled Cortex-A76 cycles (a76time, one thread, warm caches); a 28x28 image of 16
channels to 64, which stays in L2. What is counted: everything but macs / 32, so the start values of accumulators and all stores too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from cost_pricing import pricer
from kernels_a76 import LLVM_TARGET, PEAK, Layer, convolution
from provenance import few, write_results

from mpqc.lowering.kernels.conv import conv2d
from mpqc.lowering.kernels.elementwise import binary
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.residual import residual
from mpqc.timing.program import write_program
from mpqc.values.program import Binary, Tensor
from mpqc.values.qtype import QParams, QType

LAYER = Layer(28, 16, 64, 1)
SHAPE = (1, 28, 28, 16)
ADD = Binary("add", ("y", "r"), ("z",), "add", 0.6, 0.8, -128, 127)


def main() -> None:
    """Prices every form and writes the table."""
    tool, cases = pricer(), few(kernels())
    with tempfile.TemporaryDirectory() as folder:
        program = write_program([kernel for _, kernel in cases], LLVM_TARGET, Path(folder))
        rows = [_row(name, kernel, tool.kernel(program, index)) for index, (name, kernel) in enumerate(cases)]
    write_results("requantization", "Requantization on a Cortex-A76 (modelled), cycles an output", rows)


def kernels() -> Iterator[tuple[str, Kernel]]:
    """One convolution a form, the last with a residual addition, and that addition alone."""
    op, target = convolution(LAYER), KernelTarget()
    wide = replace(op, bias=np.where(np.arange(64) == 0, 2**23, 0).astype(np.int32), multiplier=np.minimum(op.multiplier, 2**-10))
    yield "after ReLU (one fused multiply-add)", conv2d(op, SHAPE, (-128, -128), target)
    yield "any zero point", conv2d(op, SHAPE, (-128, 4), target)
    yield "any zero point, odd", conv2d(op, SHAPE, (-128, 5), target)
    yield "sums of 2^22 and more", conv2d(wide, SHAPE, (-128, 4), target)
    yield "products beyond int16", conv2d(replace(op, multiplier=op.multiplier * 1000), SHAPE, (-128, 4), target)
    yield "any zero point, and a residual Add", conv2d(op, SHAPE, (-128, 4), target, added=residual(op, ADD, (4, -128, -128)))
    tensors = [Tensor("t", (1, 64, 28, 28), "int8", QParams(QType(8), np.float32(0.02), np.int32(zero))) for zero in (4, -128, -128)]
    yield "Add alone", binary(ADD, tensors[0], tensors[1], tensors[2], target)


def _row(name: str, kernel: Kernel, cycles: float) -> dict[str, object]:
    outputs = prod(kernel.output_shape)
    return {"form": name, "cycles an output": round((cycles - kernel.macs / PEAK) / outputs, 2), "kernel": kernel.name}


if __name__ == "__main__":
    main()
