"""QDQ files made by ONNX Runtime's quantizer, compiled with `mpqc lower`: each op against ONNX Runtime, the emulator against the interpreter.

    python benchmarks/ort_qdq.py

Every op is given ONNX Runtime's own inputs; `steps` is the largest difference of its codes. Convolutions and matrix products must be exact.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from provenance import REPO, SMOKE, WORK, few, shared, write_results

from mpqc.flow.artifacts import lower_file
from mpqc.numerics.interpreter import Interpreter
from mpqc.qdq.read.program import read_qdq
from mpqc.runtime import run_emulated

sys.path[:0] = [str(REPO / "tests"), str(REPO / "benchmarks")]
from imagenet import Reader, load_images
from qdq_nets import worst_steps
from zoo import photograph

SAMPLES = 1 if SMOKE else 8


@dataclass(frozen=True)
class Case:
    """One network with one setting of quantize_static."""

    name: str
    file: str
    activation: QuantType
    per_channel: bool


CASES = tuple(
    Case(name, file, activation, per_channel)
    for name, file in (
        ("resnet20", "onnx_derived/resnet20_cifar10.onnx"),
        ("mobilenet_v2", "onnx_derived/mobilenet_v2_1.0_224_from_qat.onnx"),
        ("yunet", "onnx/yunet_n_320.onnx"),
    )
    for activation, per_channel in ((QuantType.QInt8, True), (QuantType.QInt8, False), (QuantType.QUInt8, True))
)


def samples_of(name: str) -> np.ndarray:
    """Real inputs of the network."""
    if name == "resnet20":
        from cifar10 import load_cifar

        return load_cifar()[1][:SAMPLES]
    return load_images()[0][:SAMPLES] if name == "mobilenet_v2" else photograph("grace_hopper.bmp", 320, 320, 0, 1)[:, ::-1].copy()


def quantized(case: Case, samples: np.ndarray) -> Path:
    """Path of the file that quantize_static makes, at batch 1 and opset 13 or newer."""
    folder = WORK / "ort_qdq"
    folder.mkdir(parents=True, exist_ok=True)
    model = onnx.load(shared(case.file))
    for value in (*model.graph.input, *model.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            dimension.dim_value = dimension.dim_value or 1
    if model.opset_import[0].version < 13:
        model = onnx.version_converter.convert_version(model, 13)
    onnx.save(model, folder / "float.onnx")
    quant_pre_process(folder / "float.onnx", folder / "ready.onnx", skip_symbolic_shape=True)
    path = folder / f"{case.name}_{case.activation}_{'channel' if case.per_channel else 'tensor'}.onnx"
    options = {"quant_format": QuantFormat.QDQ, "activation_type": case.activation, "weight_type": QuantType.QInt8}
    quantize_static(folder / "ready.onnx", path, Reader(model.graph.input[0].name, samples), per_channel=case.per_channel, **options)
    return path


def measure(case: Case) -> dict[str, object]:
    """One row."""
    samples = samples_of(case.name)
    path = quantized(case, samples)
    output = WORK / "ort_qdq" / "out"
    summary = lower_file(path, "cortex-a76", output, shapes={}, force=True)
    model, program = onnx.load(path), read_qdq(path)
    key = program.inputs[0]
    worst: dict[str, int] = {}
    for sample in samples:
        for kind, steps in worst_steps(model, program, {key: sample[None]}).items():
            worst[kind] = max(steps, worst.get(kind, 0))
    emulated, expected = run_emulated(output / "bundle", {key: samples}), Interpreter(program).run({key: samples})
    same = all(np.array_equal(emulated[name], expected[name]) for name in expected)
    exact = {kind: steps for kind, steps in worst.items() if kind in ("Conv", "Gemm")}
    return {
        "network": case.name,
        "activations": str(case.activation),
        "weights": "per channel" if case.per_channel else "per tensor",
        "integer ops": summary["integer_ops"],
        "float": ", ".join(row["ops"] for row in summary["floats"]) or "nothing",
        "steps, conv and matmul": exact,
        "steps, the rest": {kind: steps for kind, steps in worst.items() if kind not in exact},
        "emulator": "equal" if same else "differs",
        "samples": len(samples),
    }


def main() -> None:
    rows = [measure(case) for case in few(CASES)]
    for row in rows:
        print(row)
    write_results("ort_qdq", "QDQ files of ONNX Runtime's quantizer, compiled by mpqc", rows)


if __name__ == "__main__":
    main()
