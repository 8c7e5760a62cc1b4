"""Operators that ONNX itself defines by others, written out: attention, rotary embeddings and more that the importer has no function for."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import defs, helper, inliner, shape_inference

from mpqc.errors import ModelError
from mpqc.facts.ops import ROWS, STANDARD_DOMAINS
from mpqc.passes.lib.base import first_line, subgraphs

EXPANDED = frozenset(row.name for row in ROWS if row.imported_by == "opset_functions.expand")
"""Ops that `expand` writes out"""


def expand(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with every operator of EXPANDED, and every RMSNormalization over more than the last axis, replaced by ONNX's own definition of it.

    Needs fixed input shapes, because some definitions depend on types. Raises ModelError where onnx cannot write one out.
    """
    found = sorted({node.op_type for node in _nodes(model.graph) if _is_expanded(node)})
    if not found:
        return model
    domains = sorted({node.domain for node in _nodes(model.graph) if node.domain in STANDARD_DOMAINS})
    try:
        typed = shape_inference.infer_shapes(_prepared(model), data_prop=True)
        names = [(domain, name) for domain in domains for name in found]
        expanded = inliner.inline_selected_functions(typed, names, inline_schema_functions=True)
    except Exception as error:  # the inliner's exceptions share no base class
        raise ModelError("cannot be written with older operators", where=", ".join(found), why=first_line(error)) from error
    left = sorted({node.op_type for node in _nodes(expanded.graph) if node.op_type in EXPANDED})
    if left:
        raise ModelError("cannot be written with older operators", where=", ".join(left), why="onnx does not define it for these types")
    del expanded.graph.value_info[:]
    return expanded


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that tells the inliner what it does not look up itself: types of initializers, defaults of attributes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    version = max(entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS)
    _declare(copy.graph)
    for node in _nodes(copy.graph):
        if _is_expanded(node):
            given = {item.name for item in node.attribute}
            defaults = {name: each.default_value for name, each in defs.get_schema(node.op_type, version, "").attributes.items()}
            node.attribute.extend(value for name, value in defaults.items() if name not in given and value.type)
    return copy


def _declare(graph: onnx.GraphProto) -> None:
    known = {value.name for value in (*graph.input, *graph.value_info)}
    for tensor in graph.initializer:
        if tensor.name not in known:
            graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    for node in graph.node:
        for inner in subgraphs(node):
            _declare(inner)


def _is_expanded(node: onnx.NodeProto) -> bool:
    if node.domain not in STANDARD_DOMAINS:
        return False
    options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    plain = options.get("axis", -1) == -1 and options.get("stash_type", 1) == 1
    return node.op_type in EXPANDED or (node.op_type == "RMSNormalization" and not plain)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)
