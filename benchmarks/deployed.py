"""A plan of benchmarks/accuracy.py on the chip: its QDQ file lowered for cortex-a76, test images in the emulator against the interpreter.

    python benchmarks/deployed.py benchmarks/work/accuracy/resnet20_weights_70_kb__largest_activation_8_kb_auto_0_4000_10000

The plan is made for the target `packed`, which packs every width; the chip stores each width in its own container and computes the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from cifar10_data import load_raw, normalised
from price import price
from provenance import WORK, write_results

from mpqc.flow.artifacts import lower_file
from mpqc.numerics.interpreter import Interpreter
from mpqc.qdq.read.program import read_qdq
from mpqc.runtime import run_emulated


def check(folder: Path, images: int, target: str) -> dict[str, object]:
    """One row: accuracy of both, and how many logits differ."""
    data, output = load_raw(), WORK / "deployed" / folder.name
    lower_file(folder / "model.qdq.onnx", target, output, shapes={}, force=True)
    program = read_qdq(folder / "model.qdq.onnx")
    test, labels = normalised(data.test[:images]), data.test_labels[:images]
    key, name = program.inputs[0], program.outputs[0]
    expected = Interpreter(program).run({key: test})[name]
    emulated = run_emulated(output / "bundle", {key: test})[name]
    percent = {kind: 100 * float(np.mean(found.argmax(1) == labels)) for kind, found in (("interpreter", expected), ("emulator", emulated))}
    facts = {f"{kind} %": value for kind, value in percent.items()}
    return {
        "plan": folder.name,
        "images": images,
        **facts,
        "logits that differ": int(np.sum(expected != emulated)),
        "modelled ms": price(output / "bundle").ms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", help="output folders of benchmarks/accuracy.py")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--target", default="cortex-a76")
    arguments = parser.parse_args()
    rows = [check(folder, arguments.images, arguments.target) for folder in arguments.folders]
    for row in rows:
        print(row)
    write_results("deployed", "Trained plans on the chip", rows, ["Images are the first of the test set."])


if __name__ == "__main__":
    main()
