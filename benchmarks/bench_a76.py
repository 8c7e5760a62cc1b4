"""MobileNetV1, MobileNetV2, ResNet-18, ResNet-50 and a UNet at 224x224 on one modelled Cortex-A76 core at 2.4 GHz: whole bundles, layer by layer.

    python benchmarks/bench_a76.py                               # all of them at all settings, about half an hour
    python benchmarks/bench_a76.py resnet18 --settings w8a8
    python benchmarks/bench_a76.py --as-before                   # keeps the layers' cycles for the column `before` of later runs

Random weights (benchmarks/networks.py), calibrated on noise. Writes results/a76.json (a list of networks) and results/a76.md. Times are
modelled by a76time, never measured; the times of others are those of their programs under the same tool.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from networks import NETWORKS, PIXELS, write_onnx
from price import OTHER, price
from provenance import PASSED_ON, RESULTS, SMOKE, WORK, few, provenance

PEAK = 32.0
"""int8 MAC a cycle of two SDOT"""
CYCLES_A_MS = 2.4e6
FOLDER = WORK / "a76"
BEFORE = RESULTS / "a76_before.json"
SETTINGS = {"w8a8": (8, 8), "w4a8": (4, 8), "w6a7": (6, 7), "w5a6": (5, 6)}


@dataclass(frozen=True)
class Goal:
    """Milliseconds: what the SDOT peak allows, the best peer and its name, what is to be reached and aimed for."""

    floor: float
    peer: float
    peer_name: str
    reach: float
    aim: float


GOALS = {
    "mobilenet_v1": Goal(7.4, 12.3, "XNNPACK in LiteRT 2.3", 11.5, 9.5),
    "mobilenet_v2": Goal(3.9, 10.2, "XNNPACK in LiteRT 2.3", 9.5, 7.5),
    "resnet18": Goal(23.6, 31.1, "XNNPACK in LiteRT 2.3", 29.5, 26.5),
    "resnet50": Goal(53.2, 71.1, "XNNPACK in LiteRT 2.3", 67.0, 60.0),
}
NARROW_GOALS = {
    ("resnet18", "w6a7"): (21.5, 20.0),
    ("resnet18", "w5a6"): (18.5, 17.0),
    ("resnet50", "w6a7"): (57.0, 55.0),
    ("resnet50", "w5a6"): (54.0, 51.0),
}
"""Milliseconds to reach and to aim for, where fewer bits save multiplications"""
NARROW_SHARES = {("unet", "w6a7"): (0.78, 0.72), ("unet", "w5a6"): (0.62, 0.55)}
"""The same as shares of the network's own time at w8a8"""


@dataclass(frozen=True)
class Layer:
    """One kernel of a network: all its calls in one run."""

    ops: tuple[str, ...]
    kernel: str
    calls: int
    macs: int
    cycles: float

    @property
    def rate(self) -> float:
        """MAC a cycle."""
        return self.macs / self.cycles if self.cycles else 0.0


@dataclass(frozen=True)
class Result:
    """One network at one setting."""

    network: str
    qtypes: str
    modelled_ms: float
    predicted_ms: float
    instructions: int
    commit: str
    layers: tuple[Layer, ...]

    def entry(self) -> dict[str, object]:
        """The object of a76.json."""
        return {key: value for key, value in asdict(self).items() if key != "layers"}


def compile_one(name: str, setting: str) -> None:
    """Compiles a network in this process."""
    from mpqc.flow.pipeline import compile_network
    from mpqc.values.request import Options
    from mpqc.workspace.progress import Progress

    model, bits = write_onnx(name, FOLDER), SETTINGS[setting]
    data = np.random.default_rng(0).standard_normal((8, 3, PIXELS, PIXELS)).astype(np.float32)
    options = Options(strategy="uniform", uniform_bits=bits, samples=8, allow_slower=True)
    compile_network(model, options, data, output=FOLDER / f"{name}_{setting}", progress=Progress(quiet=True))


