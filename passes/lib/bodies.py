"""Bodies of If, Loop and Scan under names of the graph around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from mpqc.passes.lib.base import captured, subgraphs


def body_of(node: onnx.NodeProto, attribute: str) -> onnx.GraphProto:
    """The graph in an attribute."""
    return next(item.g for item in node.attribute if item.name == attribute)


def renamed(graph: onnx.GraphProto, prefix: str, inputs: Mapping[str, str], outputs: Sequence[str]) -> onnx.GraphProto:
    """A copy whose own tensors and nodes carry `prefix`, whose inputs are the tensors that `inputs` says and whose outputs are called `outputs`.

    Names that the body captures stay. An output that is an input, a captured tensor or another output gets an Identity.
    """
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    pairs = [(value.name, outer) for value, outer in zip(graph.output, outputs, strict=True)]
    made = [name for node in graph.node for name in node.output if name] + [tensor.name for tensor in graph.initializer]
    first = dict(reversed(pairs))
    names = {**{name: first.get(name, prefix + name) for name in made}, **inputs}
    again = [(names.get(inner, inner), outer) for inner, outer in pairs if names.get(inner, inner) != outer]
    _rename(copy, names, prefix)
    copy.node.extend(helper.make_node("Identity", [source], [outer], name=f"{prefix}{outer}") for source, outer in again)
    return copy


def _rename(graph: onnx.GraphProto, names: Mapping[str, str], prefix: str) -> None:
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    taken: set[str] = set()
    for node in graph.node:
        node.name = prefix + (node.name if node.name and node.name not in taken else node.output[0])
        taken.add(node.name[len(prefix) :])
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in subgraphs(node):
            outer = set(captured(inner))
            _rename(inner, {name: new for name, new in names.items() if name in outer}, prefix)
            for value in inner.output:
                value.name = names.get(value.name, value.name) if value.name in outer else value.name
