"""Q and DQ nodes, their constants and storage types, written by tensor name into an ONNX graph in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mpqc.errors import UsageError
from mpqc.facts.file_types import FILE_ACTIVATION_BITS, FILE_WEIGHT_BITS
from mpqc.facts.ops import Role, facts
from mpqc.numerics import integer
from mpqc.qdq.write.biases import bias_codes, raised_scales
from mpqc.values.qtype import QParams, QType
from mpqc.values.site import OpNode, SiteKind, SiteTable

LOWEST_OPSET, NARROW_OPSET, INT2_OPSET = 13, 21, 25
_TYPES = (TensorProto.INT2, TensorProto.INT4, TensorProto.INT8, TensorProto.INT16)
_ELEMENTS: dict[int, int] = dict(zip(FILE_WEIGHT_BITS, _TYPES, strict=True))
_SINCE = {2: INT2_OPSET, 4: NARROW_OPSET, 8: LOWEST_OPSET, 16: NARROW_OPSET}


@dataclass(frozen=True)
class _Storage:
    element: int
    clip: tuple[int, int] | None
    """Bounds of the Clip on codes that the element type does not imply"""


def _activation_storage(qtype: QType, opset: int) -> _Storage:
    if qtype.bits in FILE_ACTIVATION_BITS and opset >= _SINCE[qtype.bits]:
        return _Storage(_ELEMENTS[qtype.bits], None)
    return _Storage(_wide_element(qtype, opset), (qtype.qmin, qtype.qmax))


def _weight_storage(qtype: QType, opset: int) -> _Storage:
    widths = [width for width in _ELEMENTS if width >= qtype.container and opset >= _SINCE[width]]
    if not widths:
        _wide_element(qtype, opset)
    fallback = widths[0] == 8 > qtype.container
    return _Storage(_ELEMENTS[widths[0]], (qtype.qmin, qtype.qmax) if fallback else None)


def _wide_element(qtype: QType, opset: int) -> int:
    if qtype.bits <= 8:
        return TensorProto.INT8
    if opset < NARROW_OPSET:
        raise UsageError(f"opset {opset} has no {qtype.bits}-bit integers", where="--opset", hint=f"use {NARROW_OPSET}")
    return TensorProto.INT16


def write_quantizers(model: onnx.ModelProto, table: SiteTable, chosen: Mapping[str, QParams], opset: int) -> onnx.ModelProto:
    """`model`, changed in place, with Q and DQ nodes for the sites in `chosen`. Raises UsageError for widths that `opset` lacks."""
    return _Writer(model, table, chosen, opset).write()


@dataclass(eq=False)
class _Writer:
    """Writes one model."""

    model: onnx.ModelProto
    table: SiteTable
    chosen: Mapping[str, QParams]
    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def write(self) -> onnx.ModelProto:
        """The model with Q and DQ nodes."""
        graph = self.model.graph
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.taken = set(self.initializers) | {node.name for node in graph.node}
        self.taken |= {name for node in graph.node for name in (*node.input, *node.output)}
        self.chosen = {**self.chosen, **raised_scales({node.name: node for node in graph.node}, self.initializers, self.table, self.chosen)}
        self._drop_clamps()
        self._write_operands()
        self._write_activations()
        used = {name for node in self.nodes for name in node.input}
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(tensor for name, tensor in self.initializers.items() if name in used)
        graph.ClearField("value_info")
        return self.model

    def free(self, name: str) -> str:
        """`name`, or the first `name_2`, `name_3`, ... that nothing has; taken from now on."""
        number, candidate = 1, name
        while candidate in self.taken:
            number += 1
            candidate = f"{name}_{number}"
        self.taken.add(candidate)
        return candidate

    def constant(self, name: str, value: np.ndarray, element: int | None = None) -> str:
        """A new initializer; `element` for integer types that numpy stores wider."""
        free = self.free(name)
        stored = value if element is None else value.astype(helper.tensor_dtype_to_np_dtype(element))
        self.initializers[free] = numpy_helper.from_array(stored, free)  # raw bytes: int4 two a byte, int2 four
        return free

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A new node with one output, which is returned."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=self.free(f"{output}_{op_type}"), **attributes))
        return output

    # ---- constants

    def _write_operands(self) -> None:
        """Weights, biases and constant operands of integer nodes: codes and DQ in front of all nodes."""
        by_name = {node.name: node for node in self.model.graph.node}
        weights = {name: self._weight(name, q) for name, q in self.chosen.items() if self.table.by_name[name].kind is SiteKind.WEIGHT}
        for op in self.table.nodes:
            node = by_name[op.name]
            if op.weight in weights:
                self._redirect(node, op.weight, weights[op.weight])
                self._write_bias(node, op)
            if facts(op.op_type).role is Role.BINARY and not op.is_table:
                self._write_operand(node, op)

    def _redirect(self, node: NodeProto, old: str, new: str) -> None:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new

    def _weight(self, name: str, q: QParams) -> str:
        codes = integer.quantize(numpy_helper.to_array(self.initializers[name]), q)
        return self._dequantized(name, codes, q, _weight_storage(q.qtype, self.opset))

    def _dequantized(self, name: str, codes: np.ndarray, q: QParams, storage: _Storage) -> str:
        stored = self.constant(f"{name}_q", codes, storage.element)
        if storage.element == TensorProto.INT2:  # ONNX Runtime 1.31 builds QLinearConv around int2 weights, which that op does not take
            stored, storage = self.node("Cast", [stored], self.free(f"{name}_int8"), to=TensorProto.INT8), _Storage(TensorProto.INT8, None)
        clipped = self._clip(stored, f"{name}_clipped", storage)
        return self._dq(clipped, self.free(f"{name}_dq"), name, q, storage.element)

    def _dq(self, codes: str, output: str, name: str, q: QParams, element: int) -> str:
        attributes: dict[str, Any] = {} if q.qtype.axis is None else {"axis": q.qtype.axis}
        return self.node("DequantizeLinear", [codes, *self._parameters(name, q, element)], output, **attributes)

    def _parameters(self, name: str, q: QParams, element: int) -> list[str]:
        scale = self.constant(f"{name}_scale", np.asarray(q.scale, dtype=np.float32))
        return [scale, self.constant(f"{name}_zero_point", np.asarray(q.zero_point), element)]

    def _clip(self, codes: str, output: str, storage: _Storage) -> str:
        if storage.clip is None:
            return codes
        bounds = [self.constant(f"{output}_{end}", np.array(value), storage.element) for end, value in zip(("min", "max"), storage.clip, strict=True)]
        return self.node("Clip", [codes, *bounds], self.free(output))

    def _write_bias(self, node: NodeProto, op: OpNode) -> None:
        """int32 codes with scale s_x * s_w, or with a multiple of it where they would not fit."""
        if not op.inputs or op.inputs[0] not in self.chosen or len(node.input) < 3 or node.input[2] not in self.initializers:
            return
        codes, scale = bias_codes(op, numpy_helper.to_array(self.initializers[node.input[2]]), self.chosen)
        axis = None if scale.ndim == 0 else 0
        codes, scale = (codes, scale) if axis is None else np.broadcast_arrays(codes, scale)
        q = QParams(QType(16, axis), np.ascontiguousarray(scale), np.zeros(scale.shape, dtype=np.int32))
        name = node.input[2]
        stored = self.constant(f"{name}_q", np.ascontiguousarray(codes).astype(np.int32))
        node.input[2] = self._dq(stored, self.free(f"{name}_dq"), name, q, TensorProto.INT32)

    def _write_operand(self, node: NodeProto, op: OpNode) -> None:
        """A constant operand as int8 codes, int16 ones beside activations of more than 8 bits; those of nodes that run as tables stay real."""
        if op.output not in self.chosen or not any(name in self.chosen for name in op.inputs):
            return
        widths = [self.chosen[name].qtype.bits for name in (*op.inputs, op.output) if name in self.chosen]
        element, bits = (TensorProto.INT16, 16) if max(widths) > 8 else (TensorProto.INT8, 8)
        for name in set(node.input):
            if name in self.initializers:
                real = numpy_helper.to_array(self.initializers[name])
                q = _constant_qparams(real, QType(bits))
                self._redirect(node, name, self._dequantized(name, integer.quantize(real, q), q, _Storage(element, None)))

    # ---- activations

    def _write_activations(self) -> None:
        sites = {name: q for name, q in self.chosen.items() if self.table.by_name[name].kind is SiteKind.ACTIVATION}
        written = self.table.written
        for value in self.model.graph.input:
            if value.name in sites:
                self._quantize_for(value.name, sites[value.name], self._readers(value.name, integer=True))
        for node in self.model.graph.node:
            outputs = [name for name in node.output if name in sites]
            readers = {name: self._readers(name, integer=name not in written) for name in outputs}
            results = {value.name for value in self.model.graph.output} & written
            reals = {name: self._real_output(node, name) if name in results else name for name in outputs}
            self.nodes.append(node)
            for name in outputs:
                self._quantize_for(reals[name], sites[name], readers[name], name)

    def _readers(self, name: str, *, integer: bool) -> list[NodeProto]:
        """Nodes that read `name`; with `integer` those alone that the table knows to read it as a site."""
        known = {op.name for op in self.table.nodes if name in op.inputs}
        return [node for node in self.model.graph.node if name in node.input and (node.name in known or not integer)]

    def _real_output(self, node: NodeProto, name: str) -> str:
        """Free a network output's name for the dequantized tensor: the node then writes another one."""
        real = self.free(f"{name}_real")
        node.output[list(node.output).index(name)] = real
        return real

    def _quantize_for(self, real: str, q: QParams, readers: list[NodeProto], name: str | None = None) -> None:
        """Q (Clip) DQ behind `real`, read by `readers`; the result is called `name` where `real` is not."""
        name = name or real
        if not readers and name == real:
            return
        storage = _activation_storage(q.qtype, self.opset)
        parameters = self._parameters(name, q, storage.element)
        limited = self._limit(real, name, q, storage)
        codes = self.node("QuantizeLinear", [limited, *parameters], self.free(f"{name}_q"))
        clipped = self._clip(codes, f"{name}_clipped", storage) if storage.element == TensorProto.INT8 else codes
        output = self.node("DequantizeLinear", [clipped, *parameters], name if name != real else self.free(f"{name}_dq"))
        for node in readers:
            self._redirect(node, name, output)

    def _limit(self, real: str, name: str, q: QParams, storage: _Storage) -> str:
        """9 to 15 bits: a Clip of real values, because runtimes have none for int16 codes."""
        if storage.clip is None or storage.element == TensorProto.INT8:
            return real
        ends = [self.constant(f"{name}_{end}", integer.dequantize(np.array(code), q)) for end, code in zip(("min", "max"), storage.clip, strict=True)]
        return self.node("Clip", [real, *ends], self.free(f"{name}_limited"))

    def _drop_clamps(self) -> None:
        """Leave out each fused Relu or Clip that cuts nothing that the output's codes could express: runtimes then fuse Conv and Q."""
        graph = self.model.graph
        producers = {name: node for node in graph.node for name in node.output}
        for op in self.table.nodes:
            clamp = producers.get(op.output)
            if op.fused and op.output in self.chosen and clamp is not None and self._is_void(clamp, self.chosen[op.output]):
                before = producers[clamp.input[0]]
                before.output[list(before.output).index(clamp.input[0])] = op.output
                graph.node.remove(clamp)

    def _is_void(self, clamp: NodeProto, q: QParams) -> bool:
        bounds = self._bounds(clamp)
        return bounds is not None and integer.quantize(np.array(bounds, dtype=np.float32), q).tolist() == [q.qtype.qmin, q.qtype.qmax]

    def _bounds(self, clamp: NodeProto) -> tuple[float, float] | None:
        if clamp.op_type == "Relu":
            return 0.0, float("inf")
        bounds = [-float("inf"), float("inf")]
        for i, name in enumerate(clamp.input[1:3]):
            if name and name not in self.initializers:
                return None
            bounds[i] = float(numpy_helper.to_array(self.initializers[name]).reshape(())) if name else bounds[i]
        return (bounds[0], bounds[1]) if clamp.op_type == "Clip" else None


def _constant_qparams(real: np.ndarray, qtype: QType) -> QParams:
    low, high = min(float(real.min()), 0.0), max(float(real.max()), 0.0)
    scale = np.float32((high - low) / (qtype.qmax - qtype.qmin) or 1.0)
    zero = int(np.clip(np.rint(qtype.qmin - low / scale), qtype.qmin, qtype.qmax))
    return QParams(qtype, np.asarray(scale), np.asarray(zero, dtype=np.int32))
