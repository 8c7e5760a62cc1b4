"""Finding the sites: which tensors of a network may be quantized, which must agree, and the nodes between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import networkx as nx

from mpqc.quantize.capability import CLAMPS, VIEWS, Role, capability
from mpqc.quantize.geometry import geometry
from mpqc.quantize.islands import keep_float
from mpqc.values.site import FloatNode, OpNode, Site, SiteKind, SiteTable

if TYPE_CHECKING:
    from mpqc.frontend.view import GraphView, NodeView
    from mpqc.values.network import Network

_FUSING = ("Conv", "Gemm", "MatMul", "Add", "Sub", "Mul")
"""Ops whose integer kernel clamps its own output, so that a Relu or Clip behind costs nothing."""


def find_sites(network: Network) -> SiteTable:
    """The sites of `network`, its integer nodes in execution order, and what stays float with the reason.

    A weight site is a constant that Conv, Gemm or MatMul multiplies with (read by several nodes: one site). An activation site is a float32
    tensor that an integer node reads or writes; the tensor between a node and the Relu or Clip fused into it is none. Tensors that
    codes move between unchanged (Concat, MaxPool, Reshape, Transpose, Slice, Resize, ...) share a group. islands.py says which
    capable nodes stay float because integers would not pay.
    """
    from mpqc.frontend.view import view

    survey = _survey(view(network.model))
    weights = _weights(survey)
    sites = (*_activations(survey), *weights.values())
    nodes = tuple(_op_node(node, survey) for node in survey.integer if node.name not in survey.fused_into)
    floats = tuple(FloatNode(node.name, node.op_type, survey.reasons[node.name]) for node in survey.graph.nodes if node.name in survey.reasons)
    return SiteTable(sites, nodes, floats, live_tensors(survey))


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
        if node.op_type not in _FUSING or len(readers) != 1 or node.outputs[0] in self.graph.outputs:
            return None
        return readers[0] if readers[0].op_type in CLAMPS and readers[0].name in self.roles else None

    def results(self, node: NodeView) -> tuple[str, ...]:
        """The tensors that `node` leaves in memory: its clamp's output where one is fused."""
        clamp = self.clamp_of.get(node.name)
        return clamp.outputs if clamp else tuple(name for name in node.outputs if name)

    def reads(self, node: NodeView) -> tuple[str, ...]:
        """The float32 tensors that `node` reads, without constants and shape parameters."""
        return tuple(name for name in self.graph.data_inputs(node) if self.graph.dtypes.get(name) == "float32")

    @cached_property
    def sites(self) -> frozenset[str]:
        """Names of the activation sites."""
        working = [node for node in self.integer if node.name not in self.fused_into]
        return frozenset(name for node in working for name in (*self.reads(node), *self.results(node)))


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
    groups = _groups(survey, order)
    return tuple(Site(name, SiteKind.ACTIVATION, survey.graph.shape(name), None, groups[name]) for name in order)


def _order(graph: GraphView) -> Iterable[str]:
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.outputs


def _groups(survey: Survey, order: list[str]) -> dict[str, str]:
    meets = nx.Graph()
    meets.add_nodes_from(order)
    for node in survey.integer:
        if survey.roles[node.name] is Role.MOVE:
            tensors = (*survey.reads(node), *survey.results(node))
            meets.add_edges_from((tensors[0], other) for other in tensors[1:])
    groups = dict.fromkeys(order, "")
    rank = {name: index for index, name in enumerate(order)}
    for part in nx.connected_components(meets):
        if len(part) > 1:
            groups |= dict.fromkeys(part, min(part, key=rank.__getitem__))
    return groups


def _op_node(node: NodeView, survey: Survey) -> OpNode:
    graph, results = survey.graph, survey.results(node)
    reads = survey.reads(node)
    clamp = survey.clamp_of.get(node.name)
    weight = node.input(1) if survey.roles[node.name] is Role.MAC else None
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
        **geometry(node, graph),
    )


def live_tensors(survey: Survey) -> tuple[tuple[str, ...], ...]:
    """For each step that computes, the sites whose memory is in use: read, written, or waiting for a later step.

    Network inputs live from the first step to their last use, network outputs from their step to the end. A view (Reshape, Flatten,
    Squeeze, Unsqueeze) is its source; a fused clamp is no step.
    """
    root = _roots(survey)
    steps = [node for node in survey.graph.nodes if node.name not in survey.fused_into and node.op_type not in VIEWS]
    span = _spans(steps, survey, root)
    return tuple(tuple(name for name, (first, last) in span.items() if first <= step <= last) for step in range(len(steps)))


def _roots(survey: Survey) -> dict[str, str]:
    root: dict[str, str] = {}
    for node in survey.integer:
        if node.op_type in VIEWS:
            root[node.outputs[0]] = root.get(node.input(0), node.input(0))
    return root


def _spans(steps: list[NodeView], survey: Survey, root: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    span = {name: (0, 0) for name in survey.graph.inputs if name in survey.sites}
    for step, node in enumerate(steps):
        for name in survey.results(node):
            if name in survey.sites:
                span[name] = (step, step)
        for name in (root.get(read, read) for read in survey.graph.data_inputs(node)):
            if name in span:
                span[name] = (span[name][0], step)
    for name in (root.get(output, output) for output in survey.graph.outputs):
        if name in span:
            span[name] = (span[name][0], len(steps) - 1)
    return span
