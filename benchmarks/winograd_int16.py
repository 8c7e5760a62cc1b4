"""3x3 convolutions with stride 1 on cores without SDOT, direct and as F(4x4,3x3) in int16: layers of ResNet-18, and the network.

    python benchmarks/winograd_int16.py                      # both cores; the networks take most of an hour
    python benchmarks/winograd_int16.py cortex-a72 --settings w8a8

Writes results/winograd_int16.md and .json. Cycles are modelled (a72time, a53time, one thread, warm caches), whole kernels: padding, transforms,
requantization and stores included. Weights are normal and fill their range. Networks have random weights and uniform bits; lowering chooses the
form of each layer by the cost rows of the core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from bench_arm import SETTINGS, measure
from cost_pricing import pricer
from provenance import SMOKE, few, write_results

from mpqc.lowering.kernels.conv import conv2d
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.kernels.winograd16 import winograd16
from mpqc.targets import load_target
from mpqc.timing.program import grid_target, write_program
from mpqc.timing.weights import multipliers, weights
from mpqc.values.program import Conv

LAYERS = ((56, 64, 64), (28, 128, 128), (14, 256, 256), (7, 512, 512))
"""Size, input channels, output channels"""
CORES = ("cortex-a72", "cortex-a53")
ZEROS, CODES = (-128, -128), (-128, 127)


def layers(core: str) -> Iterator[dict[str, object]]:
    """A row a layer."""
    target = load_target(core)
    tool = pricer(core)
    sizes = (LAYERS[-1],) if SMOKE else LAYERS
    kernels = [kernel for layer in sizes for kernel in both(layer, core)]
    with tempfile.TemporaryDirectory() as folder:
        program = write_program(kernels, target.llvm_target, Path(folder), target.cores)
        for n, (size, inputs, outputs) in enumerate(sizes):
            cycles = [tool.kernel(program, 2 * n + which) for which in range(2)]
            yield {
                "core": core,
                "what": f"{inputs}>{outputs} @{size}, w8a8",
                "direct": f"{cycles[0]:.0f} cycles, {kernels[2 * n].macs / cycles[0]:.2f} MAC/cycle",
                "with tile4": f"{cycles[1]:.0f} cycles, {kernels[2 * n].macs / cycles[1]:.2f} MAC/cycle",
                "gain": f"{cycles[0] / cycles[1]:.2f}x",
            }


def both(layer: tuple[int, int, int], core: str) -> tuple[Kernel, Kernel]:
    """The direct kernel of a layer after ReLU, and that of large tiles."""
    size, inputs, outputs = layer
    weight = weights(8, (outputs, inputs, 3, 3))
    bias = (128 * weight.sum(axis=(1, 2, 3), dtype=np.int64)).astype(np.int32)
    op = Conv("op", ("x",), ("y",), weight, 8, bias, multipliers(weight), (1, 1), (1,) * 4, (1, 1), 1, *CODES)
    shape, target = (1, size, size, inputs), grid_target(load_target(core))
    return conv2d(op, shape, ZEROS, target, CODES), winograd16(op, shape, CODES, ZEROS, target)


def network(core: str, setting: str) -> dict[str, object]:
    """A row of ResNet-18, or in a smoke run of a small network."""
    found = measure(core, "tiny" if SMOKE else "resnet18", setting, again=False)
    large = [kernel for kernel in found.kernels if kernel["kernel"].startswith("winograd_tile4")]
    share = sum(kernel["ms"] for kernel in large)
    return {
        "core": core,
        "what": f"{found.network}, {setting}",
        "direct": "",
        "with tile4": f"{found.modelled_ms:.1f} ms, {share:.1f} of it in {sum(kernel['calls'] for kernel in large)} layers of large tiles",
        "gain": "",
    }


def main() -> None:
    """Prices everything and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cores", nargs="*", default=list(CORES), metavar="CORE", help=", ".join(CORES))
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS)[:2], choices=list(SETTINGS), help="of the networks; none: layers alone")
    given = parser.parse_args()
    rows: list[dict[str, object]] = []
    for core in few(given.cores):
        for row in chain(layers(core), (network(core, setting) for setting in few(given.settings))):
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    title = "3x3 convolutions on cores without SDOT, direct and by F(4x4,3x3) in int16 (modelled, one thread)"
    write_results(
        "winograd_int16", title, rows, ["MAC are those of the direct sum, whatever the form multiplies. ResNet-18 at 224x224, random weights."]
    )


if __name__ == "__main__":
    main()
