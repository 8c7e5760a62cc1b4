"""Nodes that an exporter left in training mode, and what only training needs: statistics of the sample at hand, masks that keep everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from mpqc.errors import ModelError
from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.surgery import close_graph, constant, free_name, input_at, open_graph, unchanged


@dataclass(frozen=True)
class TrainingModes:
    """BatchNormalization in training mode -> InstanceNormalization (one sample) or its arithmetic; the mask of a Dropout -> a constant.

    The function is that of ONNX Runtime, which uses the statistics of what it is given; a note says so. Dropout that drops is refused.
    """

    name: ClassVar[str] = "training-modes"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Needs fixed shapes. Raises ModelError for a Dropout in training mode: its result is random."""
        graph = open_graph(model)
        norms = [node for node in list(graph.nodes) if node.op == "BatchNormalization" and node.attrs.get("training_mode", 0)]
        masked = [node for node in list(graph.nodes) if node.op == "Dropout" and _drops_nothing(node) and _has_mask(graph, node)]
        switched = [node for node in list(graph.nodes) if node.op == "Dropout" and len(node.inputs) > 1]
        for node in norms:
            _write_out(graph, node)
        for node in masked:
            _fill_mask(graph, node)
        for node in switched:
            node.inputs = node.inputs[:1]
        notes = [_note(node) for node in norms]
        return close_graph(graph, model, notes) if norms or masked or switched else unchanged(model)


def _note(node: gs.Node) -> str:
    return f"{node.name!r} is a BatchNormalization in training mode: it has the statistics of each input, not the trained ones (export in eval mode)"


def _drops_nothing(node: gs.Node) -> bool:
    """True. Raises ModelError where the node drops, or where that is not known."""
    mode, ratio = constant(input_at(node, 2)), constant(input_at(node, 1))
    if input_at(node, 2) is None or (mode is not None and not mode.any()) or (ratio is not None and not ratio.any()):
        return True
    if mode is None:
        hint = f"say so with --value {node.inputs[2].name}=0, or export the network in eval mode"
        raise ModelError("Dropout whose training mode is computed at run time may be random", where=f"node {node.name!r}", hint=hint)
    raise ModelError("Dropout in training mode has a random result", where=f"node {node.name!r}", hint="export the network in eval mode")


def _has_mask(graph: gs.Graph, node: gs.Node) -> bool:
    used = [tensor for tensor in node.outputs[1:] if not tensor.is_empty()]
    return any(tensor.outputs or any(tensor is output for output in graph.outputs) for tensor in used)


def _fill_mask(graph: gs.Graph, node: gs.Node) -> None:
    """The mask is all true, whatever the input."""
    mask = node.outputs.pop()
    name = free_name(graph, f"{mask.name}.kept")
    kept = gs.Constant(name, np.ones(mask.shape, bool))
    _place(graph, node, gs.Node("Identity", name, inputs=[kept], outputs=[mask]))


def _place(graph: gs.Graph, before: gs.Node, node: gs.Node) -> None:
    graph.nodes.insert(next(index for index, each in enumerate(graph.nodes) if each is before), node)


def _write_out(graph: gs.Graph, node: gs.Node) -> None:
    x, scale, bias = node.inputs[:3]
    running = [tensor for tensor in node.outputs[1:3] if not tensor.is_empty() and (tensor.outputs or any(tensor is each for each in graph.outputs))]
    if x.shape[0] == 1 and len(x.shape) > 2 and not running:
        node.op, node.attrs = "InstanceNormalization", {"epsilon": node.attrs.get("epsilon", 1e-5)}
        node.inputs, node.outputs = [x, scale, bias], node.outputs[:1]
        return
    _Arithmetic(graph, node).write()


class _Arithmetic:
    """A BatchNormalization in training mode as means, differences and products, in front of the node, which goes."""

    def __init__(self, graph: gs.Graph, node: gs.Node) -> None:
        self.graph, self.node, self.dtype = graph, node, node.inputs[0].dtype
        self.shape = list(node.inputs[0].shape)
        self.channels = [1, -1] + [1] * (len(self.shape) - 2)

    def write(self) -> None:
        """Replace the node."""
        node, attrs = self.node, self.node.attrs
        x, scale, bias, mean, variance = node.inputs
        outputs = list(node.outputs)
        node.outputs = []
        axes = self.number("axes", np.asarray([axis for axis in range(len(self.shape)) if axis != 1]))
        one = [1, self.shape[1]] + [1] * (len(self.shape) - 2)
        centre = self.op("ReduceMean", "mean", [x, axes], one)
        rest = self.op("Sub", "rest", [x, centre], self.shape)
        spread = self.op("ReduceMean", "variance", [self.op("Mul", "square", [rest, rest], self.shape), axes], one)
        shifted = self.op("Add", "shifted", [spread, self.number("epsilon", np.float32(attrs.get("epsilon", 1e-5)))], one)
        normal = self.op("Div", "normal", [rest, self.op("Sqrt", "root", [shifted], one)], self.shape)
        scaled = self.op("Mul", "scaled", [normal, self.reshaped("scale", scale, one)], self.shape)
        self.add(gs.Node("Add", node.name, inputs=[scaled, self.reshaped("bias", bias, one)], outputs=outputs[:1]))
        for output, old, new, role in zip(outputs[1:], (mean, variance), (centre, spread), ("running_mean", "running_variance"), strict=False):
            self.running(output, old, new, role)

    def running(self, output: gs.Tensor, old: gs.Tensor, new: gs.Tensor, role: str) -> None:
        """old * momentum + new * (1 - momentum), per channel."""
        momentum, size = np.float32(self.node.attrs.get("momentum", 0.9)), [self.shape[1]]
        flat = self.op("Reshape", f"{role}.now", [new, self.number(f"{role}.size", np.asarray(size))], size)
        kept = self.op("Mul", f"{role}.kept", [old, self.number(f"{role}.momentum", momentum)], size)
        added = self.op("Mul", f"{role}.added", [flat, self.number(f"{role}.rest", np.float32(1) - momentum)], size)
        self.add(gs.Node("Add", free_name(self.graph, f"{self.node.name}.{role}"), inputs=[kept, added], outputs=[output]))

    def reshaped(self, role: str, value: gs.Tensor, shape: list[int]) -> gs.Tensor:
        """A vector of channels as it broadcasts."""
        return self.op("Reshape", role, [value, self.number(f"{role}.shape", np.asarray(self.channels))], shape)

    def number(self, role: str, value: np.ndarray | np.float32) -> gs.Constant:
        """A new constant."""
        return gs.Constant(free_name(self.graph, f"{self.node.name}.{role}"), np.asarray(value))

    def op(self, op_type: str, role: str, inputs: list[gs.Tensor], shape: list[int]) -> gs.Variable:
        """A new node's output."""
        name = free_name(self.graph, f"{self.node.name}.{role}")
        output = gs.Variable(name, self.dtype, shape)
        self.add(gs.Node(op_type, name, inputs=inputs, outputs=[output]))
        return output

    def add(self, node: gs.Node) -> None:
        """In front of the node that goes."""
        _place(self.graph, self.node, node)
