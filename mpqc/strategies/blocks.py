"""A graph as a chain of blocks with one tensor between two: what is reconstructed together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from mpqc.passes.lib.quantizer_graph import quantizer_of


@dataclass(frozen=True, eq=False)
class Block:
    """Nodes between two places where a single tensor is alive: a residual block, or a layer of a chain."""

    source: fx.Node
    nodes: tuple[fx.Node, ...]
    """In execution order; the last one's value leaves the block. Constants and their quantizers are among them."""
    weights: tuple[str, ...]
    """Weight sites whose quantizers are inside"""

    @property
    def end(self) -> fx.Node:
        """Whose value leaves the block."""
        return self.nodes[-1]


def blocks_of(root: fx.GraphModule, weights: frozenset[str]) -> tuple[Block, ...]:
    """The blocks of a graph with one input; stretches without weights belong to the block behind them, and the rest to none."""
    data = _data_nodes(root)
    cuts = _cuts(data)
    order = {node: index for index, node in enumerate(root.graph.nodes)}
    made: list[Block] = []
    source = cuts[0]
    for cut in cuts[1:]:
        block = _block(root, source, cut, data, order, weights)
        if block.weights:
            made.append(block)
            source = cut
    return tuple(made)


def _data_nodes(root: fx.GraphModule) -> list[fx.Node]:
    """Nodes whose value depends on the input, in execution order."""
    found: dict[fx.Node, None] = {}
    for node in root.graph.nodes:
        if node.op == "placeholder" or any(item in found for item in node.all_input_nodes):
            found[node] = None
    return [node for node in found if node.op != "output"]


def _cuts(data: list[fx.Node]) -> list[fx.Node]:
    """Nodes after which only their own value is needed of what came before."""
    place = {node: index for index, node in enumerate(data)}
    last = {node: max((place.get(user, len(data)) for user in node.users), default=place[node]) for node in data}
    cuts, alive = [], 0
    for index, node in enumerate(data):
        if alive <= index:
            cuts.append(node)
        alive = max(alive, last[node])
    return cuts


def _block(root: fx.GraphModule, source: fx.Node, cut: fx.Node, data: list[fx.Node], order: Mapping[fx.Node, int], weights: frozenset[str]) -> Block:
    inside = {node for node in data if order[source] < order[node] <= order[cut]}
    waiting = list(inside)
    while waiting:
        for item in waiting.pop().all_input_nodes:
            if item is not source and item not in inside:
                inside.add(item)
                waiting.append(item)
    nodes = tuple(sorted(inside, key=order.__getitem__))
    found = [quantizer.site for node in nodes if (quantizer := quantizer_of(root, node)) is not None and quantizer.site in weights]
    return Block(source, nodes, tuple(found))


class BlockRunner(fx.Interpreter):
    """Runs one block on the value that enters it."""

    def run_block(self, block: Block, value: Tensor) -> Tensor:
        """What leaves the block for `value`."""
        self.env: dict[fx.Node, Any] = {block.source: value}
        for node in block.nodes:
            self.env[node] = self.run_node(node)
        result = self.env[block.end]
        self.env = {}
        return result  # type: ignore[no-any-return]

    def values_at(self, cuts: frozenset[fx.Node], inputs: tuple[Tensor, ...], *, gradients: bool = False) -> tuple[Any, dict[fx.Node, Tensor]]:
        """The graph's results for `inputs` and the values of `cuts`, which get gradients where asked for."""
        seen: dict[fx.Node, Tensor] = {}
        self.env = {}
        given = iter(inputs)
        result: Any = None
        for node in self.module.graph.nodes:  # type: ignore[union-attr]
            value = next(given) if node.op == "placeholder" else self.run_node(node)
            if node.op == "output":
                result = value
            if node in cuts:
                value = value.detach().requires_grad_() if gradients and not value.requires_grad else value
                seen[node] = value
            self.env[node] = value
        self.env = {}
        return result, seen
