"""An ONNX graph as passes on channels see it: constants through DequantizeLinear, readers, and slices of both."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mpqc.passes.lib.base import CODE_RANGES, attribute


class ChannelGraph:
    """Edits `graph` in place; its nodes stay in order."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.producer = {name: node for node in graph.node for name in node.output}
        self.reads = Counter(name for node in graph.node for name in node.input)
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in graph.output}
        known = (*graph.value_info, *graph.input)
        self.shapes = {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in known}

    def raw(self, name: str) -> np.ndarray | None:
        """The array of an initializer."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def value(self, name: str) -> np.ndarray | None:
        """The real values of a constant: an initializer, or one behind DequantizeLinear and maybe a Clip or Cast of its codes. None for others."""
        if name in self.constants:
            return self.raw(name)
        node = self.producer.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        codes, scale = self._codes(node.input[0]), self.raw(node.input[1])
        if codes is None or scale is None:
            return None
        zero = self.raw(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(scale.shape)
        if zero is None:
            return None
        shape = [1] * codes.ndim
        if scale.size > 1:
            shape[self._axis(node, codes.ndim)] = scale.size
        elif not codes.ndim:
            shape = []
        return ((codes.astype(np.float32) - zero.astype(np.float32).reshape(shape)) * scale.reshape(shape)).astype(np.float32)

    def _axis(self, node: NodeProto, rank: int) -> int:
        """Along which a DequantizeLinear has its scales; the default of 1 means 0 for vectors."""
        given = attribute(node, "axis", 1)
        return min(given % rank if given < 0 else given, rank - 1)

    def _codes(self, name: str) -> np.ndarray | None:
        node = self.producer.get(name)
        return self.raw(node.input[0]) if node is not None and node.op_type in ("Clip", "Cast") else self.raw(name)

    def owned(self, name: str) -> bool:
        """Whether a constant, and all that it is made of, has one reader alone."""
        if name in self.constants:
            return self.reads[name] == 1 and name not in self.outputs
        node = self.producer.get(name)
        return node is not None and self.reads[name] == 1 and all(self.owned(item) for item in (node.input[0],) if item)

    def is_float(self, name: str) -> bool:
        """Whether a constant is a float initializer."""
        return not name or (name in self.constants and self.constants[name].data_type == TensorProto.FLOAT)

    def only_reader(self, name: str) -> NodeProto | None:
        """The node that reads a tensor where exactly one does, once, and it is no graph output."""
        return self.readers[name][0] if self.reads[name] == 1 and name not in self.outputs else None

    def output_axis(self, node: NodeProto) -> int | None:
        """The axis of the weight that counts output channels, for Conv of one group and plain Gemm; None for other nodes."""
        if node.op_type == "Conv" and attribute(node, "group", 1) == 1:
            return 0
        if node.op_type != "Gemm" or attribute(node, "transA", 0) or any(attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta")):
            return None
        return 0 if attribute(node, "transB", 0) else 1

    def input_axis(self, node: NodeProto) -> int:
        """The axis of the weight that counts inputs."""
        return 1 if node.op_type == "Conv" else 1 - (self.output_axis(node) or 0)

    def is_depthwise(self, node: NodeProto, channels: int) -> bool:
        """Whether `node` convolves each of `channels` channels with one filter of its own."""
        weight = self.value(node.input[1]) if node.op_type == "Conv" else None
        return weight is not None and attribute(node, "group", 1) == channels == weight.shape[0]

    def set_integer(self, node: NodeProto, name: str, value: int) -> None:
        """Write an integer attribute."""
        kept = [item for item in node.attribute if item.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])

    def code_range(self, zero_point: str) -> tuple[int, int]:
        """The codes of the type of a zero point (uint8 where there is none)."""
        return CODE_RANGES[self.constants[zero_point].data_type if zero_point in self.constants else TensorProto.UINT8]

    def take(self, name: str, keep: np.ndarray, axis: int) -> None:
        """Keep these indices of a constant along `axis`, of its codes and of scales and zero points that run along it."""
        if name in self.constants:
            self._store(name, np.take(numpy_helper.to_array(self.constants[name]), keep, axis))
            return
        node = self.producer[name]
        source = self.producer.get(node.input[0])
        codes = source.input[0] if source is not None else node.input[0]
        rank = len(self.constants[codes].dims)
        self._store(codes, np.take(numpy_helper.to_array(self.constants[codes]), keep, axis))
        if self._axis(node, rank) == axis % rank:
            for item in node.input[1:]:
                values = self.raw(item)
                if values is not None and values.size > 1:
                    self._own(node, item, np.take(values, keep))
        for item in (name, node.input[0]):
            self.forget_shape(item)

    def add_bias(self, node: NodeProto, shift: np.ndarray) -> None:
        """Add to the float bias of `node`, which may have none yet."""
        old = self.raw(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        made = (shift if old is None else (old.astype(np.float64) + shift.reshape(-1))).astype(np.float32)
        name = f"{node.name}.shifted_bias"
        self.constants[name] = self.graph.initializer.add()
        self.constants[name].CopyFrom(numpy_helper.from_array(made, name))
        inputs = [*node.input[:2], name]
        del node.input[:]
        node.input.extend(inputs)
        self.reads[name] = 1

    def forget_shape(self, name: str) -> None:
        """Leave the shape of a tensor to inference."""
        for index, value in reversed(list(enumerate(self.graph.value_info))):
            if value.name == name:
                del self.graph.value_info[index]

    def _own(self, node: NodeProto, name: str, values: np.ndarray) -> None:
        """Give `node` these values in place of a constant that others may read too."""
        if self.reads[name] == 1:
            self._store(name, values)
            return
        made = f"{name}.{node.name}"
        self.constants[made] = self.graph.initializer.add()
        self.constants[made].CopyFrom(_tensor(values, made, self.constants[name].data_type))
        node.input[list(node.input).index(name)] = made
        self.reads[name] -= 1
        self.reads[made] = 1

    def _store(self, name: str, values: np.ndarray) -> None:
        self.constants[name].CopyFrom(_tensor(values, name, self.constants[name].data_type))


def _tensor(values: np.ndarray, name: str, data_type: int) -> TensorProto:
    made = numpy_helper.from_array(np.ascontiguousarray(values), name)
    assert made.data_type == data_type, f"{name}: {made.data_type} instead of {data_type}"
    return made
