"""Convolution and fully connected kernels on a Cortex-A76: cycles, MAC a cycle and share of the SDOT peak, layer by layer.

    python benchmarks/kernels_a76.py [NAME...] [--before OLD.json]      # networks by name; all of them without

Writes results/kernels_a76.md; with the kernels_a76.json of an earlier commit, its cycles and share beside the new ones.
Cycles are modelled (a76time, one thread, warm caches), weights as a symmetric 8, 4 or 2-bit quantizer
leaves them. 32 MAC a cycle is the peak of two SDOT a cycle.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cost_pricing import pricer
from provenance import few, write_results

from mpqc.lowering.kernels.conv import conv2d
from mpqc.lowering.kernels.gemm import gemm
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.timing.program import write_program
from mpqc.values.program import Conv, Gemm

PEAK = 32.0
LLVM_TARGET = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}
CLOCK = 2.4e3
"""Cycles a microsecond of a Raspberry Pi 5"""


@dataclass(frozen=True)
class Layer:
    """`count` equal layers of a network. kernel 0: fully connected, `size` rows."""

    size: int
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    count: int = 1
    bits: int = 8


RESNET18 = (
    Layer(224, 3, 64, 7, 2), Layer(56, 64, 64, 3, 1, 4), Layer(56, 64, 128, 3, 2), Layer(56, 64, 128, 1, 2), Layer(28, 128, 128, 3, 1, 3),
    Layer(28, 128, 256, 3, 2), Layer(28, 128, 256, 1, 2), Layer(14, 256, 256, 3, 1, 3), Layer(14, 256, 512, 3, 2), Layer(14, 256, 512, 1, 2),
    Layer(7, 512, 512, 3, 1, 3), Layer(1, 512, 1000, 0),
)  # fmt: skip
MOBILENET_V1 = (
    Layer(224, 3, 32, 3, 2), Layer(112, 32, 64, 1), Layer(56, 64, 128, 1), Layer(56, 128, 128, 1), Layer(28, 128, 256, 1), Layer(28, 256, 256, 1),
    Layer(14, 256, 512, 1), Layer(14, 512, 512, 1, 1, 5), Layer(7, 512, 1024, 1), Layer(7, 1024, 1024, 1), Layer(1, 1024, 1000, 0),
)  # fmt: skip
MOBILENET_V2 = (
    Layer(112, 32, 16, 1), Layer(112, 16, 96, 1), Layer(56, 96, 24, 1), Layer(56, 24, 144, 1, 1, 2), Layer(56, 144, 24, 1), Layer(28, 144, 32, 1),
    Layer(28, 32, 192, 1, 1, 3), Layer(28, 192, 32, 1, 1, 2), Layer(14, 192, 64, 1), Layer(14, 64, 384, 1, 1, 4), Layer(14, 384, 64, 1, 1, 3),
    Layer(14, 384, 96, 1), Layer(14, 96, 576, 1, 1, 3), Layer(14, 576, 96, 1, 1, 2), Layer(7, 576, 160, 1), Layer(7, 160, 960, 1, 1, 3),
    Layer(7, 960, 160, 1, 1, 2), Layer(7, 960, 320, 1), Layer(7, 320, 1280, 1), Layer(1, 1280, 1000, 0),
)  # fmt: skip
RESNET20 = (
    Layer(32, 3, 16, 3),
    Layer(32, 16, 16, 3, 1, 6),
    Layer(32, 16, 32, 3, 2),
    Layer(16, 32, 32, 3, 1, 5),
    Layer(16, 32, 64, 3, 2),
    Layer(8, 64, 64, 3, 1, 5),
)
NARROW = tuple(
    Layer(size, inputs, outputs, kernel, 1, 1, bits)
    for bits in (8, 4, 2)
    for size, inputs, outputs, kernel in [
        (56, 64, 64, 3),
        (14, 256, 256, 3),
        (7, 512, 512, 3),
        (7, 512, 1024, 1),
        (1, 512, 1000, 0),
        (1, 1024, 1000, 0),
        (1, 4096, 4096, 0),
        (1, 9216, 4096, 0),
        (4, 4096, 4096, 0),
        (64, 768, 768, 0),
    ]
)
NETWORKS = {
    "ResNet-18, w8": RESNET18,
    "MobileNetV1 without depthwise, w8": MOBILENET_V1,
    "MobileNetV2 without depthwise, w8": MOBILENET_V2,
    "ResNet-20 (CIFAR-10), w8": RESNET20,
    "w8, w4 and w2": NARROW,
}


def main() -> None:
    """Prices the networks and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--before", type=Path, help="kernels_a76.json of an earlier commit")
    given = parser.parse_args()
    rows, notes = [], []
    for network, layers in few(NETWORKS.items()):
        if given.names and not any(name.lower() in network.lower() for name in given.names):
            continue
        found = list(price(network, tuple(few(layers))))
        rows += found
        if layers is not NARROW:
            notes.append(_total(network, found))
    if given.before:
        old = json.loads(given.before.read_text(encoding="utf-8"))
        notes.append(f"Before: commit {old['commit'].removesuffix('+changes')}, {old['date']}.")
        earlier = {(row["network"], row["layer"], row["bits"]): row for row in old["rows"]}
        rows = [_beside(row, earlier.get((row["network"], row["layer"], row["bits"]), {})) for row in rows]
    write_results("kernels_a76", "Kernels on a Cortex-A76 (modelled, one thread)", rows, notes)


