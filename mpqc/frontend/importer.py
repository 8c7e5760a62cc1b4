"""Canonical ONNX -> torch.fx, node for node."""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import fx, nn

from mpqc.frontend import ops
from mpqc.frontend.ort_region import OrtRegion
from mpqc.frontend.registry import OpEntry
from mpqc.passes.lib.base import node_reads
from mpqc.passes.lib.evaluate import single_node_model, type_of
from mpqc.values.network import Origin
from mpqc.values.site import FloatNode

_STORED_ONLY = frozenset({onnx.TensorProto.UINT16, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64})


@dataclass(frozen=True, eq=False)
class Imported:
    """The FX graph, what ONNX Runtime runs of it, and where each initializer went."""

    module: fx.GraphModule
    floats: tuple[FloatNode, ...]
    attributes: Mapping[str, str]


class _RefusedError(Exception):
    """Why a node cannot be a call of an op function."""


def import_graph(model: onnx.ModelProto) -> Imported:
    """FX graph of a canonical model. Nodes that no op function covers become OrtRegions; none is an error."""
    importer = _Importer(model)
    importer.add_inputs()
    for node in model.graph.node:
        importer.add_node(node)
    return importer.finish()


@dataclass
class _Importer:
    model: onnx.ModelProto
    graph: fx.Graph = field(default_factory=fx.Graph)
    root: nn.Module = field(default_factory=nn.Module)
    values: dict[str, fx.Node] = field(default_factory=dict)
    floats: list[FloatNode] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=lambda: {"self"})

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.types = {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}
        self.types.update({name: type_of(tensor) for name, tensor in self.constants.items()})

    def add_inputs(self) -> None:
        for value in self.model.graph.input:
            node = self.graph.placeholder(self.free_name(safe_name(value.name)))
            self.bind(value.name, node, Origin(value.name, "", ""))

    def bind(self, tensor: str, node: fx.Node, origin: Origin) -> None:
        node.meta["origin"] = origin
        node.meta["shape"], node.meta["dtype"] = shape_and_dtype(self.types[tensor])
        self.values[tensor] = node

    def add_node(self, node: onnx.NodeProto) -> None:
        try:
            call = self.call_function(node)
        except _RefusedError as refusal:
            call = self.call_region(node)
            self.floats.append(FloatNode(node.name, node.op_type, str(refusal)))
        self.bind_outputs(node, call)

    def bind_outputs(self, node: onnx.NodeProto, call: fx.Node) -> None:
        names = list(node.output)
        first = next(name for name in names if name)
        self.bind(first, call, Origin(first, node.name, node.op_type))
        if self.returns_tensor(node, call):
            return
        for index, name in enumerate(names):
            if name:
                item = self.graph.call_function(operator.getitem, (call, index))
                self.bind(name, item, Origin(name, node.name, node.op_type))

    def returns_tensor(self, node: onnx.NodeProto, call: fx.Node) -> bool:
        entry = ops.OPS.get(node.op_type)
        return len(node.output) == 1 if call.op == "call_module" or entry is None else entry.outputs == 1

    def call_function(self, node: onnx.NodeProto) -> fx.Node:
        entry = ops.OPS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if entry is None:
            raise _RefusedError(f"operator {node.domain + ':' if node.domain else ''}{node.op_type} is not known to the importer")
        self.check_arithmetic(node)
        given = len([name for name in node.output if name])
        if entry.outputs is not None and given > entry.outputs:
            raise _RefusedError(f"{given} outputs of {node.op_type} are not supported")
        keywords = attributes_of(node, entry)
        arguments = [self.argument(node, position, entry) for position in range(len(node.input))]
        return self.graph.call_function(entry.function, tuple(arguments), keywords)

    def check_arithmetic(self, node: onnx.NodeProto) -> None:
        """torch stores the wider unsigned integers and does not compute with them."""
        for name in filter(None, (*node.input, *node.output)):
            kind = self.types[name].tensor_type.elem_type
            if kind in _STORED_ONLY:
                raise _RefusedError(f"torch does not compute with {onnx.TensorProto.DataType.Name(kind).lower()}")

    def argument(self, node: onnx.NodeProto, position: int, entry: OpEntry) -> Any:
        name = node.input[position]
        if not name:
            return None
        if position in entry.absent:
            raise _RefusedError(f"input {position} of {node.op_type} ({name!r}) is not supported")
        if name in self.constants and position in entry.scalars:
            return numpy_helper.to_array(self.constants[name]).reshape(-1)[0].item()
        if name in self.constants and position in entry.static:
            return numpy_helper.to_array(self.constants[name]).tolist()
        if position in entry.static:
            raise _RefusedError(f"input {name!r} of {node.op_type} is computed at run time")
        return self.tensor(name)

    def tensor(self, name: str) -> fx.Node:
        """The FX node of a tensor; an initializer becomes an attribute of the module when it is first read."""
        if name not in self.values:
            target = self.add_attribute(name)
            node = self.graph.create_node("get_attr", target, name=target)
            self.bind(name, node, Origin(name, "", ""))
        return self.values[name]

    def add_attribute(self, name: str) -> str:
        value = to_torch(self.constants[name])
        target = self.free_name(safe_name(name))
        if value.is_floating_point():
            self.root.register_parameter(target, nn.Parameter(value))
        else:
            self.root.register_buffer(target, value)
        self.attributes[name] = target
        return target

    def free_name(self, base: str) -> str:
        """`base`, numbered where a module attribute, an argument or a keyword has that name."""
        name, count = base, 0
        while name in self.used or hasattr(fx.GraphModule, name) or hasattr(self.root, name) or keyword.iskeyword(name):
            count += 1
            name = f"{base}_{count}"
        self.used.add(name)
        return name

    def call_region(self, node: onnx.NodeProto) -> fx.Node:
        reads = [name for name in node_reads(node) if name not in self.constants]
        model = single_node_model(node, self.types, self.constants, self.model.opset_import)
        target = self.free_name(safe_name(f"region_{node.name}"))
        self.root.add_module(target, OrtRegion(node.name, node.op_type, model.SerializeToString(), tuple(bool(name) for name in node.output)))
        return self.graph.call_module(target, tuple(self.tensor(name) for name in reads))

    def finish(self) -> Imported:
        outputs = tuple(self.tensor(value.name) for value in self.model.graph.output)
        self.graph.output(outputs)
        module = fx.GraphModule(self.root, self.graph, class_name="Network")
        module.graph.lint()
        return Imported(module, tuple(self.floats), dict(self.attributes))


