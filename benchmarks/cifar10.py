"""CIFAR-10 ResNet-20: accuracy of the integer programs on all 10,000 test images, and 1,000 of them in the emulator.

    python benchmarks/cifar10.py            # w8a8, then mixed plans at an average of 4 and 3 weight bits
    python benchmarks/cifar10.py --emulate 1000

Calibration and sensitivities use training images; test images are only scored. No training: the weights are those of the file.
"""

from __future__ import annotations

import argparse
import importlib.util

import numpy as np
from provenance import SMOKE, WORK, few, shared, write_results

from mpqc.facts.amounts import parse_average_bits
from mpqc.flow.pipeline import compile_network
from mpqc.flow.results import Compiled
from mpqc.frontend.reference import Reference
from mpqc.runtime import run_emulated
from mpqc.values.request import Options
from mpqc.workspace.progress import Progress

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
CALIBRATION = 8 if SMOKE else 512
PLANS: dict[str, Options] = {
    "w8a8": Options(strategy="uniform", samples=CALIBRATION),
    "w4a8 uniform": Options(strategy="uniform", uniform_bits=(4, 8), samples=CALIBRATION, allow_slower=True),
    "average 4 weight bits": Options(budgets=parse_average_bits("4/-"), samples=CALIBRATION, allow_slower=True),
    "average 3 weight bits": Options(budgets=parse_average_bits("3/-"), samples=CALIBRATION, allow_slower=True),
}


def load_cifar() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibration images (training set), test images, test labels; images normalised float32 NCHW."""
    path = shared("data/cifar10.py")
    spec = importlib.util.spec_from_file_location("cifar10_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    train, _, test, labels = module.load(shared("data/cifar10.npz"))
    chosen = np.random.default_rng(0).permutation(len(train))[:CALIBRATION]
    return normalised(train[chosen]), normalised(test), np.asarray(labels)


def normalised(images: np.ndarray) -> np.ndarray:
    """uint8 images as the network takes them."""
    return ((images.astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)


def percent(logits: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    return 100 * float(np.mean(logits.reshape(len(labels), -1).argmax(1) == labels))


def measure(name: str, compiled: Compiled, test: np.ndarray, labels: np.ndarray, floats: float, emulate: int) -> dict[str, object]:
    """One row of the table."""
    key, output = compiled.program.inputs[0], compiled.program.outputs[0]
    logits = compiled.run({key: test})[output]
    uses = {use.resource: use.used for use in compiled.plan.uses}
    differing: object = "not run"
    if emulate:
        emulated = run_emulated(compiled.output / "bundle", {key: test[:emulate]})[output]
        differing = int(np.sum(emulated != logits[:emulate]))
    accuracy = percent(logits, labels)
    return {
        "plan": name,
        "average weight bits": round(uses["weight_bits"], 3),
        "weight bytes": compiled.report.sizes.plan_bytes,
        "model.so bytes": (compiled.output / "model.so").stat().st_size,
        "float %": round(floats, 2),
        "integer %": round(accuracy, 2),
        "difference": round(accuracy - floats, 2),
        "images": len(labels),
        "emulated images": emulate,
        "logits that differ": differing,
        "predicted ms": round(uses.get("latency", float("nan")) / 1e3, 3),
        "solver": f"{compiled.plan.proof.status}, gap {compiled.plan.proof.gap:.2%}, {compiled.plan.proof.seconds:.2f} s",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--emulate", type=int, default=1000, help="test images run in the emulator for each plan")
    parser.add_argument("--plans", nargs="*", default=list(PLANS), choices=list(PLANS))
    arguments = parser.parse_args()
    calibration, test, labels = load_cifar()
    test, labels, arguments.emulate = test[: 16 if SMOKE else None], labels[: 16 if SMOKE else None], 1 if SMOKE else arguments.emulate
    model = shared("onnx_derived/resnet20_cifar10.onnx")
    rows = []
    floats: float | None = None
    for name in few(arguments.plans):
        folder = WORK / "cifar10" / name.replace(" ", "_")
        compiled = compile_network(model, PLANS[name], calibration, output=folder, progress=Progress())
        floats = percent(float_logits(compiled, test), labels) if floats is None else floats
        rows.append(measure(name, compiled, test, labels, floats, arguments.emulate))
        print(rows[-1])
    write_results(
        "cifar10", "ResNet-20 on CIFAR-10, without training", rows, ["Integer results are those of the interpreter; the emulator repeats them."]
    )


def float_logits(compiled: Compiled, test: np.ndarray) -> np.ndarray:
    """Logits of the float network in ONNX Runtime."""
    network = compiled.analysis.network
    reference, key = Reference(network.model), network.inputs[0].name
    return np.concatenate([reference.run({key: image[None]})[network.outputs[0].name] for image in test])


if __name__ == "__main__":
    main()
