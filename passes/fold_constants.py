"""Compute what does not depend on the inputs, and give every other tensor its fixed type and shape: one walk in execution order.

A node whose inputs are all known is run once in ONNX Runtime; Shape and Size of a tensor of fixed shape are known; If, Loop and
Scan are written out (control_flow.py). Everything else gets ONNX's own shape inference for that node, with the
known values at hand, so that shape arithmetic is resolved on the way. Sizes are checked before anything is computed. Windows of convolutions and
pools are written out as they are met (windows.py), because the shapes behind them depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference

from mpqc.errors import ModelError
from mpqc.facts.ops import RANDOM, STANDARD_DOMAINS
from mpqc.passes.lib.base import PassResult, first_line, node_reads, subgraphs
from mpqc.passes.lib.control_flow import write_out_if, write_out_loop, write_out_scan
from mpqc.passes.lib.evaluate import fits, probe_types, run_node, type_of
from mpqc.passes.lib.windows import is_windowed, write_out

CONTROL = {"If": write_out_if, "Loop": write_out_loop, "Scan": write_out_scan}
SHAPE_INPUTS: Mapping[str, tuple[int, ...]] = {
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MelWeightMatrix": (0, 1),
    "NonMaxSuppression": (2,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}
"""Op type -> inputs whose values decide the shape of a result"""
COUNTING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Ops whose results are as many as they find"""
GROW_LIMIT = 1 << 20
"""Elements above which a constant is only stored when it is no larger than what it is made from."""