def _beside(row: dict[str, object], old: dict[str, object]) -> dict[str, object]:
    """The row with the earlier figures before its own."""
    head = {key: row[key] for key in ("network", "layer", "bits", "count", "MMAC")}
    return {**head, "cycles before": old.get("cycles", ""), "share before": old.get("share of peak", ""), **row}


def price(network: str, layers: tuple[Layer, ...]) -> Iterator[dict[str, object]]:
    """One row a layer."""
    tool, kernels = pricer(), [make(layer) for layer in layers]
    with tempfile.TemporaryDirectory() as folder:
        program = write_program(kernels, LLVM_TARGET, Path(folder))
        for index, (layer, kernel) in enumerate(zip(layers, kernels, strict=True)):
            cycles = tool.kernel(program, index)
            rate = kernel.macs / cycles
            print(f"{kernel.name}: {rate:.1f} MAC/cycle", file=sys.stderr)
            yield {
                "network": network,
                "layer": describe(layer),
                "bits": layer.bits,
                "count": layer.count,
                "MMAC": kernel.macs / 1e6,
                "cycles": int(cycles),
                "us": cycles / CLOCK,
                "MAC/cycle": round(rate, 1),
                "share of peak": f"{rate / PEAK:.0%}",
            }


def describe(layer: Layer) -> str:
    """`3x3 64>64 @56`."""
    if layer.kernel == 0:
        return f"fully connected {layer.inputs}>{layer.outputs}, {layer.size} rows"
    return f"{layer.kernel}x{layer.kernel} {layer.inputs}>{layer.outputs} @{layer.size}" + f" stride {layer.stride}" * (layer.stride > 1)


def make(layer: Layer) -> Kernel:
    """The layer's kernel for one A76 of four, with seeded normal weights."""
    op = convolution(layer)
    if layer.kernel:
        return conv2d(op, (1, layer.size, layer.size, layer.inputs), (-128, -128), KernelTarget())
    constants = {"bias": op.bias, "multiplier": op.multiplier, "low": op.low, "high": op.high}
    matrix = op.weight.reshape(layer.outputs, layer.inputs)
    return gemm(Gemm("op", ("x",), ("y",), matrix, layer.bits, **constants), (layer.size, layer.inputs), (-128, -128), KernelTarget())


def convolution(layer: Layer) -> Conv:
    """The layer as a convolution (1x1 where it is fully connected) with seeded normal weights."""
    edge, taps = 1 << (layer.bits - 1), max(1, layer.kernel)
    shape = (layer.outputs, layer.inputs, taps, taps)
    weight = np.clip(np.rint(np.random.default_rng(0).normal(0, edge / 3, shape)), 1 - edge, edge - 1).astype(np.int8)
    multiplier = (1 / np.sqrt((weight.astype(np.float64) ** 2).sum(axis=(1, 2, 3)) + 1)).astype(np.float32)
    bias, pads, strides = np.zeros(layer.outputs, np.int32), (layer.kernel // 2,) * 4, (layer.stride,) * 2
    return Conv("op", ("x",), ("y",), weight, layer.bits, bias, multiplier, strides, pads, (1, 1), 1, -128, 127)


def _total(network: str, rows: list[dict[str, object]]) -> str:
    cycles = sum(float(row["cycles"]) * int(row["count"]) for row in rows)
    macs = sum(float(row["MMAC"]) * int(row["count"]) for row in rows) * 1e6
    return f"{network}: {cycles / CLOCK / 1e3:.2f} ms for {macs / 1e6:.0f} MMAC, {macs / cycles:.1f} MAC/cycle ({macs / cycles / PEAK:.0%} of peak)."


if __name__ == "__main__":
    main()
