"""The last steps of reading: drop what nothing needs, order, and close float nodes into maximal convex regions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mpqc.passes.lib.base import node_reads
from mpqc.qdq.read.builder import UNQUANTIZED, Builder, FloatNode
from mpqc.values.program import Float, Op


def live(ops: Sequence[Op], outputs: Iterable[str]) -> list[Op]:
    """The ops that `outputs` depend on, in their order."""
    producers = {name: op for op in ops for name in op.outputs}
    needed: set[int] = set()
    pending = [producers[name] for name in outputs if name in producers]
    while pending:
        op = pending.pop()
        if id(op) not in needed:
            needed.add(id(op))
            pending += [producers[name] for name in op.inputs if name in producers]
    return [op for op in ops if id(op) in needed]


def ordered(ops: Sequence[Op]) -> list[Op]:
    """`ops` in execution order, keeping the given order where it may."""
    producers = {name: op for op in ops for name in op.outputs}
    done: set[int] = set()
    result: list[Op] = []
    for first in ops:
        stack = [first]
        while stack:
            waiting = [producers[name] for name in stack[-1].inputs if name in producers and id(producers[name]) not in done]
            if waiting:
                stack.append(waiting[0])
                continue
            op = stack.pop()
            if id(op) not in done:
                done.add(id(op))
                result.append(op)
    return result


def close_regions(builder: Builder, ops: Sequence[Op], outputs: Sequence[str]) -> list[Op]:
    """`ops` (in execution order) with adjacent float nodes merged into Float ops, in execution order.

    Two regions that touch are merged unless a path between them runs through something else: the result is convex, and no
    further merge of neighbours is possible.
    """
    merged = _merge(ops)
    read_outside = {name: [op for op in ops if name in op.inputs] for op in ops if isinstance(op, FloatNode) for name in op.outputs}
    closed: list[Op] = [op for op in ops if not isinstance(op, FloatNode)]
    for region in merged:
        inside = {id(op) for op in region}
        exposed = [name for op in region for name in op.outputs if name in outputs or any(id(user) not in inside for user in read_outside[name])]
        closed.append(_region(builder, region, exposed))
    return ordered(closed)


def _merge(ops: Sequence[Op]) -> list[list[FloatNode]]:
    """Groups of float nodes, each in execution order."""
    producers = {name: i for i, op in enumerate(ops) for name in op.outputs}
    group = list(range(len(ops)))
    members = {i: [i] for i in range(len(ops))}
    follows: dict[int, set[int]] = {i: set() for i in range(len(ops))}
    edges = [(producers[name], i) for i, op in enumerate(ops) for name in op.inputs if name in producers]
    for before, after in edges:
        follows[before].add(after)
    for before, after in edges:
        a, b = group[before], group[after]
        if a != b and isinstance(ops[before], FloatNode) and isinstance(ops[after], FloatNode) and not _detour(follows, a, b):
            _join(group, members, follows, a, b)
    return [[op for i in sorted(found) if isinstance(op := ops[i], FloatNode)] for found in members.values() if isinstance(ops[found[0]], FloatNode)]


def _detour(follows: Mapping[int, set[int]], start: int, end: int) -> bool:
    """Whether a path from `start` to `end` has another group between."""
    pending, seen = [group for group in follows[start] if group != end], set()
    while pending:
        current = pending.pop()
        if current == end:
            return True
        if current not in seen:
            seen.add(current)
            pending += follows[current]
    return False


def _join(group: list[int], members: dict[int, list[int]], follows: dict[int, set[int]], a: int, b: int) -> None:
    for i in members[b]:
        group[i] = a
    members[a] += members.pop(b)
    follows[a] = (follows[a] | follows.pop(b)) - {a, b}
    for after in follows.values():
        if b in after:
            after.discard(b)
            after.add(a)
    follows[a].discard(a)


def _region(builder: Builder, region: Sequence[FloatNode], exposed: Sequence[str]) -> Float:
    made = {name for op in region for name in op.outputs}
    used = list(dict.fromkeys(name for op in region for name in node_reads(op.node) if name not in made))
    constants = {name: value for name in used if (value := builder.source.real(name)) is not None}
    fed = list(dict.fromkeys(name for op in region for name in op.inputs if name not in made))
    model = _self_contained(builder, region, fed, exposed, constants)
    types, names = tuple(op.node.op_type for op in region), tuple(op.node.name for op in region)
    return Float(region[0].name, tuple(fed), tuple(exposed), model, types, _reasons(builder, region), names)


def _reasons(builder: Builder, region: Sequence[FloatNode]) -> str:
    """The reasons in the region; nodes that are float only because their neighbours are add nothing."""
    found = list(dict.fromkeys(builder.reasons[op.node.name] for op in region))
    return "; ".join([reason for reason in found if reason != UNQUANTIZED] or found)


def _self_contained(
    builder: Builder, region: Sequence[FloatNode], fed: Sequence[str], exposed: Sequence[str], constants: Mapping[str, np.ndarray]
) -> bytes:
    original = {tensor.name: tensor for tensor in builder.source.model.graph.initializer}
    initializers = []
    for name, value in constants.items():
        initializers.append(original[name] if name in original else numpy_helper.from_array(value, name))
    values = [[_value_info(builder, name) for name in names] for names in (fed, exposed)]
    graph = helper.make_graph([op.node for op in region], region[0].name, values[0], values[1], initializers)
    proto = builder.source.model
    model = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version, functions=list(proto.functions))
    return model.SerializeToString(deterministic=True)


def _value_info(builder: Builder, name: str) -> onnx.ValueInfoProto:
    tensor = builder.tensors[name]
    element = builder.source.elements.get(name) or helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    return helper.make_tensor_value_info(name, element, tensor.shape)
