"""From opset 7 and above to the canonical opset 21, under unchanged tensor and node names.

onnx.version_converter is used only below opset 7: above, the few operators whose meaning changed are upgraded here, one function
each, because the converter renames nothing reliably, skips subgraphs and aborts on models without shapes.
"""

from __future__ import annotations

import onnx
from onnx import defs, helper, numpy_helper, shape_inference, version_converter

from mpqc.errors import ModelError
from mpqc.facts.ops import STANDARD_DOMAINS
from mpqc.frontend.opset_functions import expand
from mpqc.frontend.opset_upgrades import DOWNGRADES, UPGRADES, Upgrade
from mpqc.passes.lib.base import first_line, subgraphs

CANONICAL_OPSET = 21
OLDEST_OPSET = 7
NEWEST_OPSET = defs.onnx_opset_version()
"""The newest that the installed onnx knows"""
IR_VERSION = 10


def canonical_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` at opset 21. Raises ModelError for an opset that the installed onnx does not know or one that cannot be converted."""
    version = supported_opset(model)
    if version < OLDEST_OPSET:
        model, version = _convert_old(model, version), OLDEST_OPSET
    upgraded = onnx.ModelProto()
    upgraded.CopyFrom(expand(model))
    _upgrade_graph(upgraded.graph, version, _Namer(upgraded.graph))
    others = [entry for entry in upgraded.opset_import if entry.domain not in STANDARD_DOMAINS]
    imports = [helper.make_opsetid("", CANONICAL_OPSET), *(helper.make_opsetid(entry.domain, entry.version) for entry in others)]
    del upgraded.opset_import[:]
    upgraded.opset_import.extend(imports)
    upgraded.ir_version = IR_VERSION
    return upgraded


def supported_opset(model: onnx.ModelProto, newest: int = NEWEST_OPSET) -> int:
    """Version of the standard operator set that `model` imports. Raises ModelError when it imports none, or one after `newest`."""
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS]
    if not versions:
        raise ModelError("the model imports no standard operator set", hint=f"export it as ONNX opset 9 to {NEWEST_OPSET}")
    if max(versions) > newest:
        raise ModelError(f"opset {max(versions)} is newer than {newest}", hint=f"export the model with opset {CANONICAL_OPSET}")
    return int(max(versions))


def _convert_old(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    declared = onnx.ModelProto()
    declared.CopyFrom(model)
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:  # the converter wants them among the inputs, as IR version 3 did
        if tensor.name not in inputs:
            declared.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    _slopes_along_channels(declared)
    try:
        return version_converter.convert_version(declared, OLDEST_OPSET)
    except (version_converter.ConvertError, RuntimeError, ValueError) as error:
        hint = "export the model with opset 9 or newer"
        raise ModelError(f"opset {version} cannot be converted", why=first_line(error), hint=hint) from error


def _slopes_along_channels(model: onnx.ModelProto) -> None:
    """PRelu before opset 7 has one slope a channel, [C]; from then on slopes broadcast from the last axis: [C, 1, 1]."""
    typed = shape_inference.infer_shapes(model)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*typed.graph.input, *typed.graph.value_info)}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in (each for each in model.graph.node if each.op_type == "PRelu"):
        slope, rank = stored.get(node.input[1]), ranks.get(node.input[0], 0)
        if slope is None or len(slope.dims) != 1 or rank < 3:
            continue
        name = f"{slope.name}.channels{rank}"
        if name not in stored:
            stored[name] = numpy_helper.from_array(numpy_helper.to_array(slope).reshape([-1] + [1] * (rank - 2)), name)
            model.graph.initializer.append(stored[name])
            model.graph.input.append(helper.make_tensor_value_info(name, slope.data_type, list(stored[name].dims)))
        node.input[1] = name


class _Namer:
    """Hands out tensor names that the model does not use yet."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.used: set[str] = set()
        self._collect(graph)

    def _collect(self, graph: onnx.GraphProto) -> None:
        self.used.update(value.name for value in (*graph.input, *graph.initializer))
        for node in graph.node:
            self.used.update(node.output)
            for inner in subgraphs(node):
                self._collect(inner)

    def __call__(self, base: str) -> str:
        name, count = base, 0
        while name in self.used:
            count += 1
            name = f"{base}_{count}"
        self.used.add(name)
        return name


def _upgrade_graph(graph: onnx.GraphProto, version: int, namer: _Namer) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for inner in subgraphs(node):
            _upgrade_graph(inner, version, namer)
        nodes += _upgrade_node(node, version, namer)
    del graph.node[:]
    graph.node.extend(nodes)


def _upgrade_node(node: onnx.NodeProto, version: int, namer: _Namer) -> list[onnx.NodeProto]:
    if node.domain not in STANDARD_DOMAINS:
        return [node]
    if version > CANONICAL_OPSET:
        _drop_new_defaults(node, version)
    if node.op_type in DOWNGRADES:
        return _apply(DOWNGRADES[node.op_type], node, namer)
    if version > CANONICAL_OPSET and defs.has(node.op_type) and not defs.has(node.op_type, CANONICAL_OPSET):
        raise ModelError(f"operator {node.op_type} is newer than opset {CANONICAL_OPSET}", where=f"node {node.name or node.output[0]!r}")
    nodes = [node]
    for since, upgrade in UPGRADES.get(node.op_type, ()):
        if version < since:
            nodes = [made for each in nodes for made in (_apply(upgrade, each, namer) if each.op_type == node.op_type else [each])]
    return nodes


def _drop_new_defaults(node: onnx.NodeProto, version: int) -> None:
    """Attributes that came after opset 21 go where they say what opset 21 does; a value that it cannot say is refused by name."""
    if not (defs.has(node.op_type, CANONICAL_OPSET) and defs.has(node.op_type, version)):
        return
    known = defs.get_schema(node.op_type, CANONICAL_OPSET, "").attributes
    newer = defs.get_schema(node.op_type, version, "").attributes
    for item in [item for item in node.attribute if item.name not in known and item.name in newer]:
        if helper.get_attribute_value(item) != helper.get_attribute_value(newer[item.name].default_value):
            where = f"{node.op_type} {node.name or node.output[0]!r}"
            raise ModelError(f"attribute {item.name} is newer than opset {CANONICAL_OPSET}", where=where, hint="export with an older opset")
        node.attribute.remove(item)


def _apply(upgrade: Upgrade, node: onnx.NodeProto, namer: _Namer) -> list[onnx.NodeProto]:
    try:
        return upgrade(node, namer)
    except ValueError as error:
        raise ModelError("cannot be brought to opset 21", where=f"{node.op_type} {node.name or node.output[0]!r}", why=str(error)) from error
