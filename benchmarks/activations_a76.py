"""Convolutions whose activations are stored two codes a byte, against one a byte, on a Cortex-A76.

    python benchmarks/activations_a76.py

Writes results/activations_a76.md. Cycles are modelled (a76time, one thread, warm caches). w8a4 and w4a4 read and write 4-bit activations;
their share is of the time of w8a8 at the same shape.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from cost_pricing import pricer
from kernels_a76 import LLVM_TARGET, Layer, describe
from provenance import few, write_results

from mpqc.lowering.kernels.conv import conv2d
from mpqc.lowering.kernels.depthwise import depthwise
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.nibbles import PLAIN, Packing, packed
from mpqc.timing.program import write_program
from mpqc.values.program import Conv, Tensor
from mpqc.values.qtype import QParams, QType

CONVOLUTIONS = (
    Layer(56, 64, 64, 3), Layer(14, 256, 256, 3), Layer(56, 128, 128, 1), Layer(14, 512, 512, 1), Layer(7, 1024, 1024, 1), Layer(112, 32, 64, 1),
    Layer(32, 16, 16, 3), Layer(32, 16, 32, 3, 2), Layer(16, 32, 32, 3), Layer(8, 64, 64, 3),
)  # fmt: skip
DEPTHWISE = (Layer(112, 32, 32, 3), Layer(112, 64, 64, 3, 2), Layer(56, 128, 128, 3), Layer(14, 512, 512, 3))
WIDTHS = ((8, 8), (8, 4), (4, 4))
"""Bits of weights and activations"""


def main() -> None:
    """Prices every layer at every width and writes the table."""
    cases = [(layer, groups, widths) for layers, groups in ((CONVOLUTIONS, 1), (DEPTHWISE, 0)) for layer in layers for widths in WIDTHS]
    cases = few(cases, 2)
    kernels = [make(layer, groups or layer.inputs, *widths) for layer, groups, widths in cases]
    rows, base, tool = [], 1.0, pricer()
    with tempfile.TemporaryDirectory() as folder:
        program = write_program(kernels, LLVM_TARGET, Path(folder))
        for index, ((layer, groups, widths), kernel) in enumerate(zip(cases, kernels, strict=True)):
            cycles = tool.kernel(program, index)
            base = cycles if widths == (8, 8) else base
            name = describe(layer) + " depthwise" * (groups == 0)
            print(f"{name} {widths}: {cycles / base:.2f}", file=sys.stderr)
            found = {"cycles": int(cycles), "MAC/cycle": round(kernel.macs / cycles, 1), "of w8a8": f"{cycles / base:.0%}"}
            rows.append({"layer": name, "qtype": "w{}a{}".format(*widths)} | found)
    write_results("activations_a76", "Activations stored two codes a byte on a Cortex-A76 (modelled, one thread)", rows, [])


def make(layer: Layer, groups: int, weight_bits: int, activation_bits: int) -> Kernel:
    """The layer with seeded weights; 4-bit activations are packed on both sides."""
    depth, edge, pad = layer.inputs // groups, 1 << (weight_bits - 1), layer.kernel // 2
    weight = np.clip(np.rint(np.random.default_rng(0).normal(0, edge / 3, (layer.outputs, depth, layer.kernel, layer.kernel))), 1 - edge, edge - 1)
    low, high = QType(activation_bits).qmin, QType(activation_bits).qmax
    multiplier = (1 / np.sqrt((weight**2).sum(axis=(1, 2, 3)) + 1)).astype(np.float32)
    op = Conv(
        "op", ("x",), ("y",), weight=weight.astype(np.int8), weight_bits=weight_bits, bias=np.zeros(layer.outputs, np.int32), multiplier=multiplier,
        strides=(layer.stride,) * 2, pads=(pad,) * 4, dilations=(1, 1), groups=groups, low=low, high=high,
    )  # fmt: skip
    packing = PLAIN if activation_bits == 8 else Packing((True,), True)
    if groups == 1:
        return conv2d(op, (1, layer.size, layer.size, layer.inputs), (low, low), KernelTarget(), packing=packing)
    qparams, size = QParams(QType(activation_bits), np.float32(0.1), np.int32(low)), -(-layer.size // layer.stride)
    x, y = (Tensor(name, (1, layer.inputs, extent, extent), "int8", qparams) for name, extent in (("x", layer.size), ("y", size)))
    return packed(depthwise(op, x, y, KernelTarget()), packing)


if __name__ == "__main__":
    main()
