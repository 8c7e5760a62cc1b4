"""Finding the sites: which tensors of a network may be quantized, which must agree, and the nodes between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from mpqc.facts.ops import CARRYING, ELEMENTWISE, STANDARD_DOMAINS, Role, facts, is_view
from mpqc.quantize.capability import capability, is_table
from mpqc.quantize.functions import Function, Lookup, Maker, function_of
from mpqc.quantize.geometry import depth, geometry
from mpqc.quantize.islands import keep_float
from mpqc.quantize.sharing import Carrier, sharing_groups
from mpqc.values.site import FloatNode, OpNode, Site, SiteKind, SiteTable

if TYPE_CHECKING:
    from mpqc.frontend.view import GraphView, NodeView
    from mpqc.values.network import Network

_FUSING = (Role.MAC, Role.PRODUCT, Role.BINARY)
"""Roles whose integer kernel clamps its own output, so that a Relu or Clip behind costs nothing."""


def find_sites(network: Network) -> SiteTable:
    """The sites of `network`, its integer nodes in execution order, and what stays float with the reason.

    A weight site is a constant that Conv, Gemm or MatMul multiplies with (read by several nodes: one site). An activation site is a float32
    tensor that an integer node reads or writes; the tensor between a node and the Relu or Clip fused into it is none. Tensors that
    codes move between unchanged (MaxPool, Reshape, Transpose, Slice, Resize, ...) share a group; for Concat see sharing.py. islands.py says which
    capable nodes stay float because integers would not pay, functions.py which elementwise nodes between two sites run as a table.
    """
    from mpqc.frontend.view import view

    survey = _survey(view(network.model))
    weights = _weights(survey)
    sites = (*_activations(survey), *weights.values())
    nodes = tuple(_op_node(node, survey) for node in survey.graph.nodes if node.name in survey.working)
    floats = tuple(_float_node(node, survey) for node in survey.float_nodes)
    return SiteTable(sites, nodes, floats, live_tensors(survey))


def _float_node(node: NodeView, survey: Survey) -> FloatNode:
    graph = survey.graph
    read = sum(prod(graph.shape(name)) for name in graph.data_inputs(node))
    return FloatNode(node.name, node.op_type, survey.reasons[node.name], read, graph.shape(node.outputs[0]), depth(node, graph))


@dataclass(frozen=True, eq=False)
class Survey:
    """A graph with the decision on every node."""

    graph: GraphView
    roles: Mapping[str, Role]
    """integer nodes by name"""
    reasons: Mapping[str, str]
    """float nodes by name"""

    @cached_property
    def integer(self) -> tuple[NodeView, ...]:
        """Integer nodes in execution order, fused ones included."""
        return tuple(node for node in self.graph.nodes if node.name in self.roles)

    @cached_property
    def fused_into(self) -> Mapping[str, NodeView]:
        """Name of a fused Relu or Clip -> the node that it is fused into."""
        pairs = ((self._fused_behind(node), node) for node in self.integer)
        return {clamp.name: node for clamp, node in pairs if clamp is not None}

    @cached_property
    def clamp_of(self) -> Mapping[str, NodeView]:
        """Name of a node -> the Relu or Clip fused into it."""
        return {node.name: next(c for c in self.integer if c.name == name) for name, node in self.fused_into.items()}

    def _fused_behind(self, node: NodeView) -> NodeView | None:
        readers = self.graph.consumers.get(node.outputs[0], ())
        if self.roles[node.name] not in _FUSING or len(readers) != 1 or node.outputs[0] in self.graph.outputs:
            return None
        return readers[0] if facts(readers[0].op_type).is_clamp and readers[0].name in self.roles else None

    def results(self, node: NodeView) -> tuple[str, ...]:
        """The tensors that `node` leaves in memory: its clamp's output where one is fused."""
        clamp = self.clamp_of.get(node.name)
        return clamp.outputs if clamp else tuple(name for name in node.outputs if name)

    def reads(self, node: NodeView) -> tuple[str, ...]:
        """The float32 tensors that `node` reads, without constants and shape parameters; what its function reads where it ends one."""
        if node.name in self.functions:
            return (self.functions[node.name].source,)
        return tuple(name for name in self.graph.data_inputs(node) if self.graph.dtypes.get(name) == "float32")

    @cached_property
    def sites(self) -> frozenset[str]:
        """Names of the activation sites."""
        read = [name for node in self._computing for name in self.graph.data_inputs(node) if self.graph.dtypes.get(name) == "float32"]
        return frozenset(read) | self.made

    @cached_property
    def made(self) -> frozenset[str]:
        """Tensors that integer nodes with codes of their own leave in memory."""
        return frozenset(name for node in self._computing for name in self.results(node))

    @cached_property
    def _computing(self) -> tuple[NodeView, ...]:
        return tuple(node for node in self.integer if node.name not in self.fused_into)

    @cached_property
    def functions(self) -> Mapping[str, Function]:
        """Name of a float node that writes a site -> the function, of one site that integer nodes make, that its table computes."""
        graph = self.graph
        lookup = Lookup(
            codes=lambda name: name if name in self.made else None,
            constant=lambda name: graph.constants[name].size if name in graph.constants else None,
            maker=lambda name: _maker(graph.producer.get(name)),
            shape=graph.shape,
        )
        ends = [node for node in graph.nodes if node.name in self.reasons and node.outputs[0] in self.sites]
        found = {node.name: function_of(node.outputs[0], lookup) for node in ends if facts(node.op_type, node.domain).role in ELEMENTWISE}
        return {name: function for name, function in found.items() if not isinstance(function, str)}

    def is_read_as_real(self, name: str) -> bool:
        """Whether others than integer nodes read a tensor: float nodes, functions, the network's user."""
        return name in self.graph.outputs or any(reader.name not in self.roles for reader in self.graph.consumers.get(name, ()))

    @cached_property
    def working(self) -> frozenset[str]:
        """Names of the nodes that are kernels of the integer program: those of a role that are fused into no other, and the ends of functions."""
        return frozenset(node.name for node in self._computing) | frozenset(self.functions)

    @cached_property
    def float_nodes(self) -> tuple[NodeView, ...]:
        """Nodes that float kernels compute, in execution order: not those whose only use is in functions."""
        inside = {name for function in self.functions.values() for name in function.nodes}
        floats: list[NodeView] = []
        needed: set[str] = set(self.graph.outputs)
        for node in reversed(self.graph.nodes):
            if node.name in self.reasons and (node.name not in inside or needed.intersection(node.outputs)):
                floats.append(node)
                needed.update(node.inputs)
        return tuple(reversed(floats))


