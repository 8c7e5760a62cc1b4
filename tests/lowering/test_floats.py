"""Float stretches: every kernel of floats/ within a float tolerance of ONNX Runtime, over awkward sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tvm import s_tir

from mpqc.lowering import build, lower
from mpqc.lowering.floats import schedule
from mpqc.lowering.lowered import Lowered
from mpqc.numerics.interpreter import Interpreter
from mpqc.runtime import run_emulated, run_host, write_bundle
from mpqc.targets import load_target
from mpqc.values.program import Float, Program, Tensor

RNG = np.random.default_rng(3)
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
"""float32 sums in another order, and an exp within two units in the last place"""


@dataclass(frozen=True, eq=False)
class Node:
    """One float node with random inputs and constants of given shapes."""

    kind: str
    inputs: tuple[tuple[int, ...], ...]
    constants: tuple[np.ndarray, ...] = ()
    attributes: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind} {self.inputs} {[c.shape for c in self.constants]}"


def real(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def conv(x: tuple[int, ...], outputs: int, kernel: tuple[int, ...], groups: int = 1, **attributes: object) -> Node:
    return Node("Conv", (x,), (real(outputs, x[1] // groups, *kernel), real(outputs)), {"group": groups, **attributes})


def axes(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


NODES = [
    Node("MatMul", ((3, 17, 31), (3, 31, 9))),
    Node("MatMul", ((2, 3, 1, 33), (3, 33, 47))),
    Node("MatMul", ((130, 7), (7, 3))),
    Node("MatMul", ((2, 1, 70, 15), (4, 15, 8))),
    Node("MatMul", ((1, 64), (64, 100))),
    Node("Gemm", ((5, 16),), (real(33, 16), real(33)), {"transB": 1}),
    conv((1, 3, 17, 19), 9, (3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    conv((2, 8, 7, 7), 17, (1, 1)),
    conv((1, 16, 15, 33), 16, (3, 3), 16, pads=[1, 1, 1, 1]),
    conv((1, 12, 9, 9), 24, (3, 2), 3, pads=[0, 1, 2, 1], dilations=[2, 1]),
    conv((1, 8, 31, 31), 8, (5, 5), 8, pads=[2, 2, 2, 2], strides=[2, 2]),
    conv((2, 5, 41), 70, (4,), pads=[2, 1], strides=[3]),
    conv((1, 4, 3, 3), 3, (3, 3)),
    Node("ConvTranspose", ((1, 5, 7, 9),), (real(5, 3, 2, 2), real(3)), {"strides": [2, 2]}),
    Node("ConvTranspose", ((1, 6, 5, 4),), (real(6, 4, 3, 3),), {"strides": [2, 1], "pads": [1, 1, 1, 1], "group": 2, "output_padding": [1, 0]}),
    Node("Softmax", ((3, 5, 49),), (), {"axis": -1}),
    Node("Softmax", ((2, 3),), (), {"axis": -1}),
    Node("Softmax", ((2, 7, 5),), (), {"axis": 1}),
    Node("LayerNormalization", ((2, 7, 65),), (real(65), real(65))),
    Node("LayerNormalization", ((2, 7, 3, 15),), (real(3, 15), real(3, 15)), {"axis": 2}),
    Node("ReduceMean", ((2, 7, 33),), (), {"axes": [1], "keepdims": 1}),
    Node("ReduceMean", ((1, 9, 5, 7),), (), {"axes": [2, 3], "keepdims": 0}),
    Node("ReduceMax", ((2, 5, 31),), (), {"axes": [-1]}),
    Node("ReduceMin", ((4, 5, 6),), (), {"axes": [0, 2]}),
    Node("ReduceSum", ((3, 4, 9),), (axes(0, 1),)),
    Node("GRU", ((12, 1, 7),), (real(1, 15, 7), real(1, 15, 5), real(1, 30)), {"hidden_size": 5}),
    Node("LSTM", ((9, 2, 6),), (real(2, 16, 6), real(2, 16, 4), real(2, 32)), {"hidden_size": 4, "direction": "bidirectional"}),
    Node("Exp", ((3, 37),)),
    Node("Sigmoid", ((3, 37),)),
    Node("Tanh", ((3, 37),)),
    Node("Gelu", ((3, 37),)),
    Node("Erf", ((3, 37),)),
    Node("MaxPool", ((1, 5, 13, 15),), (), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Node("AveragePool", ((1, 5, 12, 14),), (), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Node("GlobalAveragePool", ((1, 17, 7, 9),)),
    Node("Transpose", ((2, 9, 17),), (), {"perm": [2, 0, 1]}),
    Node("Add", ((2, 9, 17), (9, 1))),
    Node("Resize", ((1, 3, 8, 9),), (np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)), {"mode": "linear"}),
]


def chain(nodes: list[Node]) -> Program:
    """A program of one float region that has all of `nodes`, each with inputs and an output of its own."""
    made, inputs, outputs, held = [], [], [], []
    for i, node in enumerate(nodes):
        names = [f"x{i}_{k}" for k in range(len(node.inputs))]
        inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in zip(names, node.inputs, strict=True)]
        constants = [onnx.numpy_helper.from_array(array, f"c{i}_{k}") for k, array in enumerate(node.constants)]
        blank = [""] if node.kind == "Resize" else []
        held += constants
        arguments = [*names, *blank, *(tensor.name for tensor in constants[len(blank) :])]
        made.append(helper.make_node(node.kind, arguments, [f"y{i}"], name=f"n{i}", **node.attributes))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None))
    opset = 20 if any(node.kind == "Gelu" for node in nodes) else 17
    graph = helper.make_graph(made, "region", inputs, outputs, held)
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", opset)]))
    values = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in [*model.graph.input, *model.graph.output]}
    names_in, names_out = (tuple(v.name for v in group) for group in (model.graph.input, model.graph.output))
    region = Float("region", names_in, names_out, model.SerializeToString(), tuple(node.kind for node in nodes), "float on purpose")
    tensors = {name: Tensor(name, shape, "float32") for name, shape in values.items()}
    return Program((region,), tensors, names_in, names_out)


def split(nodes: list[Node]) -> list[list[Node]]:
    """By opset: Gelu came late, and ReduceMean's axes moved."""
    late = [node for node in nodes if node.kind == "Gelu"]
    return [[node for node in nodes if node.kind != "Gelu"], late]


