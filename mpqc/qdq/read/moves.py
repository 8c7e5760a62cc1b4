"""Data movement on codes: any op that only copies elements, described by where each output element comes from."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from mpqc.facts.ops import is_view
from mpqc.passes.lib.base import attribute, node_reads
from mpqc.qdq.read.builder import Builder, Codes
from mpqc.qdq.read.probe import session
from mpqc.qdq.read.source import evaluate
from mpqc.values.program import Move, Op


def move(builder: Builder, node: NodeProto, x: Codes, results: dict[str, Codes]) -> list[Op] | str:
    """One Move for each output in `results` (file tensor -> code tensor), or the reason why the node does not merely move."""
    if any(name not in builder.source.constants for name in node_reads(node)[1:]):
        return "an operand besides the data is computed at run time"
    if is_view(node.op_type):
        if len(results) > 1 or _trains(builder, node):
            return f"{node.op_type} with a mask or in training has no integer kernel"
        return [Move(node.name, (x.name,), (next(iter(results.values())).name,), node.op_type)]
    places = np.arange(int(np.prod(x.shape)), dtype=np.int64).reshape(x.shape)
    feeds = {name: builder.source.constants[name] for name in node.input[1:] if name}
    found = evaluate((node,), {node.input[0]: places, **feeds}, list(results), builder.source.model)
    return [_move(node, x, codes, index) for codes, index in zip(results.values(), found, strict=True)]


def _trains(builder: Builder, node: NodeProto) -> bool:
    mode = builder.source.constants.get(node.input[2]) if node.op_type == "Dropout" and len(node.input) > 2 else None
    return mode is not None and bool(mode.any())


def _move(node: NodeProto, x: Codes, y: Codes, index: np.ndarray) -> Move:
    flat = np.ascontiguousarray(index).reshape(-1).astype(np.int64)
    if node.op_type == "Transpose":
        perm = tuple(attribute(node, "perm", list(range(len(x.shape)))[::-1]))
        return Move(node.name, (x.name,), (y.name,), "Transpose", flat, perm)
    in_place = flat.size == np.prod(x.shape) and bool((flat == np.arange(flat.size)).all())
    return Move(node.name, (x.name,), (y.name,), node.op_type, None if in_place else flat)


def pad_move(builder: Builder, node: NodeProto, x: Codes, y: Codes) -> Op | str:
    """Pad in reflect, edge or wrap mode as a Move."""
    places = np.arange(int(np.prod(x.shape)), dtype=np.int64).reshape(x.shape)
    feeds = {name: builder.source.constants[name] for name in node.input[1:] if name in builder.source.constants}
    if len(feeds) != len([name for name in node.input[1:] if name]):
        return "pads are not constant"
    found = evaluate((node,), {node.input[0]: places, **feeds}, [node.output[0]], builder.source.model)
    return _move(node, x, y, found[0])


def run_node(builder: Builder, node: NodeProto, value: np.ndarray) -> list[np.ndarray]:
    """Outputs of one node in ONNX Runtime with `value` as its first input and the file's constants as the others."""
    constants = [numpy_helper.from_array(builder.source.constants[name], name) for name in node.input[1:] if name]
    feed = helper.make_tensor_value_info(node.input[0], helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
    results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "node", [feed], results, constants)
    proto = builder.source.model
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    return [np.asarray(result) for result in session(model.SerializeToString()).run(None, {node.input[0]: value})]
