"""A QDQ model made static: constants folded, every tensor with a shape and a type, nodes in execution order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from mpqc.errors import ModelError
from mpqc.facts.ops import RANDOM
from mpqc.frontend.opset import canonical_opset
from mpqc.frontend.quantized_operators import as_qdq, holds_codes
from mpqc.frontend.reader import read_onnx
from mpqc.frontend.vocabulary import check_operators
from mpqc.passes.lib.base import CODE_RANGES, attribute, node_reads
from mpqc.passes.lib.evaluate import fits
from mpqc.passes.lib.windows import POOLS, floor_window
from mpqc.qdq.read.probe import probe

NEWEST_QDQ = 25
"""Opset of the newest QDQ files: the one that has int2"""
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
MAX_FOLDED_ELEMENTS = 1 << 26
"""Larger constants are not materialized: a hostile file can ask for any size in a few bytes."""
_NOT_FOLDED = RANDOM | {DEQUANTIZE, "If", "Loop", "Scan"}
_REFERENCE_ERRORS = (NotImplementedError, RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError)
_SUB_BYTE = (TensorProto.INT4, TensorProto.INT2, TensorProto.UINT4, TensorProto.UINT2)


@dataclass(frozen=True, eq=False)
class Source:
    """What the matchers look things up in. Sub-byte constants are held as int8 or uint8; `elements` has the file's type."""

    model: onnx.ModelProto
    nodes: tuple[NodeProto, ...]
    """Every node that is not a constant, in execution order, each with a unique name"""
    constants: Mapping[str, np.ndarray]
    elements: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def producers(self) -> Mapping[str, NodeProto]:
        """Tensor name -> node that writes it."""
        return {name: node for node in self.nodes for name in node.output if name}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[NodeProto, ...]]:
        """Tensor name -> nodes that read it (subgraphs included)."""
        readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node_reads(node)):
                readers.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Graph inputs that are not initializers."""
        return tuple(value.name for value in self.model.graph.input if value.name not in self.constants)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Graph outputs."""
        return tuple(value.name for value in self.model.graph.output)

    def is_constant(self, name: str) -> bool:
        """Whether `name` is a constant or dequantized from one."""
        node = self.producers.get(name)
        dequantized = node is not None and node.op_type == DEQUANTIZE and all(part in self.constants for part in node.input if part)
        return name in self.constants or dequantized

    def real(self, name: str) -> np.ndarray | None:
        """Value of a constant, also where it is dequantized from one; None where `name` is computed."""
        if name in self.constants or not self.is_constant(name):
            return self.constants.get(name)
        node = self.producers[name]
        return _dequantized(node, [self.constants[part] if part else None for part in node.input])


