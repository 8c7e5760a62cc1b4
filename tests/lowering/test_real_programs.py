"""Published networks, quantized by ONNX Runtime on noise: every tensor of the compiled program is the interpreter's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from programs import noise

from mpqc.lowering import build, lower
from mpqc.lowering.movement import compose_moves
from mpqc.numerics.interpreter import Interpreter
from mpqc.qdq.read.program import read_qdq
from mpqc.runtime import run_emulated, run_host, write_bundle
from mpqc.targets import load_target
from mpqc.values.program import Program

FAST = ("onnx_derived/resnet20_cifar10.onnx", "onnx_derived/mlperf_dscnn_kws.onnx")
SLOW = (
    "onnx_derived/mobilenet_v2_1.0_224_from_qat.onnx",
    "onnx/ultraface_rfb_320_simplified.onnx",
    "onnx/yunet_n_320.onnx",
    "onnx/espcn_nnresize_float.onnx",
    "onnx/fastestdet.onnx",
    "onnx/dnsmos_model_v8.onnx",
)
NETWORKS = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


class Noise(CalibrationDataReader):
    """Four samples for every input."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        random = np.random.default_rng(0)
        shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.input}
        samples = [{name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(4)]
        self.samples: Iterator[dict[str, np.ndarray]] = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.samples, None)


def quantized(path: Path, folder: Path) -> Program:
    """The integer program of the float network at `path`, per channel, at batch 1."""
    model = onnx.load(path)
    constants = {value.name for value in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in constants]:
        model.graph.input.remove(value)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_value = dim.dim_value or 1
    if model.opset_import[0].version < 13:
        model = onnx.version_converter.convert_version(model, 13)
    onnx.save(model, folder / "float.onnx")
    quant_pre_process(folder / "float.onnx", folder / "ready.onnx", skip_symbolic_shape=True)
    reader = Noise(onnx.load(folder / "ready.onnx").graph)
    options = {"quant_format": QuantFormat.QDQ, "per_channel": True, "activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
    quantize_static(folder / "ready.onnx", folder / "qdq.onnx", reader, **options)
    return read_qdq(folder / "qdq.onnx")


def differing(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference by tensor, where there is one: any for codes, above 1e-4 for floats."""
    largest = {name: float(np.abs(outputs[name].astype(np.float64) - values).max()) for name, values in expected.items()}
    return {name: value for name, value in largest.items() if value > (1e-4 if expected[name].dtype == np.float32 else 0)}


@pytest.mark.emulator
@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_is_the_interpreters(name: str, shared: Callable[[str], Path], tmp_path: Path) -> None:
    program = quantized(shared(name), tmp_path)
    inputs = noise(program)
    lowered = lower(program, load_target("cortex-a76"))
    bundle = write_bundle(tmp_path / "bundle", lowered, build(lowered, tmp_path / "model.so"))
    assert differing(run_emulated(bundle, inputs), Interpreter(program).run(inputs)) == {}
    program = compose_moves(program)
    inside = replace(program, outputs=tuple(tensor for op in program.ops for tensor in op.outputs))
    module = build(lower(inside, load_target("host")), tmp_path / "host.so")
    assert differing(run_host(module, inputs), Interpreter(inside).run(inputs)) == {}
