"""MobileNetV1/V2 and ResNet-18/50 at 224x224: time and memory of a whole compile, and modelled time on a Cortex-A76.

    python benchmarks/compile_224.py
    python benchmarks/compile_224.py --no-price resnet18     # without the pricing tool of the shared folder

Random weights (benchmarks/networks.py), w8a8, calibrated on noise. Each compile runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
from networks import NETWORKS, PIXELS, write_onnx
from provenance import PASSED_ON, WORK, write_results

WANTED_MS = {"mobilenet_v1": 20.0, "resnet18": 50.0}
FOLDER = WORK / "224"


def compile_one(name: str) -> dict[str, object]:
    """Compiles one network in this process; seconds, peak memory and sizes."""
    from mpqc.flow.pipeline import compile_network
    from mpqc.values.request import Options
    from mpqc.workspace.progress import Progress

    model = write_onnx(name, FOLDER)
    data = np.random.default_rng(0).standard_normal((8, 3, PIXELS, PIXELS)).astype(np.float32)
    start = time.monotonic()
    compiled = compile_network(model, Options(strategy="uniform", samples=8), data, output=FOLDER / name, progress=Progress())
    seconds = time.monotonic() - start
    uses = {use.resource: use.used for use in compiled.plan.uses}
    return {
        "network": name,
        "compile s": round(seconds, 1),
        "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "model.so MB": round((compiled.output / "model.so").stat().st_size / 2**20, 2),
        "predicted ms": round(uses.get("latency", float("nan")) / 1e3, 2),
    }


def in_own_process(name: str) -> dict[str, object]:
    """`compile_one` in a fresh process, so that its memory is its own."""
    done = subprocess.run([sys.executable, __file__, "--one", name, *PASSED_ON], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--no-price", action="store_true", help="skip the modelled time")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(compile_one(arguments.one)))
        return
    rows = [in_own_process(name) for name in arguments.networks]
    if not arguments.no_price:
        rows = [{**row, **priced(str(row["network"]))} for row in rows]
    for row in rows:
        print(row)
    write_results("compile_224", "Whole compiles at 224x224, w8a8, one Cortex-A76 core at 2.4 GHz", rows)


def priced(name: str) -> dict[str, object]:
    """Modelled milliseconds of the bundle, single thread."""
    from price import price

    milliseconds = price(FOLDER / name / "bundle").ms
    return {"modelled ms": round(milliseconds, 2), "wanted ms": WANTED_MS.get(name, "")}


if __name__ == "__main__":
    main()
