"""Depthwise convolution kernels on a Cortex-A76: cycles, MAC a cycle and share of the SDOT peak, before and after.

    python benchmarks/depthwise_a76.py [NAME...]      # networks by name; all of them without

Writes results/depthwise_a76.md. Cycles are modelled (a76time, one thread, warm caches) and include requantization, edges and cache misses;
weights are seeded, normal, 8 bits. `before` is commit 868d1e2, priced in the same way.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cost_pricing import pricer
from kernels_a76 import CLOCK, LLVM_TARGET, PEAK
from provenance import few, write_results

from mpqc.lowering.kernels.depthwise import depthwise
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.timing.program import write_program
from mpqc.values.program import Conv, Tensor
from mpqc.values.qtype import QParams, QType


@dataclass(frozen=True)
class Layer:
    """`count` equal layers of a network."""

    size: tuple[int, int]
    channels: int
    before: int
    """Modelled cycles at commit 868d1e2"""
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    count: int = 1
    dilation: int = 1

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """As large as keeps the size at stride 1."""
        top, left = ((k - 1) * self.dilation // 2 for k in self.kernel)
        return top, left, top, left

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        reach = [(k - 1) * self.dilation + 1 for k in self.kernel]
        return tuple((n + 2 * p - r) // self.stride + 1 for n, p, r in zip(self.size, self.pads, reach, strict=False))

    @property
    def text(self) -> str:
        """`3x3 32 @112x112`."""
        extras = f" stride {self.stride}" * (self.stride > 1) + f" dilation {self.dilation}" * (self.dilation > 1)
        return f"{self.kernel[0]}x{self.kernel[1]} {self.channels} @{self.size[0]}x{self.size[1]}{extras}"


def square(size: int, channels: int, before: int, kernel: int = 3, stride: int = 1, count: int = 1, dilation: int = 1) -> Layer:
    """A layer with equal sides."""
    return Layer((size, size), channels, before, (kernel, kernel), stride, count, dilation)


MOBILENET_V1 = (
    square(112, 32, 522971),
    square(112, 64, 459422, 3, 2),
    square(56, 128, 527398),
    square(56, 128, 226261, 3, 2),
    square(28, 256, 245028),
    square(28, 256, 105873, 3, 2),
    square(14, 512, 124683, 3, 1, 5),
    square(14, 512, 65785, 3, 2),
    square(7, 1024, 83339),
)
MOBILENET_V2 = (
    square(112, 32, 522880),
    square(112, 96, 693317, 3, 2),
    square(56, 144, 593171),
    square(56, 144, 259556, 3, 2),
    square(28, 192, 182026, 3, 1, 2),
    square(28, 192, 79575, 3, 2),
    square(14, 384, 93771, 3, 1, 4),
    square(14, 576, 141976, 3, 1, 2),
    square(14, 576, 73901, 3, 2),
    square(7, 960, 78179, 3, 1, 3),
)
FIVE = (
    square(28, 120, 243271, 5),
    square(28, 72, 56535, 5, 2),
    square(14, 480, 266306, 5),
    square(14, 672, 128379, 5, 2),
    square(7, 960, 145206, 5),
    square(22, 96, 124138, 5),
    square(11, 192, 64820, 5),
    square(28, 32, 62245, 5),
)
OTHER = (
    Layer((25, 5), 64, 13025),
    square(8, 128, 11803),
    square(3, 256, 6412),
    square(20, 27, 17063),
    square(10, 58, 4583, 3, 2),
    square(28, 48, 113070, 7),
    square(56, 32, 127127, 7, 2),
    square(28, 64, 76804, 3, 1, 1, 2),
    Layer((28, 28), 64, 93981, (1, 7)),
    Layer((28, 28), 64, 71807, (7, 1)),
    Layer((28, 28), 64, 65164, (1, 3)),
    Layer((28, 28), 64, 48365, (3, 1)),
)
NETWORKS = {"MobileNetV1": MOBILENET_V1, "MobileNetV2": MOBILENET_V2, "5x5": FIVE, "other": OTHER}


def main(names: list[str]) -> None:
    """Prices the networks and writes the table."""
    rows, notes = [], [PORTS]
    for network, layers in few(NETWORKS.items()):
        if names and network not in names:
            continue
        found = list(price(network, tuple(few(layers))))
        rows += found
        if network.startswith("MobileNet"):
            notes.append(_total(network, found))
    write_results("depthwise_a76", "Depthwise kernels on a Cortex-A76 (modelled, one thread)", rows, notes)


def price(network: str, layers: tuple[Layer, ...]) -> Iterator[dict[str, object]]:
    """One row a layer."""
    tool, kernels = pricer(), [make(layer) for layer in layers]
    with tempfile.TemporaryDirectory() as folder:
        program = write_program(kernels, LLVM_TARGET, Path(folder))
        for index, (layer, kernel) in enumerate(zip(layers, kernels, strict=True)):
            cycles = tool.kernel(program, index)
            rate = kernel.macs / cycles
            print(f"{layer.text}: {cycles:.0f} cycles, {rate:.2f} MAC/cycle", file=sys.stderr)
            yield {
                "network": network,
                "layer": layer.text,
                "count": layer.count,
                "kernel": kernel.name.split("_w8")[0],
                "MMAC": kernel.macs / 1e6,
                "cycles before": layer.before,
                "cycles": int(cycles),
                "us": cycles / CLOCK,
                "MAC/cycle before": round(kernel.macs / layer.before, 1) if layer.before else "",
                "MAC/cycle": round(rate, 1),
                "share of peak": f"{rate / PEAK:.0%}",
            }


def make(layer: Layer) -> Kernel:
    """The layer's kernel for one A76 of four, with seeded normal weights, inputs and outputs after ReLU."""
    weight = np.clip(np.rint(np.random.default_rng(0).normal(0, 128 / 3, (layer.channels, 1, *layer.kernel))), -127, 127).astype(np.int8)
    multiplier = (1 / np.sqrt((weight.astype(np.float64) ** 2).sum(axis=(1, 2, 3)) + 1)).astype(np.float32)
    op = Conv(
        "op", ("x",), ("y",), weight=weight, weight_bits=8, bias=np.zeros(layer.channels, np.int32), multiplier=multiplier, low=-128, high=127,
        strides=(layer.stride,) * 2, pads=layer.pads, dilations=(layer.dilation,) * 2, groups=layer.channels,
    )  # fmt: skip
    return depthwise(op, _tensor(layer.channels, layer.size), _tensor(layer.channels, layer.output), KernelTarget())


