"""Bits and time on five CPU targets: six networks at all int8, as fast as bits of at least 4 make them, and as fast as any bits do.

    python benchmarks/bits_and_time.py

Milliseconds of one core at the target's clock, by the cost model (rows modelled, or taken over from a core like it: see `mpqc targets show`). The
plans are the fastest that the allocator finds, whatever they lose. Networks of the MLPerf Tiny set and ResNet-20 have trained weights, the others
random ones (benchmarks/networks.py). Writes results/bits_and_time.md and .json.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from networks import PIXELS, write_onnx
from provenance import SMOKE, few, shared, write_results

from mpqc.allocator import evaluate
from mpqc.allocator.fastest import fastest_plan
from mpqc.cost.model import CostModel
from mpqc.flow.pipeline import analyze
from mpqc.targets import load_target
from mpqc.values.budget import Resource
from mpqc.values.plan import Plan, predicted, uniform_plan
from mpqc.values.request import Options
from mpqc.values.site import SiteKind, SiteTable

TARGETS = ("cortex-a76", "neoverse-n1", "cortex-a55", "cortex-a72", "cortex-a53")
TRAINED = {
    "ResNet-8": "mlperf_resnet8_cifar10",
    "ResNet-20": "resnet20_cifar10",
    "MobileNetV1 0.25": "mlperf_mobilenet_v1_025_vww",
    "DS-CNN": "mlperf_dscnn_kws",
}
RANDOM = {"tiny": "tiny"} if SMOKE else {"MobileNetV2": "mobilenet_v2", "ResNet-18": "resnet18"}
NETWORKS = (*RANDOM,) if SMOKE else (*TRAINED, *RANDOM)
LEAST = (4, 2)
"""Bits that the fastest plans have at least"""
SECONDS = 3.0
"""Processor time that the search for each plan may take"""


def sites(name: str, target: str, folder: Path) -> SiteTable:
    """The sites of a network on a target."""
    options = Options(target=target, strategy="uniform", samples=1, rounding="nearest", bias_correction="off")
    if name in TRAINED:
        return analyze(shared(f"onnx_derived/{TRAINED[name]}.onnx"), options, output=folder / name).table
    data = np.random.default_rng(0).standard_normal((1, 3, PIXELS, PIXELS)).astype(np.float32)
    return analyze(write_onnx(RANDOM[name], folder), options, data, output=folder / name).table


def rows(name: str, folder: Path) -> Iterator[dict[str, object]]:
    """A row a target."""
    tables: dict[tuple[int, ...], SiteTable] = {}
    for target in few(TARGETS):
        widths = load_target(target).choices.half_integer_weights
        if widths not in tables:
            tables[widths] = sites(name, target, folder / "_".join(map(str, widths)))
        yield row(name, target, tables[widths])


def row(name: str, target: str, table: SiteTable) -> dict[str, object]:
    """All int8, and the fastest plans; nothing where the target has no cost rows."""
    model = CostModel(load_target(target)).for_network(table)
    if not model.can_bound(Resource.LATENCY):
        absent = {f"at least {least} bits, ms": "" for least in LEAST} | {f"of int8 ({least})": "" for least in LEAST}
        return {"network": name, "target": target, "all int8, ms": "no cost rows", **absent, **{f"bits ({least})": "" for least in LEAST}}
    plans = [fastest_plan(table, model, target, least=least, seconds=SECONDS) for least in LEAST]
    int8, *fastest = (predicted(evaluate(table, plan, model, ())) / 1e3 for plan in (uniform_plan(table, target, 8, 8), *plans))
    return {
        "network": name,
        "target": target,
        "all int8, ms": int8,
        **{f"at least {least} bits, ms": one for least, one in zip(LEAST, fastest, strict=True)},
        **{f"of int8 ({least})": f"{one / int8:.2f}" for least, one in zip(LEAST, fastest, strict=True)},
        **{f"bits ({least})": mean_bits(plan) for least, plan in zip(LEAST, plans, strict=True)},
    }


def mean_bits(plan: Plan) -> str:
    """Mean bits of weights and of activations, by site."""
    kinds = ([choice.bits for choice in plan.choices if choice.kind is kind] for kind in (SiteKind.WEIGHT, SiteKind.ACTIVATION))
    return " / ".join(f"{np.mean([bits or 32 for bits in found]):.1f}" for found in kinds)


def main() -> None:
    """Predicts everything and writes the table."""
    with tempfile.TemporaryDirectory() as folder:
        found = [one for name in NETWORKS for one in rows(name, Path(folder) / name.replace(" ", "_"))]
    notes = [
        "Predicted by the cost model, one core. Plans are the fastest there are, whatever they lose: how far bits go on a core. `bits`: mean bits of "
        "weights / activations by site. Cores with dotprod gain little from bits alone: SDOT takes four products whatever they hold; "
        "3x3 layers gain where fewer bits make Winograd's algorithm exact.",
    ]
    write_results("bits_and_time", "Bits and time on five CPU targets (modelled)", found, notes)


if __name__ == "__main__":
    main()
