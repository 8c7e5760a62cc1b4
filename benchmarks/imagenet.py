"""MobileNetV2 on 800 ImageNet images: float, ONNX Runtime's own static quantization and mpqc, calibrated on the same 100 images.

python benchmarks/imagenet.py --emulate 100
"""

from __future__ import annotations

import argparse
import io
import tarfile
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from PIL import Image
from provenance import SMOKE, WORK, few, shared, write_results

from mpqc.facts.amounts import parse_average_bits, parse_budget
from mpqc.flow.pipeline import compile_network
from mpqc.flow.results import Compiled
from mpqc.lowering import build, lower
from mpqc.numerics.interpreter import Interpreter
from mpqc.runtime import run_emulated, write_bundle
from mpqc.targets import load_target
from mpqc.values.budget import Resource
from mpqc.values.program import Float
from mpqc.values.request import Options
from mpqc.workspace.progress import Progress

SIZE = 224
CALIBRATION = 100
PLANS: dict[str, Options] = {
    "w8a8": Options(strategy="uniform", samples=CALIBRATION),
    "weights in 2.5 MB": Options(budgets=(parse_budget(Resource.SIZE, "2.5MB"),), samples=CALIBRATION, allow_slower=True),
    "average 4 weight bits": Options(budgets=parse_average_bits("4/-"), samples=CALIBRATION, allow_slower=True),
}


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """800 images [n, 3, 224, 224] in [-1, 1] (centre crop) and their classes 0..999."""
    with tarfile.open(shared("data/imagenet_val800_227.tar")) as archive:
        members = {member.name: member for member in archive.getmembers() if member.isfile()}
        listing = next(name for name in members if name.endswith("labels.txt"))
        text = archive.extractfile(members[listing])
        assert text is not None
        lines = [line.replace(",", " ").split() for line in text.read().decode().splitlines() if line.strip()]
        folder = listing.removesuffix("labels.txt")
        images = [_image(archive, members, folder, name) for name, _ in few(lines, 2)]
    return np.stack(images), np.array([int(label) for _, label in few(lines, 2)])


def _image(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], folder: str, name: str) -> np.ndarray:
    found = next(path for path in members if path.endswith("/" + name) or path == folder + name)
    file = archive.extractfile(members[found])
    assert file is not None
    image = Image.open(io.BytesIO(file.read())).convert("RGB")
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), np.float32)
    return ((pixels.transpose(2, 0, 1) - 128) / 128).astype(np.float32)


def percent(scores: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 accuracy in percent; the network has a background class before the 1000."""
    return 100 * float(np.mean(scores.reshape(len(labels), -1)[:, 1:].argmax(1) == labels))


def session_scores(path: str, images: np.ndarray) -> np.ndarray:
    """Outputs of an ONNX file in ONNX Runtime, image by image; sums do not saturate on x86 without VNNI either."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    key = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {key: image[None]})[0] for image in images])


class Reader(CalibrationDataReader):
    """The calibration images, one by one."""

    def __init__(self, key: str, images: np.ndarray) -> None:
        self._items = iter([{key: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._items, None)


def quantize_with_onnxruntime(model: str, images: np.ndarray, per_channel: bool) -> str:
    """Writes ONNX Runtime's own QDQ file and returns its path."""
    path = str(WORK / f"mobilenet_v2_ort_{'channel' if per_channel else 'tensor'}.onnx")
    key = onnx.load(model).graph.input[0].name
    options = {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    quantize_static(model, path, Reader(key, images), per_channel=per_channel, calibrate_method=CalibrationMethod.MinMax, **options)
    return path


def row(name: str, scores: np.ndarray, labels: np.ndarray, floats: float) -> dict[str, object]:
    """The columns that every method has."""
    accuracy = percent(scores, labels)
    return {"what": name, "top-1 %": round(accuracy, 2), "minus float": round(accuracy - floats, 2), "images": len(labels)}


def mpqc_row(name: str, compiled: Compiled, images: np.ndarray, labels: np.ndarray, floats: float, emulate: int) -> dict[str, object]:
    """A row of mpqc's, with the emulator's answer on the first `emulate` images."""
    key, output = compiled.program.inputs[0], compiled.program.outputs[0]
    scores = compiled.run({key: images})[output]
    emulated = run_emulated(compiled.output / "bundle", {key: images[:emulate]})[output]
    return {
        **row(name, scores, labels, floats),
        "emulated": emulate,
        "int8 logits that differ": differing_codes(compiled, images[:emulate]),
        "largest difference after Softmax": float(np.abs(emulated - scores[:emulate]).max()),
        "weight bytes": compiled.report.sizes.plan_bytes,
    }


def differing_codes(compiled: Compiled, images: np.ndarray) -> int:
    """How many codes of the last integer tensor, before the float Softmax, differ between emulator and interpreter."""
    tail = next(op for op in compiled.program.ops if isinstance(op, Float))
    last = next(op.inputs[0] for op in compiled.program.ops if tail.inputs[0] in op.outputs)
    integer = replace(compiled.program, outputs=(last,), ops=tuple(op for op in compiled.program.ops if op is not tail))
    folder = compiled.output / "integer_part"
    folder.mkdir(exist_ok=True)
    lowered = lower(integer, load_target("cortex-a76"))
    bundle = write_bundle(folder / "bundle", lowered, build(lowered, folder / "model.so"))
    key = integer.inputs[0]
    return int(np.sum(run_emulated(bundle, {key: images})[last] != Interpreter(integer).run({key: images})[last]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--emulate", type=int, default=100)
    parser.add_argument("--plans", nargs="*", default=list(PLANS), choices=list(PLANS))
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    images, labels = load_images()
    images, labels, plans = images[: 2 if SMOKE else None], labels[: 2 if SMOKE else None], arguments.plans
    calibration = images[np.random.default_rng(0).permutation(len(images))[:CALIBRATION]]
    model = str(shared("onnx_derived/mobilenet_v2_1.0_224_from_qat.onnx"))
    floats = percent(scores := session_scores(model, images), labels)
    blank: dict[str, object] = {"emulated": 0, "int8 logits that differ": "", "largest difference after Softmax": "", "weight bytes": ""}
    rows = [{**row("float, ONNX Runtime", scores, labels, floats), **blank}]
    for per_channel in few((False, True)):
        path = quantize_with_onnxruntime(model, calibration, per_channel)
        name = f"ONNX Runtime quantize_static, per {'channel' if per_channel else 'tensor'}"
        rows.append({**row(name, session_scores(path, images), labels, floats), **blank})
    for name in few(plans, 0):
        folder = WORK / "imagenet" / name.replace(" ", "_")
        compiled = compile_network(model, PLANS[name], calibration, output=folder, progress=Progress())
        rows.append(mpqc_row(f"mpqc {name}", compiled, images, labels, floats, arguments.emulate))
        print(rows[-1])
    notes = ["100 of the 800 images calibrate, the same for all rows; accuracy is over all 800, as in the published figure."]
    write_results("imagenet", "MobileNetV2 1.0 224, 800 ImageNet validation images", rows, notes)


if __name__ == "__main__":
    main()