def _tensor(channels: int, size: tuple[int, int]) -> Tensor:
    return Tensor("t", (1, channels, *size), "int8", QParams(QType(8), np.float32(0.05), np.int32(-128)))


def _total(network: str, rows: list[dict[str, object]]) -> str:
    macs = sum(float(row["MMAC"]) * int(row["count"]) for row in rows) * 1e6
    parts = []
    for name in ("cycles before", "cycles"):
        cycles = sum(float(row[name]) * int(row["count"]) for row in rows)
        parts.append(f"{cycles / CLOCK / 1e3:.3f} ms ({macs / cycles:.1f} MAC/cycle)" if cycles else "")
    return f"{network}, all depthwise layers: {parts[0]} before, {parts[1]} now."


PORTS = """\
Port count of 3x3, stride 1, for 16 outputs (8 channels, one column of two rows; 144 multiply-accumulates) on the two vector pipes: 12 SDOT
(nine taps take three SDOT of four, since a lane belongs to one output), 4 ZIP (a new column of four rows, shared by both rows and three columns),
4 FMLA + 2 UZP1 + 2 SQXTN (requantization), 2 STR (a store takes a vector slot). Sums and windows alone: 16 slots, 8 cycles, 18 MAC/cycle.
With requantization and stores: 26 slots, 13 cycles, 11.1 MAC/cycle, which the inner loop reaches (26.09 cycles for two columns). 14 MAC/cycle
would leave 20.6 slots. Below 24 (12 MAC/cycle) there is nothing to take away in this form: 12 SDOT; 3 for windows (each vector of a new window
is one instruction, half a vector an output, and pairs of rows must be made); 4 FMLA, as int32 lanes are four; 4 to narrow, as saturation
to bytes has one source; 1 store."""

if __name__ == "__main__":
    main(sys.argv[1:])
