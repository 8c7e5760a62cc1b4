"""How kernels will store weights and activations: what a plan may count on before there is a program. The built program is what counts in the end
(mpqc.flow.verification); the nearer the count here is to it, the fewer plans are built.

Weights lie in panels of PANEL output channels, each row of a window padded to whole quads, with an accumulator's start, the bits of its rounding
and a multiplier a channel (lowering/kernels/conv.py and depthwise_constants.py).

Activation sites of at most 4 bits are stored two codes a byte where a target has packed activations (its file says so), as lowering/storage.py
does, from shapes and op types alone: the innermost extent is even, and every node that writes or reads the site has kernels for it (`WHOLE`,
`stores_pairs`: the same for both). Shapes are those of the ONNX file; where the innermost extent is says layout.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

import networkx as nx

from mpqc.cost.layout import lying_channels_last
from mpqc.cost.workload import kind_of
from mpqc.facts.kernels import stores_pairs
from mpqc.facts.kinds import OpKind
from mpqc.facts.ops import facts, is_view
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable

PANEL = 8
"""Output channels that a kernel computes together"""
QUAD = 4
"""Products that an instruction adds up"""
CHANNEL_BYTES = 12
"""Start and rounding (int32) and multiplier (float32) of an output channel"""
DEPTHWISE_CHANNEL_BYTES = 14
"""The same of a depthwise one, and whether its sums are fused"""

KERNEL_BYTES = 32
"""Zero points, limits and the like of a kernel that multiplies"""
BESIDE = {OpKind.TABLE: 256, OpKind.AVERAGE_POOL: 23, OpKind.MAX_POOL: 1, OpKind.BINARY: 72, OpKind.QUANTIZE: 13, OpKind.DEQUANTIZE: 8}
"""Bytes that kernels without weights hold"""

WHOLE = frozenset({OpKind.MOVE, OpKind.SHUFFLE, OpKind.RESIZE, OpKind.NEAREST, OpKind.MATMUL})
"""Kernels that read and write single codes: what lies around them is one a byte"""
_SPATIAL = frozenset({OpKind.CONV, OpKind.DEPTHWISE, OpKind.MAX_POOL, OpKind.AVERAGE_POOL, OpKind.RESIZE, OpKind.NEAREST})
_ROWS = frozenset({OpKind.GEMM, OpKind.MATMUL})
_AXIS_BY_AXIS = _SPATIAL | {OpKind.BINARY, OpKind.TABLE, OpKind.CONCAT, OpKind.PAD}


def panel_elements(site: Site) -> int:
    """Values that the weight has in its panels, padding included."""
    channels, others = _channels(site), [size for axis, size in enumerate(site.shape) if axis != (site.axis or 0)]
    if _is_depthwise(site):
        return _up(channels, PANEL) * prod(others)
    rows, row = (prod(others[1:-1]), others[0] * others[-1]) if len(others) > 1 else (1, prod(others))
    return _up(channels, PANEL) * rows * _up(row, QUAD)


def panel_overhead(site: Site) -> int:
    """Bytes beside the weight's codes, whatever its width."""
    return _up(_channels(site), PANEL) * (DEPTHWISE_CHANNEL_BYTES if _is_depthwise(site) else CHANNEL_BYTES) + KERNEL_BYTES


def bytes_beside(table: SiteTable, boundary: Iterable[OpKind]) -> int:
    """Bytes of the constants of all kernels without weights: tables, rounding of pools and additions, the ends of the integer program."""
    kinds = (kind_of(node) for node in table.nodes if node.weight is None and (node.is_table or facts(node.op_type).kinds))
    return sum(BESIDE.get(kind, 0) for kind in (*kinds, *boundary) if kind is not None)


def _is_depthwise(site: Site) -> bool:
    """Or a convolution of a single channel, whose panels are about as large."""
    return len(site.shape) > 2 and site.shape[1] == 1


def _channels(site: Site) -> int:
    return site.shape[site.axis or 0] if site.shape else 1


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


def packable(table: SiteTable) -> frozenset[str]:
    """Names of the activation sites that are stored two codes a byte when they have at most 4 bits."""
    last = channels_last(table)
    sites = [site for site in table.sites if site.kind is SiteKind.ACTIVATION]
    odd = {site.name for site in sites if not site.shape or site.shape[1 if site.name in last else -1] % 2}
    whole = odd | {name for node in table.nodes for name in _refused(node, odd, last)}
    views = nx.Graph((node.inputs[0], node.output) for node in table.nodes if is_view(node.op_type) and node.inputs)
    for group in nx.connected_components(views):
        if group & whole:
            whole |= group
    return frozenset(site.name for site in sites) - whole


def _around(node: OpNode) -> Iterable[str]:
    return (*filter(None, node.inputs), node.output, *node.extra_outputs)


def channels_last(table: SiteTable) -> frozenset[str]:
    """Names of the activation sites that lie channels last."""
    ranks = {site.name: len(site.shape) for site in table.sites if site.kind is SiteKind.ACTIVATION}
    kinds = {node.name: kind_of(node) for node in table.nodes}
    alike = [(node.inputs, node.output) for node in table.nodes if kinds[node.name] in _AXIS_BY_AXIS]
    spatial, rows = ({name for node in table.nodes if kinds[node.name] in group for name in _around(node)} for group in (_SPATIAL, _ROWS))
    return frozenset().union(*lying_channels_last(ranks, alike, spatial, rows))


def _refused(node: OpNode, odd: set[str], last: frozenset[str]) -> Iterator[str]:
    """Sites of `node` that its kernel cannot read or write two a byte."""
    kind = kind_of(node)
    if kind in WHOLE or (kind is None and not _keeps_order(node, last)):
        yield from _around(node)
    elif kind is OpKind.GEMM:  # a copy in another layout moves single codes
        yield from (name for name in _around(node) if name in last)
    elif (node.op_type == "Conv" and not _writes_pairs(node)) or (kind is OpKind.CONCAT and odd & set(node.inputs)):
        yield node.output
    elif kind is OpKind.PAD and node.input_shape[1:2] != node.output_shape[1:2]:
        yield from _around(node)


def _keeps_order(node: OpNode, last: frozenset[str]) -> bool:
    """A view is one in memory: both tensors are alike, or lie as ONNX writes them."""
    source, result = node.inputs[0] in last, node.output in last
    return (node.input_shape, source) == (node.output_shape, result) or (_is_flat(node.input_shape, source) and _is_flat(node.output_shape, result))


def _is_flat(shape: tuple[int, ...], last: bool) -> bool:
    """Whether channels last is the order of the file."""
    return not last or shape[1] == 1 or prod(shape[2:]) == 1


def _writes_pairs(node: OpNode) -> bool:
    return stores_pairs(node.output_shape[1], node.groups, node.input_shape[1])
