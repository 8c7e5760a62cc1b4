"""Six networks on one modelled Cortex-A72 core at 1.8 GHz, or Cortex-A53 at 1.4 GHz: whole bundles at several plans, layer by layer.

    python benchmarks/bench_arm.py cortex-a72                            # all of them at all settings, more than an hour
    python benchmarks/bench_arm.py cortex-a53 resnet8 --settings w8a8
    python benchmarks/bench_arm.py cortex-a72 --again --known            # predicts anew, with the compiles and prices of earlier runs

Plans: uniform bits; `fastest4`, the plan that the cost model finds fastest with at least 4 bits everywhere; `w2a2 body`, two bits everywhere but
in the input, the first layer's weights and all of the last layer, which have eight.

ResNet-8, ResNet-20, MobileNetV1 0.25 and DS-CNN have trained weights, MobileNetV2 and ResNet-18 random ones (benchmarks/networks.py); all are
calibrated on noise. Writes results/a72.md or a53.md and .json. Times are modelled by the tool of the core, never measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from networks import PIXELS, write_onnx
from price import OTHER, price
from provenance import PASSED_ON, RESULTS, SMOKE, WORK, provenance, shared

from mpqc.targets import load_target

if TYPE_CHECKING:
    from mpqc.values.plan import Plan
    from mpqc.values.site import SiteTable

TRAINED = {
    "resnet8": "mlperf_resnet8_cifar10",
    "resnet20": "resnet20_cifar10",
    "mobilenet_v1_025": "mlperf_mobilenet_v1_025_vww",
    "dscnn": "mlperf_dscnn_kws",
}
RANDOM = ("mobilenet_v2", "resnet18")
NETWORKS = ("tiny",) if SMOKE else (*TRAINED, *RANDOM)
UNIFORM = {"w8a8": (8, 8), "w6a7": (6, 7), "w4a8": (4, 8), "w4a4": (4, 4)}
FASTEST, BODY = "fastest4", "w2a2-body"
SETTINGS = (*UNIFORM, FASTEST, BODY)
LEAST = 4
"""Bits of every site, at least, in FASTEST"""
GOALS = {
    ("cortex-a72", "resnet18"): ("147 (ncnn int8)", 165, 145, 120, 105, 105),
    ("cortex-a72", "mobilenet_v2"): ("92 (ncnn float32)", 52, 52, 46, 46, 39),
    ("cortex-a72", "resnet8"): ("1.94 (XNNPACK)", 1.65, 1.65, 1.25, 1.25, None),
    ("cortex-a72", "mobilenet_v1_025"): ("1.49 (XNNPACK)", 1.35, 1.35, 1.15, 1.15, None),
    ("cortex-a53", "resnet18"): ("289 (ncnn int8)", 310, 285, 230, 200, 215),
    ("cortex-a53", "mobilenet_v2"): ("159 (ncnn float32)", 100, 100, 84, 84, 73),
    ("cortex-a53", "resnet8"): ("3.24 (XNNPACK)", 3.2, 3.2, 2.5, 2.5, None),
    ("cortex-a53", "mobilenet_v1_025"): ("2.99 (XNNPACK)", 2.9, 2.9, 2.4, 2.4, None),
}
GOAL_HEADS = ["network", "best peer", "w8a8 must", "aim", "w8a8", "fastest of at least 4 bits must", "aim", "fastest", "w2a2 body must", "w2a2 body"]
"""Milliseconds: the best peer under the same tool; what w8a8 must and should reach; the fastest plan of at least 4 bits; what w2a2 must reach"""


@dataclass(frozen=True)
class Result:
    """One network at one setting on one core."""

    core: str
    network: str
    qtypes: str
    modelled_ms: float
    predicted_ms: float
    instructions: int
    commit: str
    kernels: tuple[dict, ...]


def folder_of(core: str, name: str, setting: str) -> Path:
    """Where a compile is kept."""
    return WORK / core / f"{name}_{setting}"


def plan_of(core: str, name: str, setting: str) -> Plan | None:
    """The plan of a setting that is not uniform, of the sites that the compile at w8a8 found; None for uniform ones."""
    from mpqc.allocator.fastest import fastest_plan
    from mpqc.cost.model import CostModel
    from mpqc.values.site_file import read_sites

    if setting in UNIFORM:
        return None
    table = read_sites(folder_of(core, name, "w8a8") / "sites.json")
    if setting == BODY:
        return two_bits(table, core)
    return fastest_plan(table, CostModel(load_target(core)).for_network(table), core, least=LEAST)


def two_bits(table: SiteTable, core: str) -> Plan:
    """Two bits everywhere but in the input, the first layer's weights and all of the last layer."""
    from mpqc.values.plan import uniform_plan

    layers = [node for node in table.nodes if node.weight]
    ends = (layers[0].weight, *layers[0].inputs, layers[-1].weight, *layers[-1].inputs, layers[-1].output)
    wide = {table.by_name[name].group_name for name in ends if name and name in table.by_name}
    plan = uniform_plan(table, core, 2, 2)
    choices = (replace(choice, bits=8) if table.by_name[choice.site].group_name in wide else choice for choice in plan.choices)
    return replace(plan, choices=tuple(choices), proof=replace(plan.proof, status="given"))


