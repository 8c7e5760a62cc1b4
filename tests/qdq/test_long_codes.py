"""Files with activations of 9 to 16 bits are integer programs: what each op becomes, and that it gives what the file says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpqc.numerics.interpreter import interpret
from mpqc.qdq.read.probe import session
from mpqc.qdq.read.program import read_qdq
from mpqc.values.program import Concat, Float, Gemm, MatMul, Pad, Pool, Program, Rescale, Table
from mpqc.values.qtype import QType

INT16, INT8 = TensorProto.INT16, TensorProto.INT8


class File:
    """A QDQ model that grows node by node; tensors are named in order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def constant(self, value: object, dtype: type = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"t{len(self.nodes)}"], name=f"n{len(self.nodes)}", **attributes))
        return self.nodes[-1].output[0]

    def input(self, *shape: int) -> str:
        self.inputs.append(helper.make_tensor_value_info(f"x{len(self.inputs)}", TensorProto.FLOAT, shape))
        return self.inputs[-1].name

    def coded(self, x: str, scale: float = 1e-4, zero: int = 0, dtype: type = np.int16) -> str:
        parameters = self.constant(scale), self.constant(zero, dtype)
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *parameters), *parameters)

    def weight(self, *shape: int, fill: int | None = None) -> str:
        codes = np.random.default_rng(5).integers(-127, 128, shape) if fill is None else np.full(shape, fill)
        return self.node("DequantizeLinear", self.constant(codes, np.int8), self.constant(0.004), self.constant(0, np.int8))

    def model(self, y: str) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "file", self.inputs, [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)], self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return onnx.shape_inference.infer_shapes(made)


def agrees(model: onnx.ModelProto, steps: float = 1.01) -> Program:
    """The program of `model`, once its output is ONNX Runtime's within so many steps of the last codes."""
    program = read_qdq(model)
    rng = np.random.default_rng(0)
    feeds = {name: (rng.standard_normal(program.tensors[name].shape)).astype(np.float32) for name in program.inputs}
    expected = session(model.SerializeToString()).run(None, feeds)[0]
    q = program.tensors[program.ops[-1].inputs[0]].qparams
    assert q is not None
    assert np.abs(interpret(program, feeds)[program.outputs[0]] - expected).max() <= steps * float(q.scale)
    return program


def kinds(program: Program) -> list[str]:
    return [type(op).__name__ for op in program.ops]


Build = Callable[[File, str], str]


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (lambda f, x: f.node("Relu", x), ["Quantize", "Rescale", "Dequantize"]),
        (lambda f, x: f.node("Mul", x, f.constant(0.7)), ["Quantize", "Rescale", "Dequantize"]),
        (lambda f, x: f.node("Add", f.node("Neg", x), f.constant(0.3)), ["Quantize", "Rescale", "Dequantize"]),
        (lambda f, x: f.node("Tanh", x), ["Quantize", "Table", "Dequantize"]),
        (lambda f, x: f.node("Concat", x, f.coded(x, 2e-4, 5), axis=1), ["Quantize", *["Rescale"] * 3, "Concat", "Dequantize"]),
        (lambda f, x: f.node("Pad", x, f.constant([0, 1, 0, 2], np.int64)), ["Quantize", "Rescale", "Pad", "Dequantize"]),
        (lambda f, x: f.node("MatMul", x, f.weight(8, 5)), ["Quantize", "Gemm", "Dequantize"]),
        (lambda f, x: f.node("MatMul", x, f.node("Transpose", x)), ["Quantize", "Move", "MatMul", "Dequantize"]),
    ],
)
def test_what_ops_become(between: Build, expected: Sequence[str]) -> None:
    file = File()
    x = file.coded(file.input(4, 8))
    program = agrees(file.model(file.coded(between(file, x), 3e-4, -7)))
    assert sorted(kinds(program)) == sorted(expected)


def test_widths_meet_in_rescale() -> None:
    """8 bits to 16 and back, by a step that is neither table nor float."""
    file = File()
    narrow = file.coded(file.input(3, 4), 0.02, 3, np.int8)
    wide = file.coded(narrow, 1e-4, 100)
    program = agrees(file.model(file.coded(wide, 0.03, -3, np.int8)))
    assert [op for op in program.ops if isinstance(op, Rescale)]
    assert not [op for op in program.ops if isinstance(op, (Float, Table))]


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_a_clip_before_makes_codes_of_fewer_bits(bits: int) -> None:
    """Runtimes have no Clip of int16 codes: files limit the real values."""
    file, q, scale = File(), QType(bits), 0.01
    limited = file.node("Clip", file.input(5, 6), file.constant(q.qmin * scale), file.constant(q.qmax * scale))
    program = agrees(file.model(file.coded(file.node("Sigmoid", file.coded(limited, scale)), 1e-4)))
    assert kinds(program) == ["Quantize", "Table", "Dequantize"]
    table = next(op for op in program.ops if isinstance(op, Table))
    assert table.table.shape == (1 << bits,)
    assert program.tensors[table.inputs[0]].qparams.qtype == q  # type: ignore[union-attr]


def test_sums_beyond_int32_are_exact() -> None:
    file = File()
    x = file.coded(file.input(2, 6000), 3e-4, -32768)
    program = agrees(file.model(file.coded(file.node("MatMul", x, file.weight(6000, 3, fill=127)), 0.05)))
    assert next(op for op in program.ops if isinstance(op, Gemm)).bias.dtype == np.int64


def test_long_windows_and_slopes_stay_float_by_name() -> None:
    file = File()
    x = file.coded(file.input(1, 1, 200, 200))
    program = read_qdq(file.model(file.coded(file.node("GlobalAveragePool", x))))
    assert "more than 32767 codes" in next(op for op in program.ops if isinstance(op, Float)).reason
    file = File()
    x = file.coded(file.input(1, 3, 4, 4))
    program = read_qdq(file.model(file.coded(file.node("PRelu", x, file.constant(np.ones((3, 1, 1)))))))
    assert "slope for each channel" in next(op for op in program.ops if isinstance(op, Float)).reason
    assert not [op for op in program.ops if isinstance(op, (Pool, Pad, MatMul, Concat))]
