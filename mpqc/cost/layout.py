"""Which tensors lie channels last in memory: the one rule, for a network's sites (cost/storage.py) and a program's tensors (lowering/layout.py).

Tensors that an op works on axis by axis lie alike. Such a group lies channels last where a convolution, pool or resize is in it, and where it has
rank 4 and no fully connected op is; all other tensors lie as ONNX writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

import networkx as nx


def lying_channels_last(
    ranks: Mapping[str, int], alike: Iterable[tuple[tuple[str, ...], str]], spatial: Set[str], rows: Set[str]
) -> tuple[frozenset[str], ...]:
    """The groups of tensors that lie channels last.

    ranks: of all tensors that are stored as codes. alike: inputs and output of the ops that work axis by axis. spatial: what convolutions,
    pools and resizes read and write; rows: what fully connected ops do.
    """
    graph = nx.Graph()
    graph.add_nodes_from(name for name, rank in ranks.items() if rank in (3, 4))
    for inputs, output in alike:
        graph.add_edges_from((name, output) for name in inputs if name in graph and ranks[name] == ranks.get(output))
    groups = (frozenset(group) for group in nx.connected_components(graph))
    return tuple(group for group in groups if group & spatial or (ranks[next(iter(group))] == 4 and not group & rows))