def compile_one(core: str, name: str, setting: str) -> None:
    """Compiles a network in this process."""
    from mpqc.flow.pipeline import compile_network
    from mpqc.values.request import Options
    from mpqc.workspace.progress import Progress

    plan = plan_of(core, name, setting)
    model, data = shared(f"onnx_derived/{TRAINED[name]}.onnx") if name in TRAINED else write_onnx(name, WORK / core), None
    if name not in TRAINED:
        data = np.random.default_rng(0).standard_normal((8, 3, PIXELS, PIXELS)).astype(np.float32)
    how = Options(strategy="uniform", uniform_bits=UNIFORM[setting]) if plan is None else Options(plan=plan)
    options = replace(how, target=core, samples=8, allow_slower=True, rounding="nearest", bias_correction="off")
    compile_network(model, options, data, output=folder_of(core, name, setting), progress=Progress(quiet=True))


def predicted_us(folder: Path, core: str) -> float:
    """What the cost model says today of the plan of a finished compile."""
    from mpqc.allocator import evaluate
    from mpqc.cost.model import CostModel
    from mpqc.values.plan import predicted, read_plan
    from mpqc.values.site_file import read_sites

    table, target = read_sites(folder / "sites.json"), load_target(core)
    return predicted(evaluate(table, read_plan(folder / "plan.json"), CostModel(target).for_network(table), ())) if target.rows else 0.0


def measure(core: str, name: str, setting: str, again: bool) -> Result:
    """Compiles (in a process of its own) and prices one network, or takes both from an earlier run."""
    folder = folder_of(core, name, setting)
    kept, commit = folder / "price.json", provenance()["commit"]
    if not again or not kept.is_file():
        subprocess.run([sys.executable, __file__, core, name, "--settings", setting, "--one", *PASSED_ON], check=True)
        kept.write_text(json.dumps({"commit": commit, **asdict(price(folder / "bundle", core=core))}), encoding="utf-8")
    found = json.loads(kept.read_text(encoding="utf-8"))
    milliseconds = round(found["ms"], 3), round(predicted_us(folder, core) / 1e3, 3)
    return Result(core, name, setting, *milliseconds, found["instructions"], found["commit"], tuple(found["kernels"]))


