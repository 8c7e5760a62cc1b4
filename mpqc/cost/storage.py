"""Which activation sites of at most 4 bits will be stored two codes a byte: what a plan may count on before there is a program.

The rule of lowering/storage.py for a target that has packed activations (its file says so), from shapes and op types alone: the innermost
extent is even, and every node that writes or reads the site has kernels for it. Shapes are those of the ONNX file; rank 4 lies channels
last, so the innermost extent is the channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

import networkx as nx

from mpqc.cost.workload import kind_of
from mpqc.facts.kinds import OpKind
from mpqc.facts.ops import facts, is_view
from mpqc.values.site import OpNode, SiteKind, SiteTable

_WHOLE = frozenset({OpKind.RESIZE, OpKind.NEAREST, OpKind.MOVE, OpKind.SHUFFLE})
"""Kinds whose kernels move single codes"""


def packable(table: SiteTable) -> frozenset[str]:
    """Names of the activation sites that are stored two codes a byte when they have at most 4 bits."""
    products = {name for node in table.nodes if OpKind.GEMM in facts(node.op_type).kinds for name in _around(node)}
    sites = [site for site in table.sites if site.kind is SiteKind.ACTIVATION]
    whole = {site.name for site in sites if not _is_even(site.shape, site.name in products)}
    for node in table.nodes:
        whole |= set(_refused(node, whole))
    views = nx.Graph((node.inputs[0], node.output) for node in table.nodes if is_view(node.op_type) and node.inputs)
    for group in nx.connected_components(views):
        if group & whole:
            whole |= group
    return frozenset(site.name for site in sites) - whole


def _around(node: OpNode) -> Iterable[str]:
    return (*filter(None, node.inputs), node.output, *node.extra_outputs)


def _is_even(shape: tuple[int, ...], in_product: bool) -> bool:
    """Whether the innermost extent is even in every layout that the tensor may get."""
    innermost = {4: [1, 3] if in_product else [1], 3: [1, 2]}.get(len(shape), [-1])
    return bool(shape) and all(shape[axis] % 2 == 0 for axis in innermost)


def _refused(node: OpNode, whole: set[str]) -> Iterator[str]:
    """Sites of `node` that its kernel cannot read or write two a byte."""
    if kind_of(node) in _WHOLE or (is_view(node.op_type) and not _keeps_order(node)):
        yield from _around(node)
    elif (node.op_type == "Conv" and not _writes_pairs(node)) or (node.op_type == "Concat" and whole & set(node.inputs)):
        yield node.output
    elif node.op_type == "Pad" and node.input_shape[1:2] != node.output_shape[1:2]:
        yield from _around(node)


def _keeps_order(node: OpNode) -> bool:
    """A view is one in memory: both shapes are alike, or have their channels last already."""
    return node.input_shape == node.output_shape or (_is_flat(node.input_shape) and _is_flat(node.output_shape))


def _is_flat(shape: tuple[int, ...]) -> bool:
    return len(shape) not in (3, 4) or shape[1] == 1 or prod(shape[2:]) == 1


def _writes_pairs(node: OpNode) -> bool:
    """Depthwise with one output a channel, or groups of an even number of channels."""
    inputs, outputs = node.input_shape[1], node.output_shape[1]
    return outputs == inputs if 1 < node.groups == inputs else outputs // max(node.groups, 1) % 2 == 0
