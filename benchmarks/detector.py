"""Detectors at 8 bits: of the cells that the float network is sure of, how many the written file keeps, beside ONNX Runtime's quantizer.

python benchmarks/detector.py

`joined` networks have all heads in one output, boxes in pixels beside scores of 0..1, as YOLOX and YOLOv5 have it: made from the others with a Mul
by the stride and Concat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from imagenet import Reader, load_images
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from provenance import SMOKE, WORK, few, shared, write_results
from zoo import photograph

from mpqc.data.batches import open_data
from mpqc.flow.export import Exporting, export_program
from mpqc.frontend import load_network
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.values.plan import uniform_plan

SURE = 0.3
"""Score from which a cell counts"""
OTHERS = 1 if SMOKE else 24
"""Calibration images beside the views of the one that is looked at"""
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Detector:
    """A network, its picture, and the scores [cells, classes] in its outputs."""

    file: str
    picture: str
    size: int
    mean: float
    std: float
    scores: Callable[[Outputs], np.ndarray]
    join: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model


def joined(parts: tuple[tuple[str, ...], ...], scales: tuple[float, ...]) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """Makes one output `joined` [1, cells, values]: for each scale its tensors [1, n, k] side by side (the first times so many pixels), scales one
    after the other."""

    def join(model: onnx.ModelProto) -> onnx.ModelProto:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        names = []
        for index, (tensors, scale) in enumerate(zip(parts, scales, strict=True)):
            made.graph.initializer.append(helper.make_tensor(f"stride{index}", TensorProto.FLOAT, [], [scale]))
            made.graph.node.append(helper.make_node("Mul", [tensors[0], f"stride{index}"], [f"boxes{index}"], f"pixels{index}"))
            made.graph.node.append(helper.make_node("Concat", [f"boxes{index}", *tensors[1:]], [f"scale{index}"], f"join{index}", axis=2))
            names.append(f"scale{index}")
        made.graph.node.append(helper.make_node("Concat", names, ["joined"], "join_scales", axis=1))
        del made.graph.output[:]
        made.graph.output.append(helper.make_tensor_value_info("joined", TensorProto.FLOAT, None))
        return onnx.shape_inference.infer_shapes(made)

    return join


STRIDES = (8, 16, 32)
YUNET = tuple((f"bbox_{s}", f"obj_{s}", f"cls_{s}") for s in STRIDES)


def _nanodet_outputs() -> tuple[list[str], list[str]]:
    """Names of the class scores and of the box distributions, by scale."""
    outputs = onnx.load(shared("onnx/nanodet_m.onnx")).graph.output
    width = {value.name: value.type.tensor_type.shape.dim[-1].dim_value for value in outputs}
    return [name for name, size in width.items() if size == 80], [name for name, size in width.items() if size == 32]


def _yunet(found: Outputs) -> np.ndarray:
    return np.concatenate([(found[obj] * found[cls]).reshape(-1, 1) for _, obj, cls in YUNET])


def _nanodet(found: Outputs) -> np.ndarray:
    return np.concatenate([found[name].reshape(-1, 80) for name in _nanodet_outputs()[0]])


def _fastestdet(found: Outputs) -> np.ndarray:
    cells = next(iter(found.values())).reshape(85, -1).T
    return cells[:, :1] ** 0.6 * cells[:, 5:] ** 0.4


def _detectors() -> dict[str, Detector]:
    classes, boxes = _nanodet_outputs()
    parts = tuple(zip(boxes, classes, strict=True))
    yunet, nanodet = ("grace_hopper.bmp", 320, 0.0, 1.0), ("dog.jpg", 416, 115.0, 58.0)
    return {
        "yunet": Detector("yunet_n_320", *yunet, _yunet),
        "yunet, joined": Detector("yunet_n_320", *yunet, lambda f: f["joined"][0, :, 4:5] * f["joined"][0, :, 5:6], joined(YUNET, STRIDES)),
        "nanodet": Detector("nanodet_m", *nanodet, _nanodet),
        "nanodet, joined": Detector("nanodet_m", *nanodet, lambda f: f["joined"][0, :, 32:], joined(parts, STRIDES)),
        "fastestdet": Detector("fastestdet", "dog.jpg", 352, 0.0, 255.0, _fastestdet),
    }


def pictures(detector: Detector) -> np.ndarray:
    """Eight views of the picture, then OTHERS of other things, NCHW."""
    from PIL import Image

    views = photograph(detector.picture, detector.size, detector.size, detector.mean, detector.std)[:, ::-1]
    pixels = [np.uint8(np.clip(image * 128 + 128, 0, 255)).transpose(1, 2, 0) for image in load_images()[0][:OTHERS]]
    others = [np.asarray(Image.fromarray(image).resize((detector.size, detector.size)), np.float32) for image in pixels]
    stacked = (np.stack(others).transpose(0, 3, 1, 2)[:, ::-1] - detector.mean) / detector.std
    return np.ascontiguousarray(np.concatenate([views, stacked]).astype(np.float32))


def mpqc_file(model: onnx.ModelProto, samples: np.ndarray) -> bytes:
    """The written file with everything at 8 bits."""
    network = load_network(model)
    table, batches = find_sites(network), open_data(samples, network.inputs, limit=len(samples))
    exporting = Exporting(network, table, calibrate(network, table, batches), batches)
    return export_program(exporting, uniform_plan(table, "cortex-a76", 8, 8))[0].SerializeToString()


def peer_file(model: onnx.ModelProto, samples: np.ndarray) -> bytes:
    """What ONNX Runtime's quantizer writes: static, 8 bits, a scale a channel; of the network as mpqc reads it, whose opset has those scales."""
    source, made = WORK / "detector.onnx", WORK / "detector_ort.onnx"
    WORK.mkdir(parents=True, exist_ok=True)
    onnx.save(load_network(model).model, source)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    reader = Reader(model.graph.input[0].name, samples)
    quantize_static(str(source), str(made), reader, quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    return made.read_bytes()


def outputs(model: bytes, sample: np.ndarray) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: sample[None]}), strict=True))


