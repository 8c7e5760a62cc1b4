"""How far the cost model's prediction for whole compiled networks is from their bundles' price under a76time.

    python benchmarks/cost_check.py                          # all of them, about ten minutes
    python benchmarks/cost_check.py resnet20_cifar10 --bits 4

Predicted: the cost model. Priced: the whole bundle (runner, TVM runtime, kernels), warm, one core at 2.4 GHz.
"""

from __future__ import annotations

import argparse
from statistics import mean

from cost_pricing import pricer
from provenance import WORK, shared, write_results

from mpqc.pipeline import Options, compile_network
from mpqc.progress import Progress
from mpqc.targets import load_target

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
        ),
        "onnx": ("ultraface_rfb_320_simplified", "yunet_n_320", "mnist_cntk", "espcn_nnresize_float", "fastestdet", "dnsmos_model_v8"),
    }.items()
    for name in names
}


def check(name: str, bits: int) -> dict[str, object]:
    """Compiles one network with all weights at `bits` and prices its bundle."""
    folder = WORK / "cost" / f"{name}_w{bits}"
    options = Options(strategy="uniform", uniform_bits=(bits, 8), samples=8, allow_slower=True)
    compiled = compile_network(shared(NETWORKS[name]), options, output=folder, progress=Progress(quiet=True))
    predicted = compiled.report.latency_us
    assert predicted is not None
    priced = pricer().bundle(folder / "bundle") / (load_target("cortex-a76").clock_hz or 1) * 1e6
    floats = ", ".join(row.ops for row in compiled.report.floats) or "nothing"
    return {
        "network": name,
        "weights": bits,
        "predicted us": predicted,
        "priced us": priced,
        "difference %": 100 * (predicted / priced - 1),
        "float": floats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", help=", ".join(NETWORKS))
    parser.add_argument("--bits", type=int, nargs="*", default=[8], choices=[2, 4, 8])
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks or NETWORKS:
        for bits in arguments.bits:
            rows.append(check(name, bits))
            print(rows[-1], flush=True)
    absolute = [abs(float(str(row["difference %"]))) for row in rows]
    notes = [
        f"Mean absolute difference {mean(absolute):.1f} %, worst {max(absolute):.1f} %. Float stretches are in the price and not in the prediction."
    ]
    write_results("cost_model", "The cost model against whole compiled networks", rows, notes)


if __name__ == "__main__":
    main()