def inputs_of(program: Program, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {name: (scale * rng.normal(size=program.tensors[name].shape)).astype(np.float32) for name in program.inputs}


def close(lowered: Lowered, outputs: dict[str, np.ndarray], program: Program, inputs: dict[str, np.ndarray], nodes: list[Node]) -> None:
    expected = Interpreter(program).run(inputs)
    for node, name in zip(nodes, program.outputs, strict=True):
        np.testing.assert_allclose(outputs[name], expected[name], err_msg=str(node), **TOLERANCE)


@pytest.mark.parametrize("late", [0, 1])
def test_host_is_close_to_onnxruntime(late: int, tmp_path: Path) -> None:
    nodes = split(NODES)[late]
    program = chain(nodes)
    inputs = inputs_of(program, 3.0)
    lowered = lower(program, load_target("host"))
    close(lowered, run_host(build(lowered, tmp_path / "model.so"), inputs), program, inputs, nodes)


@pytest.mark.emulator
def test_emulator_is_close_to_onnxruntime_and_threads_change_nothing(tmp_path: Path) -> None:
    nodes = split(NODES)[0]
    program = chain(nodes)
    inputs = inputs_of(program)
    lowered = lower(program, load_target("cortex-a76"))
    bundle = write_bundle(tmp_path / "bundle", lowered, build(lowered, tmp_path / "model.so"))
    outputs = [run_emulated(bundle, inputs, threads=threads) for threads in (1, 3)]
    close(lowered, outputs[0], program, inputs, nodes)
    for name in program.outputs:
        np.testing.assert_array_equal(outputs[0][name], outputs[1][name])


def test_loops_that_no_rule_fits_stay_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise s_tir.ScheduleError("no")

    monkeypatch.setattr(schedule, "_block", refuse)
    lowered = lower(chain([Node("Sqrt", ((2, 3),))]), load_target("host"))
    assert [launch.kernel for launch in lowered.calls] == ["float_tir_sqrt_unscheduled"]
