"""QDQ models built by hand, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from mpqc.numerics.interpreter import interpret_all, interpret_op
from mpqc.values.program import Binary, Pool, Program, Quantize, Resize, Table

INT8, UINT8 = TensorProto.INT8, TensorProto.UINT8
_TYPES = {INT8: np.int8, UINT8: np.uint8, TensorProto.INT32: np.int32}


def weight_limit() -> int:
    """Largest |weight code| with which ONNX Runtime's integer kernels are exact on this machine.

    On x86 without VNNI they add pairs of uint8 x int8 products in saturating int16: 2 * 255 * 63 fits, 2 * 255 * 127 does not.
    """
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(encoding="utf-8") if cpu.is_file() else ""
    return 127 if "vnni" in flags or "asimddp" in flags else 63


class Net:
    """Collects nodes and constants of one model; methods return tensor names."""

    def __init__(self, seed: int = 0, opset: int = 17, activation: int = INT8) -> None:
        self.rng, self.opset, self.activation = np.random.default_rng(seed), opset, activation
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[str] = []

    def name(self, hint: str) -> str:
        """A fresh name."""
        return f"{hint}_{len(self.nodes) + len(self.constants)}"

    def constant(self, value: np.ndarray, element: int | None = None, hint: str = "constant") -> str:
        """An initializer."""
        name = self.name(hint)
        tensor = numpy_helper.from_array(value, name)
        if element is not None:
            tensor = helper.make_tensor(name, element, value.shape, value.reshape(-1).tolist())
        self.constants.append(tensor)
        return name

    def input(self, *shape: int, name: str = "x") -> str:
        """A float32 input."""
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str | list[str]:
        """A node."""
        names = [self.name(kind.lower()) for _ in range(1)] if outputs == 1 else [f"{self.name(kind.lower())}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"{names[0]}_node", **attributes))
        return names[0] if outputs == 1 else names

    def qdq(self, x: str, scale: float, zero: int = 0, element: int | None = None) -> str:
        """Q and DQ; `zero` is the zero point of signed codes, shifted for unsigned types."""
        kind = self.activation if element is None else element
        shift = 128 if kind == UINT8 else 0
        scale_name = self.constant(np.float32(scale).reshape(()), hint="scale")
        zero_name = self.constant(np.array(zero + shift), kind, hint="zero")
        codes = self.op("QuantizeLinear", x, scale_name, zero_name)
        return self.op("DequantizeLinear", codes, scale_name, zero_name)

    def weight(self, codes: np.ndarray, scale: np.ndarray, axis: int = 0, element: int = INT8) -> str:
        """DQ of constant codes."""
        shift = 128 if element == UINT8 else 0
        scale = np.asarray(scale, dtype=np.float32)
        stored = self.constant(codes.astype(np.int64) + shift, element, hint="weight")
        zero = self.constant(np.full(scale.shape, shift), element, hint="zero")
        attributes = {"axis": axis} if scale.ndim else {}
        return self.op("DequantizeLinear", stored, self.constant(scale, hint="scale"), zero, **attributes)

    def bias(self, codes: np.ndarray, scale: np.ndarray) -> str:
        """DQ of int32 codes."""
        scale = np.asarray(scale, dtype=np.float32)
        inputs = (
            self.constant(codes.astype(np.int32), hint="bias"),
            self.constant(scale, hint="scale"),
            self.constant(np.zeros(scale.shape, np.int32)),
        )
        return self.op("DequantizeLinear", *inputs, **({"axis": 0} if scale.ndim else {}))

    def random_weight(
        self, *shape: int, channels: bool = True, axis: int = 0, element: int = INT8, limit: int | None = None
    ) -> tuple[str, np.ndarray]:
        """Random weight and its scale."""
        top = limit or weight_limit()
        codes = self.rng.integers(-top, top + 1, shape)
        scale = self.rng.uniform(0.002, 0.01, shape[axis]).astype(np.float32) if channels else np.float32(0.004)
        return self.weight(codes, scale, axis, element), np.asarray(scale)

    def conv(
        self, x: str, x_scale: float, out: int, inside: int, kernel: int = 3, *, channels: bool = True, limit: int | None = None, **window: object
    ) -> str:
        """Conv with random weight and bias."""
        w, scale = self.random_weight(out, inside, kernel, kernel, channels=channels, limit=limit)
        bias_scale = (np.float32(x_scale) * scale).astype(np.float32)
        b = self.bias(self.rng.integers(-3000, 3000, out), np.broadcast_to(bias_scale, bias_scale.shape))
        return self.op("Conv", x, w, b, **window)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The checked model."""
        infos = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.constants)
        ir_version = 13 if self.opset >= 25 else 10
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version)
        inferred = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(inferred)
        return inferred


