"""Whether a change of the code leaves what a compile writes alone: four networks before and after, byte for byte.

    git worktree add ../before REVISION
    python benchmarks/same_bytes.py build/before --source ../before
    python benchmarks/same_bytes.py build/after --against build/before

The networks: the demo's, ResNet-20 at an average of 4 weight bits, YuNet without data, and the QDQ file of the second through `lower`.
plan.json is compared without the solver's seconds, model.qdq.onnx without the notes that PyTorch's exporter puts on each node (paths of
source files). Exits with 1 where a file differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from cifar10_data import training_images
from provenance import REPO, shared

FILES = ("plan.json", "model.qdq.onnx", "model.so")
SAMPLES = 64


def commands(folder: Path) -> dict[str, list[str]]:
    """Name of each network -> the command line that makes it; later ones read what earlier ones wrote."""
    data = folder / "cifar.npy"
    np.save(data, training_images(SAMPLES))
    resnet = ["compile", str(shared("onnx_derived/resnet20_cifar10.onnx")), "--data", str(data), "--budget-avg-bits", "4/-", "--allow-slower"]
    yunet = ["compile", str(shared("onnx/yunet_n_320.onnx")), "--budget-avg-bits", "6/8", "--input-range", "0,255", "--allow-slower"]
    return {
        "demo": ["demo", "-o", str(folder / "demo")],
        "resnet20": [*resnet, "-o", str(folder / "resnet20" / "out")],
        "yunet": [*yunet, "-o", str(folder / "yunet" / "out")],
        "lower": ["lower", str(folder / "resnet20" / "out" / "model.qdq.onnx"), "-o", str(folder / "lower" / "out")],
    }


def digests(folder: Path) -> dict[str, str]:
    """File -> SHA-256 of what the networks under `folder` consist of."""
    found = {}
    for name in ("demo", "resnet20", "yunet", "lower"):
        for file in FILES:
            path = folder / name / "out" / file
            if path.is_file():
                found[f"{name}/{file}"] = hashlib.sha256(_content(path)).hexdigest()
    return found


def _content(path: Path) -> bytes:
    if path.suffix == ".onnx":
        return _without_notes(path)
    if path.name != "plan.json":
        return path.read_bytes()
    plan = json.loads(path.read_text(encoding="utf-8"))
    plan["proof"].pop("seconds", None)  # older ones have it
    return json.dumps(plan).encode()


def _without_notes(path: Path) -> bytes:
    model = onnx.load(path)
    for item in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        item.ClearField("metadata_props")
    return bytes(model.SerializeToString(deterministic=True))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, default=REPO, help="checkout whose mpqc runs")
    parser.add_argument("--against", type=Path, help="folder of an earlier run")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(asked.source.resolve()), "OMP_NUM_THREADS": "1"}
    for name, command in commands(asked.folder.resolve()).items():
        print(f"{name}: mpqc {' '.join(command)}", flush=True)
        subprocess.run([sys.executable, "-m", "mpqc", *command], env=environment, cwd=asked.folder, check=True, stdout=subprocess.DEVNULL)
    made, known = digests(asked.folder), digests(asked.against) if asked.against else {}
    for file, digest in made.items():
        print(f"{file}: {digest[:16]} {'' if not known else 'equal' if known.get(file) == digest else 'DIFFERS'}")
    return int(bool(known) and made != known)


if __name__ == "__main__":
    sys.exit(main())
