"""LSTM and GRU over few time steps become Gemm, Sigmoid, Tanh, Mul and Add, which can be quantized and lowered like anything else.

Equations: ONNX LSTM-14 and GRU-14 with default activations. The input's part of the gates is one Gemm for all steps; each step then has one
Gemm on the state (two for GRU with the reset gate in front of its matrix product).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from mpqc.errors import ModelError
from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.surgery import close_graph, constant, free_name, input_at, open_graph, unchanged

GATES = {"LSTM": 4, "GRU": 3}
DIRECTIONS = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
DEFAULTS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}


@dataclass(frozen=True)
class DecomposeRecurrent:
    """Recurrent layers with constant weights and at most `max_steps` steps in all directions together are written out."""

    max_steps: int = 8
    name: ClassVar[str] = "decompose-recurrent"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """A note for each layer that stays whole, with the reason."""
        graph = open_graph(model)
        layers = [node for node in graph.nodes if node.op in GATES]
        for node in layers:
            _check_shapes(node)
        reasons = {id(node): self._refusal(node) for node in layers}
        chosen = [node for node in layers if not reasons[id(node)]]
        for node in chosen:
            _Writer(graph, node).write()
        notes = [f"{self.name}: {node.op} {node.name!r} stays whole: {reasons[id(node)]}" for node in layers if reasons[id(node)]]
        return close_graph(graph, model, notes) if chosen else unchanged(model, notes)

    def _refusal(self, node: gs.Node) -> str:
        if any(constant(input_at(node, position)) is None for position in (1, 2)):
            return "its weights are not constant"
        if input_at(node, 3) is not None and constant(input_at(node, 3)) is None:
            return "its bias is not constant"
        if input_at(node, 4) is not None or input_at(node, 7) is not None:
            return "it has sequence lengths or peepholes"
        if any(node.attrs.get(name) for name in ("clip", "input_forget", "layout")) or not _default_activations(node):
            return "it has activations, clip, input_forget or layout of its own"
        directions = len(DIRECTIONS[node.attrs.get("direction", "forward")])
        steps = int(node.inputs[0].shape[0]) * directions
        return f"{steps} steps are more than {self.max_steps}" if steps > self.max_steps else ""


def _check_shapes(node: gs.Node) -> None:
    """Raises ModelError where weights or states do not have the shapes that ONNX gives them (D directions, H hidden, I features)."""
    x, recurrent = (list(node.inputs[position].shape or ()) for position in (0, 2))
    directions = len(DIRECTIONS.get(node.attrs.get("direction", "forward"), ()))
    hidden = node.attrs.get("hidden_size", recurrent[-1] if recurrent else 0)
    gates = GATES[node.op] * hidden
    steps, batch, features = x if len(x) == 3 else (0, 0, 0)
    if node.attrs.get("layout", 0):
        steps, batch = batch, steps
    state = [batch, directions, hidden] if node.attrs.get("layout", 0) else [directions, batch, hidden]
    wanted = {1: [directions, gates, features], 2: [directions, gates, hidden], 3: [directions, 2 * gates], 5: state, 6: state}
    roles = ("data", "weights", "recurrent weights", "bias", "lengths", "first state", "first cell state")
    for position, shape in wanted.items():
        tensor = input_at(node, position)
        found = list(tensor.shape or ()) if tensor is not None else shape
        if len(x) != 3 or found != shape:
            what = f"its {roles[position]} have shape {found} where {shape} is needed" if len(x) == 3 else f"its data have shape {x}, not three axes"
            raise ModelError(what, where=f"{node.op} {node.name!r}")


def _default_activations(node: gs.Node) -> bool:
    given = [str(name).lower() for name in node.attrs.get("activations", [])]
    return not given or given in (DEFAULTS[node.op], DEFAULTS[node.op] * 2)


@dataclass
class _Writer:
    """Emits the nodes of one layer in front of it."""

    graph: gs.Graph
    node: gs.Node
    made: list[gs.Node] = field(default_factory=list)
    stored: dict[str, gs.Constant] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.weight, self.recurrent = (np.asarray(self.node.inputs[position].values) for position in (1, 2))
        bias = constant(input_at(self.node, 3))
        self.bias = np.zeros((self.weight.shape[0], 2 * self.weight.shape[1]), self.weight.dtype) if bias is None else bias
        self.hidden = int(self.recurrent.shape[2])
        self.steps, self.batch, self.features = (int(size) for size in self.node.inputs[0].shape)

    def write(self) -> None:
        """Replace the layer."""
        backward = DIRECTIONS[self.node.attrs.get("direction", "forward")]
        outputs, finals = zip(*(self.run_direction(index, reverse) for index, reverse in enumerate(backward)), strict=True)
        results = [self.stack([self.join([row[step] for row in outputs], 0) for step in range(self.steps)])]
        results += [self.join(list(parts), 0) for parts in zip(*finals, strict=True)]
        self.replace(results)

    def run_direction(self, index: int, reverse: bool) -> tuple[list[gs.Variable], list[gs.Variable]]:
        """Outputs [1, B, H] of each step in order of time, and the final states [1, B, H]."""
        inputs = self.project(index)
        states = [self.initial(index, position) for position in ((5, 6) if self.node.op == "LSTM" else (5,))]
        step: Callable[..., list[gs.Variable]] = self.lstm_step if self.node.op == "LSTM" else self.gru_step
        outputs: dict[int, gs.Variable] = {}
        for time in reversed(range(self.steps)) if reverse else range(self.steps):
            states = step(inputs[time], states, index)
            outputs[time] = self.unsqueeze(states[0])
        return [outputs[time] for time in range(self.steps)], [self.unsqueeze(state) for state in states]

    def project(self, index: int) -> list[gs.Variable]:
        """The input's part of the gates, [B, gates * H] for each step."""
        width = self.weight.shape[1]
        flat = self.emit(
            "Reshape", [self.node.inputs[0], self.ints("flat", [self.steps * self.batch, self.features])], [self.steps * self.batch, self.features]
        )
        gates = self.gemm(flat, self.weight[index], self.bias[index, :width], f"W{index}", self.steps * self.batch)
        return self.split(gates, [self.batch] * self.steps, 0)

    def initial(self, index: int, position: int) -> gs.Tensor:
        shape = [self.batch, self.hidden]
        state = input_at(self.node, position)
        if state is None:
            return self.constant(f"zero{position}", np.zeros(shape, self.weight.dtype))
        parts = self.split(state, [1] * self.weight.shape[0], 0)
        return self.emit("Reshape", [parts[index], self.ints("state", shape)], shape)

    def lstm_step(self, now: gs.Variable, states: Sequence[gs.Variable], index: int) -> list[gs.Variable]:
        hidden, cell = states
        width = self.weight.shape[1]
        gates = self.binary("Add", now, self.gemm(hidden, self.recurrent[index], self.bias[index, width:], f"R{index}", self.batch))
        i, o, f, c = self.split(gates, [self.hidden] * 4, 1)
        kept = self.binary("Mul", self.unary("Sigmoid", f), cell)
        cell = self.binary("Add", kept, self.binary("Mul", self.unary("Sigmoid", i), self.unary("Tanh", c)))
        return [self.binary("Mul", self.unary("Sigmoid", o), self.unary("Tanh", cell)), cell]

    def gru_step(self, now: gs.Variable, states: Sequence[gs.Variable], index: int) -> list[gs.Variable]:
        """h' = n + z * (h - n), the same as (1 - z) * n + z * h with one product less."""
        (hidden,), size = states, self.hidden
        matrix, bias = self.recurrent[index], self.bias[index, 3 * size :]
        gates = self.gemm(hidden, matrix[: 2 * size], bias[: 2 * size], f"Rzr{index}", self.batch)
        xz, xr, xh = self.split(now, [size] * 3, 1)
        hz, hr = self.split(gates, [size] * 2, 1)
        z = self.unary("Sigmoid", self.binary("Add", xz, hz))
        r = self.unary("Sigmoid", self.binary("Add", xr, hr))
        after = self.node.attrs.get("linear_before_reset", 0)
        product = self.gemm(hidden if after else self.binary("Mul", r, hidden), matrix[2 * size :], bias[2 * size :], f"Rh{index}", self.batch)
        n = self.unary("Tanh", self.binary("Add", xh, self.binary("Mul", r, product) if after else product))
        return [self.binary("Add", n, self.binary("Mul", z, self.binary("Sub", hidden, n)))]

    def gemm(self, x: gs.Tensor, matrix: np.ndarray, bias: np.ndarray, role: str, rows: int) -> gs.Variable:
        """x [rows, K] times matrix [N, K] transposed, plus bias; a matrix used in several steps is one initializer."""
        return self.emit("Gemm", [x, self.constant(role, matrix), self.constant(f"{role}.bias", bias)], [rows, matrix.shape[0]], transB=1)

    def split(self, x: gs.Tensor, sizes: list[int], axis: int) -> list[gs.Variable]:
        if len(sizes) == 1:
            return [x]
        shapes = [[size if dim == axis else other for dim, other in enumerate(x.shape)] for size in sizes]
        outputs = [self.variable("split", shape) for shape in shapes]
        self.add(gs.Node("Split", self.name("Split"), {"axis": axis}, [x, self.ints("sizes", sizes)], outputs))
        return outputs

    def unary(self, kind: str, x: gs.Tensor) -> gs.Variable:
        return self.emit(kind, [x], list(x.shape))

    def binary(self, kind: str, a: gs.Tensor, b: gs.Tensor) -> gs.Variable:
        return self.emit(kind, [a, b], list(a.shape))

    def unsqueeze(self, x: gs.Tensor) -> gs.Variable:
        return self.emit("Unsqueeze", [x, self.ints("axis", [0])], [1, *x.shape])

    def join(self, parts: list[gs.Variable], axis: int) -> gs.Variable:
        if len(parts) == 1:
            return parts[0]
        shape = [sum(part.shape[axis] for part in parts) if dim == axis else size for dim, size in enumerate(parts[0].shape)]
        return self.emit("Concat", list(parts), shape, axis=axis)

    def stack(self, parts: list[gs.Variable]) -> gs.Variable:
        return self.join([self.unsqueeze(part) for part in parts], 0)

    def emit(self, kind: str, inputs: list[gs.Tensor], shape: list[int], **attributes: Any) -> gs.Variable:
        output = self.variable(kind.lower(), shape)
        self.add(gs.Node(kind, self.name(kind), attributes, inputs, [output]))
        return output

    def add(self, node: gs.Node) -> None:
        self.made.append(node)

    def name(self, kind: str) -> str:
        return f"{self.node.name}/{kind}_{len(self.made)}"

    def variable(self, role: str, shape: list[int]) -> gs.Variable:
        self.count += 1
        return gs.Variable(f"{self.node.name}/{role}_{self.count}", self.weight.dtype, shape)

    def constant(self, role: str, value: np.ndarray) -> gs.Constant:
        if role not in self.stored:
            self.stored[role] = gs.Constant(free_name(self.graph, f"{self.node.name}.{role}"), np.ascontiguousarray(value))
        return self.stored[role]

    def ints(self, role: str, values: list[int]) -> gs.Constant:
        return self.constant(f"{role}_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def replace(self, results: list[gs.Variable]) -> None:
        """The last nodes write the layer's outputs; the layer goes."""
        wanted = list(self.node.outputs)
        self.node.outputs.clear()
        self.node.inputs.clear()
        for result, output in zip(results, wanted, strict=False):
            if not output.is_empty():
                self.add(gs.Node("Identity", self.name("Identity"), {}, [result], [output]))
        place = next(index for index, each in enumerate(self.graph.nodes) if each is self.node)
        self.graph.nodes[place : place + 1] = self.made