def _dequantized(node: NodeProto, arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    codes, scale = arrays[0], arrays[1]
    assert codes is not None, node.name
    assert scale is not None, node.name
    zero = arrays[2] if len(arrays) > 2 and arrays[2] is not None else np.zeros(scale.shape, dtype=np.int32)
    block, axis = attribute(node, "block_size", 0), attribute(node, "axis", 1)
    if block:
        scale, zero = (np.repeat(part, block, axis)[tuple(slice(size) for size in codes.shape)] for part in (scale, zero))
    elif scale.size == 1 == zero.size:
        scale, zero = scale.reshape(()), zero.reshape(())
    else:
        shape = [-1 if i == axis % codes.ndim else 1 for i in range(codes.ndim)]
        if not scale.size == zero.size == codes.shape[axis % codes.ndim]:
            raise ModelError("scale or zero point does not fit the tensor's shape", where=node.name)
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return ((codes.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * scale.astype(np.float32)).astype(scale.dtype)


def array(tensor: TensorProto) -> np.ndarray:
    """The tensor's values; int4/int2 as int8, uint4/uint2 as uint8."""
    values = numpy_helper.to_array(tensor)
    return values.astype(_held(tensor.data_type)) if tensor.data_type in _SUB_BYTE else values


def _held(element: int) -> type[np.integer]:
    """The numpy type that codes of an element type are held in."""
    low, high = CODE_RANGES[element]
    byte, pair = (np.int8, np.int16) if low < 0 else (np.uint8, np.uint16)
    return byte if high - low < 256 else pair


def load_source(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> Source:
    """`model`, sound as `open_model` gives it, with static shapes, Constant nodes and constant expressions folded.

    `shapes` fixes inputs with symbolic dimensions; a symbolic first dimension that is not given is taken as 1.
    Raises ModelError for tensors whose shape stays unknown, or has more elements than a tensor may have.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    if proto.functions:
        proto = inline_local_functions(proto)
    check_operators(proto)
    if any(holds_codes(node) for node in proto.graph.node):
        proto = as_qdq(canonical_opset(proto))
    _fix_inputs(proto.graph, shapes or {})
    _name_nodes(proto.graph)
    constants, elements = _initializers(proto.graph)
    folded = _fold(proto, constants, elements)
    nodes = _live([node for node in proto.graph.node if not all(name in constants for name in node.output if name)], proto.graph)
    found_shapes, found_elements = folded
    for name in (name for node in nodes for name in node.output if name in found_shapes):
        fits(name, found_shapes[name])
    empty = next((name for node in nodes for name in node.output if name and 0 in found_shapes.get(name, ())), None)
    if empty is not None:
        raise ModelError("the tensor has no elements", where=empty, why=f"shape {list(found_shapes[empty])}", hint="simplify the model first")
    source = Source(proto, nodes, constants, {**found_elements, **elements}, found_shapes)
    return _with_missing_shapes(source)


def _live(nodes: Sequence[NodeProto], graph: onnx.GraphProto) -> tuple[NodeProto, ...]:
    """Those of `nodes`, in execution order, that an output of the graph needs: what nobody reads may have any size."""
    needed, found = {value.name for value in graph.output}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node_reads(node))
            found.append(node)
    return tuple(reversed(found))


def open_model(model: onnx.ModelProto | str | Path) -> onnx.ModelProto:
    """The checked model in a file, or `model` itself. Raises ModelError for what is no ONNX model."""
    if not isinstance(model, onnx.ModelProto):
        return read_onnx(Path(model), newest=NEWEST_QDQ)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker, protobuf and the file system raise unrelated types; each means the file cannot be read
        raise ModelError("cannot read the ONNX model", where=model.graph.name, why=str(error).split("\n")[0]) from error
    return model


def _fix_inputs(graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]]) -> None:
    initialized = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in initialized:
            _fix_input(value, shapes.get(value.name))
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    graph.ClearField("value_info")


def _fix_input(value: onnx.ValueInfoProto, shape: Sequence[int] | None) -> None:
    dims = value.type.tensor_type.shape.dim
    _check_element(value)
    if shape is not None and len(shape) != len(dims):
        raise ModelError(f"given shape {list(shape)} has another rank than the model's", where=value.name)
    for axis, dim in enumerate(dims):
        fixed = shape[axis] if shape is not None else dim.dim_value if dim.HasField("dim_value") else 1 if axis == 0 else 0
        if fixed <= 0:
            raise ModelError(f"dimension {axis} is symbolic", where=value.name, hint="give the input's shape")
        dim.dim_value = fixed
    fits(value.name, [dim.dim_value for dim in dims])


def _check_element(value: onnx.ValueInfoProto) -> None:
    try:
        known = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) != np.dtype(object)
    except (KeyError, ValueError):
        known = False
    if not known:
        raise ModelError("the input is no tensor of numbers of a known type", where=value.name, hint="export the model with typed inputs")


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}_{index}"
        taken.add(node.name)


def _initializers(graph: onnx.GraphProto) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    constants = {tensor.name: array(tensor) for tensor in graph.initializer}
    elements = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return constants, elements


def _fold(proto: onnx.ModelProto, constants: dict[str, np.ndarray], elements: dict[str, int]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    while True:
        shapes, found = _inferred(proto, constants)
        fresh = _fold_once(proto, constants, elements, shapes)
        for name, value in constants.items():
            shapes[name] = value.shape
        if not fresh:
            return shapes, found


def _fold_once(proto: onnx.ModelProto, constants: dict[str, np.ndarray], elements: dict[str, int], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    fresh = False
    for node in proto.graph.node:
        if node.output and node.output[0] not in constants:
            values = _evaluated(proto, node, constants, elements, shapes)
            for name, (value, element) in values.items():
                constants[name], elements[name], fresh = value, element, True
    return fresh


def _evaluated(
    proto: onnx.ModelProto,
    node: NodeProto,
    constants: Mapping[str, np.ndarray],
    elements: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, tuple[np.ndarray, int]]:
    if node.op_type == "Constant":
        tensor = _constant_tensor(node)
        return {node.output[0]: (array(tensor), tensor.data_type)} if tensor else {}
    if node.op_type == "Shape" and node.input[0] in shapes:
        dims = shapes[node.input[0]][slice(attribute(node, "start", 0), attribute(node, "end", None))]
        return {node.output[0]: (np.array(dims, dtype=np.int64), TensorProto.INT64)}
    if node.op_type in _NOT_FOLDED or not node.input or any(name not in constants for name in node_reads(node)):
        return {}
    if node.domain not in ("", "ai.onnx", "com.microsoft") or _too_large(node, constants, shapes):
        return {}
    if node.op_type == QUANTIZE:
        return _quantized(node, constants, elements)
    if node.op_type == "Cast" and attribute(node, "to", 0) in CODE_RANGES and elements[node.input[0]] in CODE_RANGES:
        return _cast(node, constants)
    return _run_reference(proto, node, constants, elements)


def _too_large(node: NodeProto, constants: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    if node.op_type == "ConstantOfShape":
        return int(np.prod(constants[node.input[0]].astype(np.float64))) > MAX_FOLDED_ELEMENTS
    return any(np.prod(shapes[name], dtype=np.float64) > MAX_FOLDED_ELEMENTS for name in node.output if name in shapes)


def _constant_tensor(node: NodeProto) -> TensorProto | None:
    value = attribute(node, "value", None)
    if isinstance(value, TensorProto):
        return value
    for name, kind in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64), ("value_ints", np.int64)):
        value = attribute(node, name, None)
        if value is not None:
            return numpy_helper.from_array(np.array(value, dtype=kind))
    return None


def _quantized(node: NodeProto, constants: Mapping[str, np.ndarray], elements: Mapping[str, int]) -> dict[str, tuple[np.ndarray, int]]:
    """A float constant behind Q as integer codes; {} for blocks and for types that are not integers of at most 16 bits."""
    element = elements[node.input[2]] if len(node.input) > 2 and node.input[2] else attribute(node, "output_dtype", 0) or TensorProto.UINT8
    real, scale = constants[node.input[0]], constants[node.input[1]]
    if element not in CODE_RANGES or attribute(node, "block_size", 0) or scale.ndim > 1:
        return {}
    zero = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(scale.shape, dtype=np.int32)
    shape = [-1 if i == attribute(node, "axis", 1) % max(real.ndim, 1) else 1 for i in range(real.ndim)] if scale.size > 1 else []
    steps = np.rint(real.astype(np.float32) / scale.astype(np.float32).reshape(shape)) + zero.astype(np.float32).reshape(shape)
    return {node.output[0]: (np.clip(steps, *CODE_RANGES[element]).astype(_held(element)), element)}


def _cast(node: NodeProto, constants: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, int]]:
    """An integer constant in another integer type, the bits that do not fit cut off; {} for types of less than a byte, whose wrapping numpy lacks."""
    element = int(attribute(node, "to", 0))
    value = constants[node.input[0]]
    low, high = CODE_RANGES[element]
    if element in _SUB_BYTE and value.size and (value.min() < low or value.max() > high):
        return {}
    return {node.output[0]: (value.astype(_held(element)), element)}


def _run_reference(
    proto: onnx.ModelProto, node: NodeProto, constants: Mapping[str, np.ndarray], elements: Mapping[str, int]
) -> dict[str, tuple[np.ndarray, int]]:
    if any(elements[name] in _SUB_BYTE for name in node.input if name):
        return {}
    feeds = {name: constants[name] for name in node.input if name}
    try:
        results = evaluate((node,), feeds, [name for name in node.output if name], proto)
    except _REFERENCE_ERRORS:  # the reference has no rule for this node: it stays a node, and so a float op with its reason
        return {}
    tensors = {name: value for name, value in zip((n for n in node.output if n), results, strict=True) if isinstance(value, np.ndarray)}
    return {name: (value, helper.np_dtype_to_tensor_dtype(value.dtype)) for name, value in tensors.items()}


def evaluate(nodes: Sequence[NodeProto], feeds: Mapping[str, np.ndarray], outputs: Sequence[str], proto: onnx.ModelProto) -> list[Any]:
    """Results of `nodes` in ONNX's own reference implementation, in the opset of `proto`."""
    values = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape) for name, value in feeds.items()]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    standard = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        if copy.op_type in (QUANTIZE, DEQUANTIZE):
            copy.domain = ""
        standard.append(copy)
    graph = helper.make_graph(standard, "expression", values, results)
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    return list(ReferenceEvaluator(model).run(list(outputs), dict(feeds)))


def _inferred(proto: onnx.ModelProto, constants: Mapping[str, np.ndarray]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    known = onnx.ModelProto()
    known.CopyFrom(proto)
    present = {tensor.name for tensor in known.graph.initializer}
    small = {name: value for name, value in constants.items() if name not in present}
    known.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in small.items())
    kept = [node for node in known.graph.node if not all(name in small for name in node.output if name)]
    for node in kept:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            node.domain = ""  # ONNX Runtime's own Q/DQ have the standard's shapes and types
    del known.graph.node[:]
    known.graph.node.extend(kept)
    values, shapes = _shapes(known)
    while _without_ceil(known.graph, shapes):
        values, shapes = _shapes(known)
    return shapes, {value.name: value.type.tensor_type.elem_type for value in values if value.type.tensor_type.elem_type}


def _shapes(model: onnx.ModelProto) -> tuple[list[onnx.ValueInfoProto], dict[str, tuple[int, ...]]]:
    result = onnx.shape_inference.infer_shapes(model, data_prop=True)
    values = [*result.graph.value_info, *result.graph.input, *result.graph.output]
    return values, {value.name: dims for value in values if (dims := _dims(value)) is not None}


def _without_ceil(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Writes the first pool with ceil_mode whose input's shape is known as one of the same size without; False where there is none.

    ONNX's shape inference counts a last window that would start behind the input, which runtimes leave out.
    """
    for node in graph.node:
        if node.op_type in POOLS and attribute(node, "ceil_mode", 0) and node.input[0] in shapes:
            window = floor_window(node, shapes[node.input[0]])
            for item in [item for item in node.attribute if item.name in ("ceil_mode", "auto_pad", "pads")]:
                node.attribute.remove(item)
            node.attribute.append(helper.make_attribute("pads", window))
            return True
    return False


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def _with_missing_shapes(source: Source) -> Source:
    needed = [name for node in source.nodes for name in node.output if name]
    missing = [name for name in needed if name not in source.shapes or not source.elements.get(name)]
    if not missing:
        return source
    inputs = {name: (source.shapes[name], source.elements[name]) for name in source.inputs}
    shapes, elements = probe(source.model, inputs, missing)
    return Source(source.model, source.nodes, source.constants, {**source.elements, **elements}, {**source.shapes, **shapes})