def session(model: onnx.ModelProto, *, fused: bool = True) -> ort.InferenceSession:
    """One thread; `fused`: with integer kernels for signed activations too, else every node in float as written."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.enable_mem_reuse = False  # planned from shapes of ONNX's inference, which counts a window too many for some pools with ceil_mode
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def optimized_ops(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Op types of the graph that ONNX Runtime really runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def runtime_codes(model: onnx.ModelProto, program: Program, inputs: dict[str, np.ndarray], *, fused: bool = True) -> dict[str, np.ndarray]:
    """Every code tensor of `program` that the file names, in signed codes, and the outputs, as ONNX Runtime computes them."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    elements = {tensor.name: tensor.data_type for tensor in wide.graph.initializer}
    codes: dict[str, int] = {}
    for node in wide.graph.node:
        if node.op_type == "QuantizeLinear" and elements.get(node.input[2]) in (INT8, UINT8):
            codes[node.output[0]] = 128 if elements[node.input[2]] == UINT8 else 0
        elif node.op_type == "Clip" and node.input[0] in codes:
            codes[node.output[0]] = codes[node.input[0]]
    codes = {name: shift for name, shift in codes.items() if name in program.tensors}
    results = [value.name for value in wide.graph.output]
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in codes if name not in results)
    names = [*results, *(name for name in codes if name not in results)]
    found = dict(zip(names, session(wide, fused=fused).run(names, inputs), strict=True))
    return {name: (value.astype(np.int32) - codes[name]).astype(np.int8) if name in codes else value for name, value in found.items()}


def worst_steps(model: onnx.ModelProto, program: Program, inputs: dict[str, np.ndarray], *, fused: bool = True) -> dict[str, int]:
    """Kind of op -> largest difference in steps from ONNX Runtime, every op being given the runtime's own inputs where the file names them."""
    theirs = runtime_codes(model, program, inputs, fused=fused)
    values = {**interpret_all(program, inputs), **theirs}
    worst: dict[str, int] = {}
    for op in program.ops:
        for name, value in interpret_op(program, op, values).items():
            if name in theirs and value.dtype == np.int8:
                kind = type(op).__name__
                worst[kind] = max(worst.get(kind, 0), int(np.abs(value.astype(int) - theirs[name]).max(initial=0)))
            elif name not in theirs:
                values[name] = value
    return worst


EXACT = 0
ONE_STEP = (Binary, Pool, Resize, Table, Quantize)
"""Ops that ONNX Runtime computes in another float order than numerics.py.

Binary: the runtime evaluates a * r_a + b * r_b + (z_y - r_a * z_a - r_b * z_b), perhaps with fused multiply-adds; for |codes| <= 255 and the
same real value both differ by a few float32 roundings, below 2^-12 of a step, so they can only round to neighbours.
Average Pool, linear Resize: sums and blends in float in another order; again far below half a step.
Table, Quantize: exp, tanh, ... may differ in the last bit between the runtime's vector and scalar code; the division by the scale may too.
"""


def assert_within(worst: dict[str, int]) -> None:
    """Every op exact, but those of ONE_STEP within one step."""
    tolerant = {kind.__name__ for kind in ONE_STEP}
    assert {kind: steps for kind, steps in worst.items() if steps > (1 if kind in tolerant else EXACT)} == {}


def inputs_for(program: Program, seed: int = 1, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Normal random inputs."""
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.standard_normal(program.tensors[name].shape)).astype(np.float32) for name in program.inputs}


def reals(*values: float | Sequence[float]) -> np.ndarray:
    """float32 array."""
    return np.array(values, dtype=np.float32)
