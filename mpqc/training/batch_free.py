"""A graph that was imported for one batch size, made to run with any."""

from __future__ import annotations

from typing import Any

from torch import fx

from mpqc.passes.lib.quantizer_graph import origin
from mpqc.values.network import Network


def free_batch(module: fx.GraphModule, network: Network) -> None:
    """Target shapes of Reshape that name the batch size of the file take whatever size comes in, in place.

    Whether that was all is for the caller to check by running it: other ops may have the size built in as well.
    """
    size = batch_size(network)
    for node in module.graph.nodes:
        source = origin(node)
        if source is not None and source.op_type == "Reshape" and node.op == "call_function":
            node.args = _freed(node, size)
    module.recompile()


def batch_size(network: Network) -> int | None:
    """The first dimension that all inputs have in common; None where they have none."""
    sizes = {spec.shape[0] if spec.shape else 0 for spec in network.inputs}
    return sizes.pop() if len(sizes) == 1 and 0 not in sizes else None


def _freed(node: fx.Node, size: int | None) -> tuple[Any, ...]:
    data, before, after = node.args[0], node.all_input_nodes[0].meta.get("shape", ()), tuple(node.meta.get("shape", ()))
    keeps = before and after and before[0] == after[0] == size
    return (data, [-1, *after[1:]], *node.args[2:]) if keeps else node.args