def predicted_us(folder: Path, target: str = "cortex-a76") -> float:
    """What the cost model says today of the plan of a finished compile."""
    from mpqc.allocator import evaluate
    from mpqc.cost.model import CostModel
    from mpqc.targets import load_target
    from mpqc.values.plan import predicted, read_plan
    from mpqc.values.site_file import read_sites

    table = read_sites(folder / "sites.json")
    return predicted(evaluate(table, read_plan(folder / "plan.json"), CostModel(load_target(target)).for_network(table), ()))


def measure(name: str, setting: str, commit: str, again: bool) -> Result:
    """Compiles (in a process of its own, so that memory is given back) and prices one network, or takes both from an earlier run."""
    folder = FOLDER / f"{name}_{setting}"
    kept = folder / "price.json"
    if not again or not kept.is_file():
        subprocess.run([sys.executable, __file__, name, "--settings", setting, "--one", *PASSED_ON], check=True)
        kept.write_text(json.dumps({"commit": commit, **asdict(price(folder / "bundle"))}), encoding="utf-8")
    found = json.loads(kept.read_text(encoding="utf-8"))
    layers = tuple(
        Layer(tuple(share["ops"]), share["kernel"], share["calls"], share["macs"], share["ms"] * CYCLES_A_MS) for share in found["kernels"]
    )
    milliseconds = round(found["ms"], 3), round(predicted_us(folder) / 1e3, 3)
    return Result(name, setting, *milliseconds, found["instructions"], found["commit"], layers)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--as-before", action="store_true", help="keep the cycles of every node as what later runs are compared with")
    parser.add_argument("--again", action="store_true", help="predict anew, with the compiles and prices of an earlier run")
    parser.add_argument("--known", action="store_true", help="with --again: leave out what no earlier run has compiled and priced")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        compile_one(given.networks[0], given.settings[0])
        return
    results = []
    for setting in few(given.settings):
        for name in given.networks or NETWORKS:
            if given.known and not (FOLDER / f"{name}_{setting}" / "price.json").is_file():
                continue
            results.append(measure(name, setting, provenance()["commit"], given.again))
            print(results[-1].entry(), file=sys.stderr, flush=True)
    if SMOKE:
        print("\n".join(_layer_table(results[0], {})))
        return
    if given.as_before:
        keep_before(results)
        return
    write(results)


def keep_before(results: list[Result]) -> None:
    """Writes a76_before.json: milliseconds of each network, cycles a call of each node."""
    kept = {one.network: {"ms": one.modelled_ms, "commit": one.commit, "cycles": _each(one.layers)} for one in results if one.qtypes == "w8a8"}
    BEFORE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _each(layers: tuple[Layer, ...]) -> dict[str, float]:
    return {op: round(layer.cycles / layer.calls) for layer in layers if layer.calls for op in layer.ops}


