"""Which integer-capable nodes are worth running on integers.

Quantizing exists to make multiply-accumulate work cheaper. Four rules keep nodes without it in float where integers would only add
Q/DQ pairs and rounding; each node that they touch is reported with its reason:

1. Tail: a Binary node with a constant operand (box decoding, priors, denormalization) from which no multiply-accumulate node can be
   reached through integer-capable nodes stays float.
2. Tail, continued: a node without multiply-accumulate work that reads a float result and from which no such node can be reached stays float.
3. Joined output: a Concat from which only moves and elementwise nodes lead on, to outputs and float nodes, stays float with them: each operand is
   dequantized with a range of its own (boxes and scores of a detector lie in one output).
4. Island: connected integer-capable nodes without any multiply-accumulate node among them stay float.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import networkx as nx

from mpqc.facts.ops import CARRYING, ELEMENTWISE, MULTIPLYING, Role

if TYPE_CHECKING:
    from mpqc.frontend.view import GraphView, NodeView

TAIL = "float tail: nothing behind it multiplies and accumulates"
JOINED = "joins what only leaves the network: each operand keeps a range of its own"
ISLAND = "float island: no multiply-accumulate work between its float neighbours"


def keep_float(graph: GraphView, roles: Mapping[str, Role]) -> dict[str, str]:
    """Node name -> reason for those of `roles` (integer-capable nodes) that stay float all the same."""
    reasons = _tails(graph, roles)
    reasons |= _joined_outputs(graph, {name: role for name, role in roles.items() if name not in reasons})
    kept = {name: role for name, role in roles.items() if name not in reasons}
    return reasons | _islands(graph, kept)


def _edges(graph: GraphView, roles: Mapping[str, Role]) -> nx.DiGraph:
    edges = nx.DiGraph()
    edges.add_nodes_from(roles)
    for node in graph.nodes:
        if node.name in roles:
            writers = (graph.producer.get(name) for name in graph.data_inputs(node))
            edges.add_edges_from((writer.name, node.name) for writer in writers if writer is not None and writer.name in roles)
    return edges


def _tails(graph: GraphView, roles: Mapping[str, Role]) -> dict[str, str]:
    edges = _edges(graph, roles)
    leading = {name for name, role in roles.items() if role in MULTIPLYING}
    for name in reversed(list(nx.topological_sort(edges))):
        if any(reader in leading for reader in edges.successors(name)):
            leading.add(name)
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        if node.name in roles and node.name not in leading and _is_tail(node, graph, roles, reasons):
            reasons[node.name] = TAIL
    return reasons


def _is_tail(node: NodeView, graph: GraphView, roles: Mapping[str, Role], tails: Mapping[str, str]) -> bool:
    if roles[node.name] is Role.BINARY and any(name in graph.constants for name in node.inputs):
        return True
    writers = [graph.producer.get(name) for name in graph.data_inputs(node)]
    return any(writer is not None and (writer.name not in roles or writer.name in tails) for writer in writers)


def _joined_outputs(graph: GraphView, roles: Mapping[str, Role]) -> dict[str, str]:
    """Each Concat that only moves and elementwise nodes follow, with those."""
    edges = _edges(graph, roles)
    leaving: set[str] = set()
    for name in reversed(list(nx.topological_sort(edges))):
        if roles[name] in (*CARRYING, *ELEMENTWISE) and all(reader in leaving for reader in edges.successors(name)):
            leaving.add(name)
    concats = [node.name for node in graph.nodes if node.name in leaving and node.op_type == "Concat"]
    return {name: JOINED for concat in concats for name in (concat, *nx.descendants(edges, concat))}


def _islands(graph: GraphView, roles: Mapping[str, Role]) -> dict[str, str]:
    parts = nx.connected_components(_edges(graph, roles).to_undirected(as_view=True))
    lonely = [part for part in parts if not any(roles[name] in MULTIPLYING for name in part)]
    return {name: ISLAND for part in lonely for name in part}
