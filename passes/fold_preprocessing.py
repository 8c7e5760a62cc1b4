"""The scale and shift that inputs were prepared with go into the first convolution, so that the network takes the values as they come: bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper, shape_inference

from mpqc.errors import LoweringError
from mpqc.passes.lib.base import PassResult, attribute, node_reads
from mpqc.values.preprocessing import PIXEL_RANGE, Preprocessing

INSIDE = PIXEL_RANGE[1]
"""Value of the channel that tells the picture from its border: the largest byte, so that its weights are as large as the others"""
HINT = "leave --fold-preprocessing out: the application then scales the values itself"


@dataclass(frozen=True)
class FoldPreprocessing:
    """conv((x * scale - mean) / std) becomes conv'(x), exactly but for the rounding of float32 weights.

    Borders: a convolution pads prepared values with 0, which is `mean / scale` of x and often no byte. Where there are borders and a shift, x
    gets one channel more that is INSIDE everywhere; its weights take the shift away, and a border, which is 0 in this channel too, stays 0.
    Between input and convolution there may be a Transpose. Raises LoweringError, naming the node, where the first node cannot take it.
    """

    form: Preprocessing
    name: ClassVar[str] = "fold-preprocessing"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Of the first input of `model`."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        first = _first(copy.graph)
        weight = first.values[first.conv.input[1]].astype(np.float64)
        factor, shift = self._affine(weight.shape[1], first.conv)
        scaled = weight * _along_inputs(factor, weight)
        taken = (weight * _along_inputs(shift, weight)).sum(axis=1, keepdims=True)
        if shift.any() and _has_borders(first.conv):
            scaled = np.concatenate([scaled, -taken / INSIDE], axis=1)
            _widen(copy.graph, first)
            shift = np.zeros_like(shift)
        first.replace(1, scaled)
        if shift.any():
            bias = first.values[first.conv.input[2]] if len(first.conv.input) > 2 and first.conv.input[2] else np.zeros(len(weight))
            first.replace(2, bias - taken.reshape(len(weight), -1).sum(axis=1))
        return PassResult(shape_inference.infer_shapes(copy, data_prop=True), True)

    def _affine(self, channels: int, conv: NodeProto) -> tuple[np.ndarray, np.ndarray]:
        """Prepared value = x * factor - shift, for each channel."""
        mean, std = (np.asarray(values if values else (neutral,)) for values, neutral in ((self.form.mean, 0.0), (self.form.std, 1.0)))
        if not {mean.size, std.size} <= {1, channels}:
            raise LoweringError(f"{max(mean.size, std.size)} means for {channels} channels", where=conv.name, hint=HINT)
        scale = 1.0 if self.form.scale is None else self.form.scale
        return np.broadcast_to(scale / std, channels).astype(np.float64), np.broadcast_to(mean / std, channels).astype(np.float64)


@dataclass(eq=False)
class _First:
    """The first convolution, the tensor that it reads and what is constant."""

    graph: onnx.GraphProto
    conv: NodeProto
    index: int
    values: dict[str, np.ndarray]

    def replace(self, place: int, value: np.ndarray) -> None:
        """A new constant as the convolution's input `place`."""
        name = _free(self.graph, f"{self.conv.input[0]}_{'weight' if place == 1 else 'bias'}_folded")
        self.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        while len(self.conv.input) <= place:
            self.conv.input.append("")
        old = self.conv.input[place]
        self.conv.input[place] = name
        if old and not any(old in node_reads(node) for node in self.graph.node):
            self.graph.initializer.remove(next(item for item in self.graph.initializer if item.name == old))


def _first(graph: onnx.GraphProto) -> _First:
    tensor = graph.input[0].name
    values = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    while True:
        readers = [(index, node) for index, node in enumerate(graph.node) if tensor in node_reads(node)]
        if len(readers) != 1 or any(output.name == tensor for output in graph.output):
            names = ", ".join(f"{node.op_type} {node.name!r}" for _, node in readers) or "nothing"
            raise LoweringError("scale and shift go into one convolution", where=tensor, why=f"it is read by {names}", hint=HINT)
        index, node = readers[0]
        if node.op_type == "Transpose":
            tensor = node.output[0]
            continue
        _check(node, tensor, values)
        return _First(graph, node, index, values)


def _check(node: NodeProto, tensor: str, values: dict[str, np.ndarray]) -> None:
    """Raises LoweringError for a node that cannot take scale and shift."""
    why = ""
    if node.op_type != "Conv" or node.input[0] != tensor:
        why = f"the first node is {node.op_type}, not a convolution"
    elif attribute(node, "group", 1) != 1:
        why = "it has groups"
    elif any(name and name not in values for name in node.input[1:]):
        why = "its weights are computed"
    if why:
        raise LoweringError("cannot take scale and shift", where=node.name or node.op_type, why=why, hint=HINT)


def _has_borders(conv: NodeProto) -> bool:
    return any(attribute(conv, "pads", [])) or attribute(conv, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID", "NOTSET", "VALID")


def _along_inputs(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return values.reshape(1, -1, *([1] * (weight.ndim - 2)))


def _widen(graph: onnx.GraphProto, first: _First) -> None:
    """Puts a channel that is INSIDE everywhere behind the others of what the convolution reads."""
    rank = first.values[first.conv.input[1]].ndim
    pads, inside = (_free(graph, f"{first.conv.input[0]}_{part}") for part in ("channel_pads", "inside"))
    widened, name = (_free(graph, f"{first.conv.input[0]}_{part}") for part in ("widened", "widen"))
    ends = np.zeros(2 * rank, np.int64)
    ends[rank + 1] = 1
    graph.initializer.extend([numpy_helper.from_array(ends, pads), numpy_helper.from_array(np.asarray(INSIDE, np.float32), inside)])
    graph.node.insert(first.index, helper.make_node("Pad", [first.conv.input[0], pads, inside], [widened], name))
    first.conv.input[0] = widened


def _free(graph: onnx.GraphProto, base: str) -> str:
    """`base`, numbered where something has that name already."""
    used = {name for node in graph.node for name in (node.name, *node.input, *node.output)}
    used |= {item.name for items in (graph.input, graph.output, graph.initializer) for item in items}
    name, count = base, 0
    while name in used:
        count += 1
        name = f"{base}_{count}"
    return name