@dataclass(frozen=True)
class FoldConstants:
    """Replace constant sub-graphs by initializers, write out If, Loop and Scan, write value_info for every tensor."""

    name: ClassVar[str] = "fold-constants"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Raises ModelError where a tensor has no fixed shape or an absurd one."""
        folder = _Folder(model)
        folder.walk(model.graph.node)
        folded = folder.finish()
        return PassResult(folded, folded.SerializeToString(deterministic=True) != model.SerializeToString(deterministic=True), tuple(folder.notes))


@dataclass
class _Folder:
    """State of the walk: what is known about every tensor so far."""

    model: onnx.ModelProto
    types: dict[str, onnx.TypeProto] = field(default_factory=dict)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unrolled: int = 0

    def __post_init__(self) -> None:
        for tensor in self.model.graph.initializer:
            self.add_constant(tensor.name, tensor)
        for value in self.model.graph.input:
            if value.name not in self.constants:
                self.set_type(value.name, value.type)

    def walk(self, nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            self.visit(node)

    def visit(self, node: onnx.NodeProto) -> None:
        if node.op_type in CONTROL and node.domain in STANDARD_DOMAINS:
            self.enter(node)
        elif is_windowed(node) and all(self.elements(name) for name in node.input if name):
            for each in write_out(node, self.shape(node.input[0]), self.shape(node.input[1]) if len(node.input) > 1 else ()):
                self.keep_or_fold(each)
        else:
            self.keep_or_fold(node)

    def keep_or_fold(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Concat":
            node = self.without_empty(node)
        if self.fold(node):
            return
        self.infer(node)
        if any(_elements(self.types[name]) for name in node.output if name):
            self.nodes.append(node)
            return
        for name in filter(None, node.output):  # nothing to compute: a Slice that takes nothing, for example
            kind = self.types[name].tensor_type
            self.add_constant(name, helper.make_tensor(name, kind.elem_type, self.shape(name), b"", raw=True))

    def without_empty(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """A Concat without the inputs that have no elements, unless none has any."""
        full = [name for name in node.input if self.elements(name)]
        if not full or len(full) == len(node.input):
            return node
        found = helper.make_node("Concat", full, node.output, node.name)
        found.attribute.extend(node.attribute)
        return found

    def elements(self, name: str) -> int:
        return _elements(self.types[name])

    def shape(self, name: str) -> list[int]:
        return [dim.dim_value for dim in self.types[name].tensor_type.shape.dim]

    def fold(self, node: onnx.NodeProto) -> bool:
        """Whether the node's outputs became constants."""
        if node.op_type in RANDOM or node.domain not in STANDARD_DOMAINS:
            return False
        if node.op_type == "Constant" and [item.name for item in node.attribute] == ["value"]:
            self.add_constant(node.output[0], node.attribute[0].t)
            return True
        if node.op_type in ("Shape", "Size"):
            self.fold_shape(node)
            return True
        if any(name not in self.constants for name in node.input if name) or any(True for _ in subgraphs(node)):
            return False
        self.infer(node, strict=False)
        if not self.worth_storing(node):
            return False
        for name, tensor in run_node(node, self.constants, self.model.opset_import).items():
            self.add_constant(name, tensor)
        return True

    def fold_shape(self, node: onnx.NodeProto) -> None:
        """Shape (with start and end) or Size of a tensor whose shape is fixed."""
        dims = self.shape(node.input[0])
        options = {item.name: item.i for item in node.attribute}
        part = dims[options.get("start", 0) : options.get("end", len(dims))]
        value = np.asarray(part if node.op_type == "Shape" else prod(dims), np.int64)
        self.add_constant(node.output[0], numpy_helper.from_array(value, node.output[0]))

    def worth_storing(self, node: onnx.NodeProto) -> bool:
        """False for a small constant blown up (Expand, Tile...) beyond what a file should hold."""
        stored = sum(prod(self.constants[name].dims) for name in node.input if name)
        sizes = [_elements(self.types[name]) for name in node.output if name in self.types]
        return all(size <= max(stored, GROW_LIMIT) for size in sizes)

    def infer(self, node: onnx.NodeProto, *, strict: bool = True) -> None:
        """Types of the node's outputs; with `strict` they must be complete."""
        found = self.inferred(node)
        if strict:
            self.check_size_is_no_result(node)
        missing = [name for name in node.output if name and not is_fixed(found.get(name))]
        if missing and strict:
            self.check_shape_inputs(node)
            found.update(probe_types(node, self.types, self.constants, self.model.opset_import))
            self.notes.append(f"{node.op_type} {node.name!r}: shapes taken from a trial run")
        for name, kind in found.items():
            if is_fixed(kind):
                self.set_type(name, kind)

    def check_size_is_no_result(self, node: onnx.NodeProto) -> None:
        """Raises ModelError for a node that finds as many things as there are: trial runs say nothing of the next one."""
        if node.domain not in STANDARD_DOMAINS or node.op_type not in COUNTING:
            return
        if node.op_type == "Compress" and node.input[1] in self.constants:
            return
        hint = "cut the model before this node, and do that part outside of the network"
        raise ModelError("its shape depends on the data", where=f"{node.op_type} {node.name!r}", hint=hint)

    def check_shape_inputs(self, node: onnx.NodeProto) -> None:
        """Raises ModelError where the shape of a result is a value that is computed at run time."""
        places = SHAPE_INPUTS.get(node.op_type, ()) if node.domain in STANDARD_DOMAINS else ()
        given = [(place, node.input[place]) for place in places if place < len(node.input)]
        computed = next((name for _, name in given if name and name not in self.constants), None)
        if computed is not None:
            why = f"{computed!r} decides it and is computed at run time"
            hint = f"fix it with --value {computed}=... where it is an input, or cut the model before this node"
            raise ModelError("its shape is not known before it runs", where=f"{node.op_type} {node.name!r}", why=why, hint=hint)

    def inferred(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        if any(True for _ in subgraphs(node)) or not defs.has(node.op_type, self.opset(node.domain), node.domain):
            return {}
        schema = defs.get_schema(node.op_type, self.opset(node.domain), node.domain)
        types = {name: self.types[name] for name in node.input if name}
        values = {name: self.constants[name] for name in node.input if name in self.constants}
        try:
            return dict(
                shape_inference.infer_node_outputs(
                    schema, node, types, values, opset_imports=list(self.model.opset_import), ir_version=self.model.ir_version
                )
            )
        except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
            raise ModelError("invalid node", where=f"{node.op_type} {node.name!r}", why=first_line(error)) from error

    def opset(self, domain: str) -> int:
        return next((entry.version for entry in self.model.opset_import if entry.domain == domain), 1)

    def set_type(self, name: str, kind: onnx.TypeProto) -> None:
        fits(name, [dim.dim_value for dim in kind.tensor_type.shape.dim])
        self.types[name] = kind

    def add_constant(self, name: str, tensor: onnx.TensorProto) -> None:
        named = onnx.TensorProto()
        named.CopyFrom(tensor)
        named.name = name
        self.constants[name] = named
        self.set_type(name, type_of(named))

    def enter(self, node: onnx.NodeProto) -> None:
        """If, Loop or Scan as the nodes of their bodies."""
        reason = CONTROL[node.op_type](self, node)
        if reason:
            hint = "cut the model before it, or export it with a fixed number of iterations"
            raise ModelError("cannot be written out as a fixed sequence of nodes", where=f"{node.op_type} {node.name!r}", why=reason, hint=hint)

    def finish(self) -> onnx.ModelProto:
        """The model made of the nodes that are left, without what nobody reads."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        graph = model.graph
        self.write_constant_outputs([value.name for value in graph.output])
        nodes = _needed(self.nodes, [value.name for value in graph.output])
        reads = {name for node in nodes for name in node_reads(node)} | {value.name for value in graph.output}
        inputs = [value for value in graph.input if value.name not in {tensor.name for tensor in graph.initializer}]
        made = [name for node in nodes for name in node.output if name]
        outputs = [self.value_info(value.name) for value in graph.output]
        names = {value.name for value in graph.output}
        for name in sorted(names):
            self.check_output(name)
        _replace(graph.node, nodes)
        _replace(graph.input, inputs)
        _replace(graph.initializer, [tensor for name, tensor in self.constants.items() if name in reads and name not in made])
        _replace(graph.value_info, [self.value_info(name) for name in made if name not in names])
        _replace(graph.output, outputs)
        return model

    def write_constant_outputs(self, outputs: list[str]) -> None:
        """A constant that is an output gets a node that writes it: an ONNX file whose output no node makes is not valid."""
        for name in outputs:
            if name in self.constants and self.elements(name):
                source = f"{name}.constant"
                self.add_constant(source, self.constants[name])
                self.nodes.append(helper.make_node("Identity", [source], [name], source))

    def check_output(self, name: str) -> None:
        if name in self.types and not self.elements(name):
            raise ModelError(
                "the output has no elements", where=f"tensor {name!r}", why=f"shape {self.shape(name)}", hint="leave it out of the outputs"
            )

    def value_info(self, name: str) -> onnx.ValueInfoProto:
        if name not in self.types:
            raise ModelError("no fixed shape", where=f"tensor {name!r}", hint="fix the input shapes with --shape, or cut the model before it")
        value = onnx.ValueInfoProto(name=name)
        value.type.CopyFrom(self.types[name])
        return value


def is_fixed(kind: onnx.TypeProto | None) -> bool:
    """Whether a type is a tensor of known element type whose every dimension has a value."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.elem_type or not kind.tensor_type.HasField("shape"):
        return False
    return all(dim.HasField("dim_value") for dim in kind.tensor_type.shape.dim)


def _elements(kind: onnx.TypeProto) -> int:
    return prod(dim.dim_value for dim in kind.tensor_type.shape.dim)


def _needed(nodes: list[onnx.NodeProto], outputs: list[str]) -> list[onnx.NodeProto]:
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node_reads(node))
    return kept[::-1]


def _replace(field_: object, values: list) -> None:  # type: ignore[type-arg]
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field_[:]  # type: ignore[attr-defined]
    field_.extend(copies)  # type: ignore[attr-defined]