def kept(wanted: np.ndarray, found: np.ndarray) -> tuple[int, int, int]:
    """Cells that the float network is sure of, those of them that keep class and certainty, and cells that only `found` is sure of."""
    sure, still = wanted.max(1) > SURE, found.max(1) > SURE
    same = wanted.argmax(1) == found.argmax(1)
    return int(sure.sum()), int((sure & still & same).sum()), int((~sure & still).sum())


def decibels(wanted: Outputs, found: Outputs) -> float:
    """SQNR over all outputs, each of equal weight: the mean."""
    ratios = [
        np.square(value, dtype=np.float64).sum() / max(np.square(value.astype(np.float64) - found[name]).sum(), 1e-30)
        for name, value in wanted.items()
    ]
    return float(np.mean([10 * np.log10(ratio) for ratio in ratios]))


def figures(detector: Detector, wanted: Outputs, model: bytes, sample: np.ndarray) -> dict[str, object]:
    """The columns of a row; a file that ONNX Runtime refuses keeps nothing."""
    sure = kept(detector.scores(wanted), detector.scores(wanted))[0]
    try:
        found = outputs(model, sample)
    except InvalidGraph:
        return {"cells": sure, "kept": "", "new": "", "SQNR dB": "the file does not open"}
    _, same, new = kept(detector.scores(wanted), detector.scores(found))
    return {"cells": sure, "kept": same, "new": new, "SQNR dB": round(decibels(wanted, found), 1)}


def main() -> None:
    rows: list[dict[str, object]] = []
    for name, detector in few(_detectors().items()):
        model = detector.join(onnx.load(shared(f"onnx/{detector.file}.onnx")))
        samples = pictures(detector)
        wanted = outputs(model.SerializeToString(), samples[0])
        for tool, make in few((("mpqc", mpqc_file), ("ONNX Runtime", peer_file))):
            rows.append({"network": name, "by": tool, **figures(detector, wanted, make(model, samples), samples[0])})
            print(rows[-1], flush=True)
    notes = [
        f"All weights and activations at 8 bits, ranges from the same {8 + OTHERS} images.",
        f"Cells: those with a score above {SURE} in float; kept: of the "
        "same class and above it in the written file, run by ONNX Runtime; new: above it there alone. SQNR: mean over the outputs.",
    ]
    write_results("detector", "Detectors: cells kept at 8 bits", rows, notes)


if __name__ == "__main__":
    main()