def _maker(node: NodeView | None) -> Maker | None:
    return None if node is None else Maker(node.name, node.op_type, node.inputs, node.outputs, node.domain in STANDARD_DOMAINS)


def _survey(graph: GraphView) -> Survey:
    found = {node.name: capability(node, graph) for node in graph.nodes}
    roles = {name: item.role for name, item in found.items() if item.role is not None}
    kept = keep_float(graph, roles)
    reasons = {name: item.reason for name, item in found.items() if item.role is None} | kept
    return Survey(graph, {name: role for name, role in roles.items() if name not in kept}, reasons)


def _weights(survey: Survey) -> dict[str, Site]:
    axes: dict[str, set[int]] = {}
    for node in survey.integer:
        if survey.roles[node.name] is Role.MAC:
            axes.setdefault(node.input(1), set()).add(output_axis(node))
    shapes = survey.graph.shapes
    # a weight that two nodes read along different axes can only have one scale for the whole tensor
    return {name: Site(name, SiteKind.WEIGHT, shapes[name], next(iter(axis)) if len(axis) == 1 else None) for name, axis in axes.items()}


def output_axis(node: NodeView) -> int:
    """The axis of the weight of `node` that counts output channels."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and node.attributes.get("transB", 0) else 1


def _activations(survey: Survey) -> tuple[Site, ...]:
    order = [name for name in _order(survey.graph) if name in survey.sites]
    groups = sharing_groups(carriers(survey), order)
    return tuple(Site(name, SiteKind.ACTIVATION, survey.graph.shape(name), None, groups[name]) for name in order)


def _order(graph: GraphView) -> Iterable[str]:
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.outputs


def carriers(survey: Survey) -> tuple[Carrier, ...]:
    """What moves codes, in execution order."""
    moving = [node for node in survey.integer if survey.roles[node.name] in CARRYING]
    return tuple(Carrier(node.op_type == "Concat", survey.reads(node), survey.results(node), _lone(node, survey)) for node in moving)


def _lone(node: NodeView, survey: Survey) -> frozenset[str]:
    """Those of the tensors that `node` reads that nothing else reads: no other node, no float one, not the user."""
    graph = survey.graph
    inner = [name for name in survey.reads(node) if name not in graph.outputs]
    return frozenset(name for name in inner if {each.name for each in graph.consumers[name]} == {node.name})


def _op_node(node: NodeView, survey: Survey) -> OpNode:
    graph, results = survey.graph, survey.results(node)
    reads = survey.reads(node)
    role, clamp, function = survey.roles.get(node.name), survey.clamp_of.get(node.name), survey.functions.get(node.name)
    weight = node.input(1) if role is Role.MAC else None
    return OpNode(
        name=node.name,
        op_type=node.op_type,
        inputs=reads,
        output=results[0],
        weight=weight,
        input_shape=graph.shape(reads[0]),
        output_shape=graph.shape(results[0]),
        weight_shape=graph.shape(weight) if weight else (),
        fused=clamp.op_type if clamp else "",
        extra_outputs=results[1:],
        is_table=function is not None or role is Role.TABLE or (role in ELEMENTWISE and is_table(node, graph)),
        absorbed=tuple(each.name for each in graph.nodes if function and each.name in function.nodes and each.name != node.name),
        is_real_too=function is not None and survey.is_read_as_real(results[0]),
        **geometry(node, graph),
    )


def live_tensors(survey: Survey) -> tuple[tuple[str, ...], ...]:
    """For each step that computes, the sites whose memory is in use: read, written, or waiting for a later step.

    Network inputs live from the first step to their last use, network outputs from their step to the end. A view (Reshape, Flatten,
    Squeeze, Unsqueeze) is its source; a fused clamp is no step.
    """
    root = _roots(survey)
    computed = survey.working | {node.name for node in survey.float_nodes}
    steps = [node for node in survey.graph.nodes if node.name in computed and not is_view(node.op_type)]
    span = _spans(steps, survey, root)
    return tuple(tuple(name for name, (first, last) in span.items() if first <= step <= last) for step in range(len(steps)))


def _roots(survey: Survey) -> dict[str, str]:
    root: dict[str, str] = {}
    for node in survey.integer:
        if is_view(node.op_type):
            root[node.outputs[0]] = root.get(node.input(0), node.input(0))
    return root


def _spans(steps: list[NodeView], survey: Survey, root: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    span = {name: (0, 0) for name in survey.graph.inputs if name in survey.sites}
    for step, node in enumerate(steps):
        for name in survey.results(node):
            if name in survey.sites:
                span[name] = (step, step)
        for name in (root.get(read, read) for read in (*survey.graph.data_inputs(node), *survey.reads(node))):
            if name in span:
                span[name] = (span[name][0], step)
    for name in (root.get(output, output) for output in survey.graph.outputs):
        if name in span:
            span[name] = (span[name][0], len(steps) - 1)
    return span
