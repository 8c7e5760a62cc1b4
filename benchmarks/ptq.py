"""Without training and labels: accuracy of the written file in ONNX Runtime, by effort, beside ONNX Runtime's own quantizer.

python benchmarks/ptq.py                 # all rows
python benchmarks/ptq.py resnet20        # those whose name has it
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from cifar10_data import load_raw, normalised, training_images
from imagenet import CALIBRATION, Reader, load_images
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from provenance import RESULTS, SMOKE, WORK, few, provenance, shared, write_results

from mpqc.facts.amounts import parse_average_bits
from mpqc.flow.pipeline import compile_network
from mpqc.values.request import Options
from mpqc.workspace.progress import Progress

RESNET, MOBILENET = "onnx_derived/resnet20_cifar10.onnx", "onnx_derived/mobilenet_v2_1.0_224_from_qat.onnx"
IMAGES = 8 if SMOKE else 512
"""CIFAR-10 training images that calibrate"""
BATCH = 50


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with images to calibrate on and others, with their labels, to score."""

    model: str
    calibration: np.ndarray
    images: np.ndarray
    right: Callable[[np.ndarray], np.ndarray]
    """Scores -> for each image whether the first class is its own"""


@cache
def resnet20() -> Subject:
    """CIFAR-10: all test images."""
    raw = load_raw()
    count = BATCH if SMOKE else len(raw.test)
    images, labels = normalised(raw.test[:count]), raw.test_labels[:count]
    return Subject(RESNET, training_images(IMAGES), images, lambda scores: scores.argmax(1) == labels)


@cache
def mobilenet() -> Subject:
    """The first images calibrate, the other 700 are scored."""
    images, labels = load_images()
    return Subject(MOBILENET, images[:CALIBRATION], images[CALIBRATION:], lambda scores: scores[:, 1:].argmax(1) == labels[CALIBRATION:])


@dataclass(frozen=True)
class Row:
    """One figure. `options` None: the float network; a str: ONNX Runtime's quantizer with weights of that type."""

    network: str
    bits: str
    by: str
    options: Options | str | None
    data: bool = True


def _options(effort: str = "fast", **given: object) -> Options:
    return Options(target="abstract", samples=IMAGES, effort=effort, allow_slower=True, **given)  # type: ignore[arg-type]


def rows() -> list[Row]:
    """The table, in its order."""
    uniform = {"strategy": "uniform"}
    found = [
        Row("resnet20", "float", "float", None),
        Row("resnet20", "w8a8", "ONNX Runtime", "QInt8"),
        Row("resnet20", "w4a8", "ONNX Runtime", "QInt4"),
    ]
    for effort in ("fast", "normal"):
        by = f"mpqc --effort {effort}"
        found += [
            Row("resnet20", "w4a8", by, _options(effort, **uniform, uniform_bits=(4, 8))),
            Row("resnet20", "average 3/8", by, _options(effort, budgets=parse_average_bits("3/8"))),
            Row("resnet20", "average 2.5/8", by, _options(effort, budgets=parse_average_bits("2.5/8"))),
            Row("resnet20", "w4a4", by, _options(effort, **uniform, uniform_bits=(4, 4))),
            Row("resnet20", "average 4/4", by, _options(effort, budgets=parse_average_bits("4/4"))),
        ]
    return [
        *found,
        Row("mobilenetv2", "float", "float", None),
        Row("mobilenetv2", "w8a8", "ONNX Runtime", "QInt8"),
        Row("mobilenetv2", "w8a8", "mpqc --effort fast", _options(**uniform)),
        Row("mobilenetv2", "w8a8", "mpqc --range-choice on", _options(**uniform, range_choice="on")),
        Row("mobilenetv2", "w8a8, no data", "mpqc", _options(**uniform), data=False),
        Row("mobilenetv2", "w8a8, no data, --input-range", "mpqc", _options(**uniform, input_range=(-1.0, 1.0)), data=False),
        Row("mobilenetv2", "w4a8", "mpqc --effort fast", _options(**uniform, uniform_bits=(4, 8))),
        Row("mobilenetv2", "average 5/8", "mpqc --effort fast", _options(budgets=parse_average_bits("5/8"))),
        Row("mobilenetv2", "average 4/8", "mpqc --effort fast", _options(budgets=parse_average_bits("4/8"))),
    ]