def write(core: str, results: list[Result]) -> None:
    """Writes results/a72.md and .json, or those of the A53."""
    facts, target, short = provenance(), load_target(core), core.removeprefix("cortex-")
    entries = [{key: value for key, value in asdict(one).items() if key != "kernels"} for one in results]
    (RESULTS / f"{short}.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    off = [abs(one.predicted_ms / one.modelled_ms - 1) for one in results]
    lines = [
        f"# Whole networks on one {core.title()} core at {(target.clock_hz or 0) / 1e9:.1f} GHz, modelled",
        "",
        f"`{facts['command']}`, {facts['date']}, commit {facts['commit']}, {facts['machine']}",
        "",
        "Every time is modelled; peers are priced by the same tool.",
        "`fastest4`: the plan that the cost model finds fastest with at least 4 bits everywhere.",
        "`w2a2-body`: two bits everywhere but in the input, the first layer's weights and all of the last layer.",
        "",
        *_table(["network", "qtypes", "modelled ms", "predicted ms", "difference", "share of w8a8", "commit"], _rows(results)),
        "",
        f"Prediction against the whole program: {100 * sum(off) / len(off):.1f} % mean absolute difference, {100 * max(off):.1f} % worst.",
        "",
        *_table(GOAL_HEADS, _goals(core, results)),
    ]
    for one in results:
        rows = [_layer(kernel, one) for kernel in one.kernels]
        lines += ["", f"## {one.network}, {one.qtypes}: {one.modelled_ms:.2f} ms", "", *_table(["nodes", "kernel", "calls", "ms", "MAC/cycle"], rows)]
    (RESULTS / f"{short}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(results: list[Result]) -> list[list[object]]:
    own = {one.network: one.modelled_ms for one in results if one.qtypes == "w8a8"}
    shares = [f"{one.modelled_ms / own[one.network]:.2f}" if one.network in own else "" for one in results]
    off = [f"{100 * (one.predicted_ms / one.modelled_ms - 1):+.1f} %" for one in results]
    return [
        [one.network, one.qtypes, f"{one.modelled_ms:.2f}", f"{one.predicted_ms:.2f}", difference, share, one.commit]
        for one, difference, share in zip(results, off, shares, strict=True)
    ]


def _goals(core: str, results: list[Result]) -> list[list[object]]:
    rows: list[list[object]] = []
    for (where, name), (peer, *limits, body) in GOALS.items():
        mine = [one for one in results if where == core and one.network == name]
        if mine:
            of = {one.qtypes: one.modelled_ms for one in mine}
            wide = [one for one in mine if one.qtypes != BODY]
            fastest = min(wide, key=lambda one: one.modelled_ms) if wide else None
            named = f"{_judged(fastest.modelled_ms, limits[2], limits[3])} ({fastest.qtypes})" if fastest else ""
            narrow = [body or "", _judged(of.get(BODY), body, body)]
            rows.append([name, peer, *limits[:2], _judged(of.get("w8a8"), limits[0], limits[1]), *limits[2:], named, *narrow])
    return rows


def _judged(found: float | None, must: float | None, aim: float | None) -> str:
    if found is None:
        return ""
    if must is None or aim is None:
        return f"{found:.2f}"
    return f"{found:.2f}: {'aim' if found <= aim else 'must' if found <= must else 'missed'}"


def _layer(kernel: dict, one: Result) -> list[object]:
    nodes = ", ".join(kernel["ops"][:2]) + (", ..." if len(kernel["ops"]) > 2 else "")
    return [
        nodes,
        kernel["kernel"],
        "" if kernel["kernel"] == OTHER else kernel["calls"],
        f"{kernel['ms']:.3f}",
        f"{kernel['mac_per_cycle']:.2f}" if kernel["macs"] else "",
    ]


def _table(heads: list[str], rows: list[list[object]]) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(map(str, row)) + " |" for row in rows)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("core", nargs="?", default="cortex-a72", choices=["cortex-a72", "cortex-a53"])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--settings", nargs="+", default=[*SETTINGS[:1], FASTEST] if SMOKE else list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--again", action="store_true", help="predict anew, with the compiles and prices of an earlier run")
    parser.add_argument("--known", action="store_true", help="with --again: leave out what no earlier run has compiled and priced")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        compile_one(given.core, given.networks[0], given.settings[0])
        return
    results = []
    for name in given.networks or NETWORKS:
        for setting in given.settings:
            if given.known and not (folder_of(given.core, name, setting) / "price.json").is_file():
                continue
            results.append(measure(given.core, name, setting, given.again))
            print({key: value for key, value in asdict(results[-1]).items() if key != "kernels"}, file=sys.stderr, flush=True)
    if not SMOKE:
        write(given.core, results)


if __name__ == "__main__":
    main()
