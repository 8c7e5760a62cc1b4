"""What writes one node as several: names, constants and nodes in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper


@dataclass
class Writer:
    """The nodes that replace one, and what is known of its inputs."""

    node: NodeProto
    shapes: Mapping[str, Sequence[int]]
    constants: Mapping[str, np.ndarray]
    nodes: list[NodeProto] = field(default_factory=list)
    stored: list[TensorProto] = field(default_factory=list)

    def input(self, place: int) -> str:
        """The name of an input, empty where it is absent."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def shape(self, place: int = 0) -> list[int]:
        """The shape of an input."""
        return list(self.shapes[self.node.input[place]])

    def known(self, place: int) -> np.ndarray | None:
        """The value of a constant input."""
        return self.constants.get(self.input(place))

    def store(self, value: Any, role: str) -> str:
        """A new constant."""
        name = f"{self.node.name}/{role}{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), name))
        return name

    def add(self, op_type: str, *inputs: str, to: str = "", **options: Any) -> str:
        """A new node; the name of its output, `to` or a new one."""
        name = f"{self.node.name}/{op_type}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [to or name], name, **options))
        return to or name

    def cut(self, x: str, axis: int, end: int) -> str:
        """x[:end] along an axis."""
        ends = [self.store(np.array([value]), "slice") for value in (0, end, axis)]
        return self.add("Slice", x, *ends)

    def behind(self, x: str, rank: int, axis: int, count: int) -> str:
        """x with `count` zeros in front of it along an axis."""
        pads = np.zeros(2 * rank, np.int64)
        pads[axis] = count
        return self.add("Pad", x, self.store(pads, "pads"))

    def reshape(self, x: str, shape: Sequence[int], to: str = "") -> str:
        """x in another shape."""
        return self.add("Reshape", x, self.store(np.array(shape, np.int64), "shape"), to=to)