def attributes_of(node: onnx.NodeProto, entry: OpEntry) -> dict[str, Any]:
    """ONNX attributes as keyword arguments."""
    values = {item.name: _plain(helper.get_attribute_value(item)) for item in node.attribute}
    unknown = sorted(set(values) - entry.attributes - entry.ignored)
    if unknown:
        raise _RefusedError(f"attribute {unknown[0]} of {node.op_type} is not supported")
    reason = entry.refuse(values)
    if reason:
        raise _RefusedError(reason)
    return {name: value for name, value in values.items() if name not in entry.ignored}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return [_plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def to_torch(tensor: onnx.TensorProto) -> torch.Tensor:
    """An initializer as a torch tensor of the same type."""
    array = np.array(numpy_helper.to_array(tensor), order="C")
    if tensor.data_type == onnx.TensorProto.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise _RefusedError(f"torch has no {array.dtype.name} constants ({tensor.name!r})") from error


def shape_and_dtype(kind: onnx.TypeProto) -> tuple[tuple[int, ...], str]:
    """Fixed shape and numpy dtype name of a type."""
    shape = tuple(dim.dim_value for dim in kind.tensor_type.shape.dim)
    return shape, np.dtype(helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)).name


def safe_name(name: str) -> str:
    """A Python identifier close to `name`."""
    cleaned = re.sub(r"\W", "_", name, flags=re.ASCII)
    return cleaned if cleaned and not cleaned[0].isdigit() else f"t_{cleaned}"
