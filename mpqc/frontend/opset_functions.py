"""Operators that ONNX itself defines by others, written out: attention, rotary embeddings and more that the importer has no function for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import defs, helper, inliner, shape_inference

from mpqc.errors import ModelError
from mpqc.facts.ops import ROWS, STANDARD_DOMAINS
from mpqc.passes.lib.base import first_line, subgraphs

EXPANDED = frozenset(row.name for row in ROWS if row.imported_by == "opset_functions.expand")
"""Ops that `expand` writes out"""
_DOMAIN = "mpqc.expanded"


def expand(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` with every operator of EXPANDED, and every RMSNormalization over more than the last axis, replaced by ONNX's own definition of it.

    Needs fixed input shapes, because some definitions depend on types. Raises ModelError where onnx cannot write one out.
    """
    if not any(_is_expanded(node) for node in _nodes(model.graph)):
        return model
    version = max(entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS)
    called = shape_inference.infer_shapes(model, data_prop=True)
    types = dict(_types(called.graph))
    for node in list(_nodes(called.graph)):
        if _is_expanded(node):
            called.functions.append(_function(node, version, types, len(called.functions)))
            node.op_type, node.domain = called.functions[-1].name, _DOMAIN
    called.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    called.ir_version = max(called.ir_version, 8)
    expanded = inliner.inline_local_functions(called)
    del expanded.graph.value_info[:]
    kept = [entry for entry in expanded.opset_import if entry.domain != _DOMAIN]
    del expanded.opset_import[:]
    expanded.opset_import.extend(kept)
    return expanded


def _function(node: onnx.NodeProto, version: int, types: Mapping[str, onnx.TypeProto], index: int) -> onnx.FunctionProto:
    """ONNX's definition of the node's operator as a function of this model; the node gets the defaults of its attributes."""
    where = f"{node.op_type} {node.name or node.output[0]!r}"
    schema = defs.get_schema(node.op_type, version, "")
    given = {item.name for item in node.attribute}
    node.attribute.extend(each.default_value for name, each in schema.attributes.items() if name not in given and each.default_value.type)
    try:
        function = _definition(schema, node, version, types)
    except Exception as error:  # onnx raises whatever its C++ code happens to raise
        raise ModelError("cannot be written with older operators", where=where, why=first_line(error)) from error
    if not function.node:
        raise ModelError("cannot be written with older operators", where=where, why="onnx does not define it for these types")
    function.name, function.domain = f"{node.op_type}_{index}", _DOMAIN
    del function.opset_import[:]
    function.opset_import.append(helper.make_opsetid("", version))
    return function


def _definition(schema: defs.OpSchema, node: onnx.NodeProto, version: int, types: Mapping[str, onnx.TypeProto]) -> onnx.FunctionProto:
    if not schema.has_context_dependent_function:  # type: ignore[attr-defined]
        function = onnx.FunctionProto()
        if schema.has_function:  # type: ignore[attr-defined]  # the stubs lack what the C++ class has
            function.CopyFrom(schema.function_body)
        return function
    since = max(each for each in schema.context_dependent_function_opset_versions if each <= version)  # type: ignore[attr-defined]
    kinds = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
    made = schema.get_context_dependent_function_with_opset_version(since, node.SerializeToString(), kinds)  # type: ignore[attr-defined]
    return onnx.FunctionProto.FromString(made)


def _types(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TypeProto]]:
    for tensor in graph.initializer:
        yield tensor.name, helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    for value in (*graph.input, *graph.value_info, *graph.output):
        yield value.name, value.type
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _types(inner)


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