def write(results: list[Result]) -> None:
    """Writes a76.json and a76.md."""
    before = json.loads(BEFORE.read_text(encoding="utf-8")) if BEFORE.is_file() else {}
    (RESULTS / "a76.json").write_text(json.dumps([one.entry() for one in results], indent=1) + "\n", encoding="utf-8")
    facts = provenance()
    lines = [
        "# Whole networks at 224x224 on one Cortex-A76 core at 2.4 GHz, modelled",
        "",
        f"`{facts['command']}`, {facts['date']}, commit {facts['commit']}, {facts['machine']}; again with `make bench-a76`",
        "",
        *_goal_table([one for one in results if one.qtypes == "w8a8" and one.network in GOALS], before),
        "",
        "Fewer bits, uniform (weights and activations):",
        "",
        *_narrow_table(results),
        "",
        "All settings:",
        "",
        *_table(["network", "qtypes", "modelled ms", "predicted ms", "difference", "instructions"], map(_row, results)),
    ]
    for one in results:
        lines += ["", *_layer_table(one, before.get(one.network, {}) if one.qtypes == "w8a8" else {})]
    (RESULTS / "a76.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(one: Result) -> list[object]:
    difference = f"{100 * (one.predicted_ms / one.modelled_ms - 1):+.1f} %"
    return [one.network, one.qtypes, f"{one.modelled_ms:.2f}", f"{one.predicted_ms:.2f}", difference, f"{one.instructions:,}"]


def _goal_table(results: list[Result], before: dict) -> list[str]:
    heads = ["network", "SDOT floor ms", "best peer ms", "must reach ms", "aim for ms", "mpqc w8a8 ms", "before ms", "reached"]
    return _table(heads, (_goal_row(one, before.get(one.network, {})) for one in results))


def _goal_row(one: Result, before: dict) -> list[object]:
    goal = GOALS[one.network]
    reached = "aim" if one.modelled_ms <= goal.aim else "must" if one.modelled_ms <= goal.reach else "no"
    then = f"{before['ms']:.2f} ({before['commit']})" if before else ""
    return [one.network, goal.floor, f"{goal.peer} ({goal.peer_name})", goal.reach, goal.aim, f"**{one.modelled_ms:.2f}**", then, reached]


def _narrow_table(results: list[Result]) -> list[str]:
    heads = ["network", "qtypes", "modelled ms", "share of w8a8", "must reach", "aim for", "reached"]
    own = {one.network: one.modelled_ms for one in results if one.qtypes == "w8a8"}
    return _table(heads, (_narrow_row(one, own[one.network]) for one in results if one.qtypes in ("w6a7", "w5a6") and one.network in own))


def _narrow_row(one: Result, own: float) -> list[object]:
    key, share = (one.network, one.qtypes), one.modelled_ms / own
    shown = [one.network, one.qtypes, f"**{one.modelled_ms:.2f}**", f"{share:.3f}"]
    if key in NARROW_GOALS:
        goals, found, unit = NARROW_GOALS[key], one.modelled_ms, " ms"
    elif key in NARROW_SHARES:
        goals, found, unit = NARROW_SHARES[key], share, "x"
    else:
        return [*shown, "", "", ""]
    return [*shown, *(f"{goal}{unit}" for goal in goals), "aim" if found <= goals[1] else "must" if found <= goals[0] else "no"]


def _layer_table(one: Result, before: dict) -> list[str]:
    """Dearest kernels first; `before` are the cycles of the same nodes, those joined to them included."""
    heads = ["nodes", "kernel", "calls", "cycles", "MAC/cycle", "share of peak", "share of time", *(["cycles before"] if before else [])]
    total = one.modelled_ms * CYCLES_A_MS
    rows = ([*_layer_row(layer, total), *([_then(layer, before["cycles"])] if before else [])] for layer in one.layers)
    return [f"## {one.network}, {one.qtypes}: {one.modelled_ms:.2f} ms", "", *_table(heads, rows)]


def _layer_row(layer: Layer, total: float) -> list[object]:
    nodes = ", ".join(layer.ops[:2]) + (", ..." if len(layer.ops) > 2 else "")
    rates = [f"{layer.rate:.1f}", f"{layer.rate / PEAK:.0%}"] if layer.macs else ["", ""]
    return [nodes, layer.kernel, layer.calls or "", f"{layer.cycles:,.0f}", *rates, f"{layer.cycles / total:.1%}"]


def _then(layer: Layer, cycles: dict[str, float]) -> str:
    known = [cycles[op] for op in layer.ops if op in cycles]
    return f"{sum(known):,.0f}" if known and len(known) == len(layer.ops) and layer.kernel != OTHER else ""


def _table(heads: list[str], rows: object) -> list[str]:
    body = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]  # type: ignore[attr-defined]
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *body]


if __name__ == "__main__":
    main()
