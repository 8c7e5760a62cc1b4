"""Whole networks with activations stored two codes a byte: modelled time on a Cortex-A76 beside w8a8.

    python benchmarks/activations_networks.py

Uniform plans calibrated on noise; MobileNetV1 has random weights: times, not accuracy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from networks import NETWORKS, PIXELS, write_onnx
from price import price
from provenance import SMOKE, WORK, few, shared, write_results

from mpqc.flow.pipeline import compile_network
from mpqc.values.request import Options
from mpqc.workspace.progress import Progress

BITS = ((8, 8), (8, 4), (4, 4))
FOLDER = WORK / "activations"


def milliseconds(name: str, model: Path, size: int, bits: tuple[int, int]) -> float:
    """Modelled time of `model` with every weight and activation at `bits`."""
    data = np.random.default_rng(0).standard_normal((8, 3, size, size)).astype(np.float32)
    options = Options(strategy="uniform", uniform_bits=bits, samples=8, allow_slower=True)
    compiled = compile_network(model, options, data, output=FOLDER / f"{name}_w{bits[0]}a{bits[1]}", progress=Progress())
    return price(compiled.output / "bundle").ms


def main() -> None:
    large = few(NETWORKS)[0]
    networks = [(large, write_onnx(large, FOLDER), PIXELS)]
    if not SMOKE:
        networks.insert(0, ("resnet20_cifar10", shared("onnx_derived/resnet20_cifar10.onnx"), 32))
    rows: list[dict[str, object]] = []
    for name, model, size in networks:
        times = {bits: milliseconds(name, model, size, bits) for bits in few(BITS)}
        rows += [{"network": name, "qtypes": f"w{w}a{a}", "modelled ms": ms, "of w8a8 %": 100 * ms / times[8, 8]} for (w, a), ms in times.items()]
        print(rows[-3:])
    write_results("activations_networks", "Whole networks with activations stored two a byte", rows, [])


if __name__ == "__main__":
    main()
