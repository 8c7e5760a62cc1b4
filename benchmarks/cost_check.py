"""How far the cost model's prediction for whole compiled networks is from their bundles' price under a76time.

    python benchmarks/cost_check.py                          # all of them, about ten minutes
    python benchmarks/cost_check.py resnet20_cifar10 --bits 4
    python benchmarks/cost_check.py --again                  # predicts anew, with the compiles and prices of an earlier run

Predicted: the cost model. Priced: the whole bundle (runner, kernels), warm, one core at 2.4 GHz. The four networks at 224x224 are those of
benchmarks/bench_a76.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

from bench_a76 import predicted_us
from cost_pricing import pricer
from provenance import RESULTS, SMOKE, WORK, shared, write_results

from mpqc.flow.pipeline import compile_network
from mpqc.targets import load_target
from mpqc.values.request import Options
from mpqc.workspace.progress import Progress

NETWORKS = {
    name: f"{folder}/{name}.onnx"
    for folder, names in {
        "onnx_derived": (
            "resnet20_cifar10",
            "mobilenet_v2_1.0_224_from_qat",
            "mlperf_ad_autoencoder",
            "mlperf_dscnn_kws",
            "mlperf_mobilenet_v1_025_vww",
            "mlperf_resnet8_cifar10",
            "kwt1_speech_commands12",
        ),
        "onnx": (
            "ultraface_rfb_320_simplified",
            "yunet_n_320",
            "mnist_cntk",
            "espcn_nnresize_float",
            "fastestdet",
            "dnsmos_model_v8",
            "nanodet_m",
            "basic_pitch",
            "ultraface_rfb_320",
        ),
    }.items()
    for name in names
}


def check(name: str, bits: int, again: bool) -> dict[str, object]:
    """Compiles one network with all weights at `bits` and prices its bundle."""
    folder = WORK / "cost" / f"{name}_w{bits}"
    kept = folder / "price.json"
    if not again or not kept.is_file():
        kept.write_text(json.dumps(price(name, bits, folder)), encoding="utf-8")
    found = json.loads(kept.read_text(encoding="utf-8"))
    return row(name, bits, predicted_us(folder), found["us"], found["float"])


def price(name: str, bits: int, folder: Path) -> dict[str, object]:
    """Microseconds of the bundle, and what runs as float in it."""
    options = Options(strategy="uniform", uniform_bits=(bits, 8), samples=8, allow_slower=True)
    compiled = compile_network(shared(NETWORKS[name]), options, output=folder, progress=Progress(quiet=True))
    microseconds = pricer().bundle(folder / "bundle") / (load_target("cortex-a76").clock_hz or 1) * 1e6
    return {"us": microseconds, "float": ", ".join(row.ops for row in compiled.report.floats) or "nothing"}


def row(name: str, bits: int, predicted: float, priced: float, floats: str) -> dict[str, object]:
    """One line of the table."""
    difference = 100 * (predicted / priced - 1)
    return {"network": name, "weights": bits, "predicted us": predicted, "priced us": priced, "difference %": difference, "float": floats}


def large() -> list[dict[str, object]]:
    """The networks that benchmarks/bench_a76.py compiled and priced."""
    path = RESULTS / "a76.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return [row(one["network"], int(one["qtypes"][1]), 1e3 * one["predicted_ms"], 1e3 * one["modelled_ms"], "nothing") for one in entries]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--bits", type=int, nargs="*", default=[8], choices=[2, 4, 8])
    parser.add_argument("--again", action="store_true", help="predict anew, with the compiles and prices of an earlier run")
    arguments = parser.parse_args()
    arguments.networks = ["mnist_cntk"] if SMOKE else arguments.networks
    rows = [] if arguments.networks else large()
    for name in arguments.networks or NETWORKS:
        for bits in arguments.bits:
            rows.append(check(name, bits, arguments.again))
            print(rows[-1], flush=True)
    absolute = [abs(float(str(row["difference %"]))) for row in rows]
    notes = [f"Mean absolute difference {mean(absolute):.1f} %, worst {max(absolute):.1f} %. Both hold float stretches whose operators have a price."]
    write_results("cost_model", "The cost model against whole compiled networks", rows, notes)


if __name__ == "__main__":
    main()