def written(row: Row, subject: Subject) -> Path:
    """The file that is scored."""
    if row.options is None:
        return Path(shared(subject.model))
    if isinstance(row.options, str):
        return _peer(subject, row.options)
    folder = WORK / "ptq" / "".join(letter if letter.isalnum() else "_" for letter in f"{row.network} {row.bits} {row.by}")
    compile_network(shared(subject.model), row.options, subject.calibration if row.data else None, output=folder, progress=Progress(quiet=True))
    return folder / "model.qdq.onnx"


def _peer(subject: Subject, weights: str) -> Path:
    """ONNX Runtime's static quantizer at its best: after its own preparation, a scale a channel, int8 activations, min-max."""
    source, made = WORK / "ptq_source.onnx", WORK / f"ptq_{weights}.onnx"
    WORK.mkdir(parents=True, exist_ok=True)
    quant_pre_process(str(shared(subject.model)), str(source))
    key = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    kinds = {"activation_type": QuantType.QInt8, "weight_type": getattr(QuantType, weights), "calibrate_method": CalibrationMethod.MinMax}
    quantize_static(str(source), str(made), Reader(key, subject.calibration), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    return made


def scores(path: Path, images: np.ndarray) -> np.ndarray:
    """Outputs of the file in ONNX Runtime, with its default options but one thread and sums that do not saturate.

    On x86 without VNNI its int8 kernels add pairs of products in 16 bits, which clips large ones, unless a session asks for exact sums.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    key = session.get_inputs()[0]
    size = key.shape[0] if isinstance(key.shape[0], int) else BATCH
    return np.concatenate([session.run(None, {key.name: images[at : at + size]})[0] for at in range(0, len(images), size)]).reshape(len(images), -1)


def measured(row: Row) -> dict[str, object]:
    """The row of the table, with the commit that it was measured at."""
    subject = resnet20() if row.network == "resnet20" else mobilenet()
    start = time.process_time()
    path = written(row, subject)
    seconds = time.process_time() - start
    found, floats = subject.right(scores(path, subject.images)), _float_right(row.network)
    facts = provenance()
    named = {"network": row.network, "bits": row.bits, "by": row.by}
    percent, moved = round(100 * float(np.mean(found)), 2), f"+{np.sum(found & ~floats)} -{np.sum(floats & ~found)}"
    origin = {"commit": facts["commit"], "date": facts["date"]}
    return {**named, "top-1 %": percent, "images": len(found), "against float": moved, "CPU seconds": round(seconds), **origin}


@cache
def _float_right(network: str) -> np.ndarray:
    """Which images the float network tells."""
    subject = resnet20() if network == "resnet20" else mobilenet()
    return subject.right(scores(Path(shared(subject.model)), subject.images))


def named(row: dict[str, object]) -> tuple[object, ...]:
    """What tells it from the others."""
    return row["network"], row["bits"], row["by"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("only", nargs="?", default="", help="part of a row's network, bits and tool")
    wanted, kept = parser.parse_args().only, RESULTS / "ptq.json"
    table = {named(row): row for row in json.loads(kept.read_text(encoding="utf-8"))["rows"]} if kept.is_file() and not SMOKE else {}
    for row in few(rows(), 2):
        if wanted in f"{row.network} {row.bits} {row.by}":
            found = measured(row)
            table[named(found)] = found
            print(found, flush=True)
            write([table[place] for place in ((row.network, row.bits, row.by) for row in rows()) if place in table])


def write(table: list[dict[str, object]]) -> None:
    """The results so far; rows that were not measured again are those of an earlier run, with its commit."""
    notes = [
        "Accuracy of the written file in ONNX Runtime. Weight and activation bits, averages over weights and over activations. No labels.",
        f"ResNet-20: {IMAGES} training images calibrate. MobileNetV2: {CALIBRATION} images calibrate, the other 700 are scored.",
        "Against float: images right where the float network is wrong, and the other way; a difference below twice the root of their sum is noise.",
        "Scored with session.x64quantprecision=1: without it ONNX Runtime's kernels for x86 without VNNI saturate (MobileNetV2 w8a8: 1 point less).",
        "ONNX Runtime: quantize_static after quant_pre_process, per channel, min-max; it has no activations below 8 bits.",
    ]
    keys = list(dict.fromkeys(key for row in table for key in row))
    order = [*(key for key in keys if key not in ("CPU seconds", "commit", "date")), "CPU seconds", "commit", "date"]
    write_results("ptq", "Post-training accuracy", [{key: row.get(key, "") for key in order} for row in table], notes)


if __name__ == "__main__":
    main()
