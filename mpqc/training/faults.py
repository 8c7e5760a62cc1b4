"""What can go wrong while training, named by layer; and networks that cannot be trained."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from mpqc.errors import ModelError, TrainingError
from mpqc.passes.lib.quantizer_graph import inserted, origin, quantizer_of
from mpqc.training.session import TrainingBatch
from mpqc.values.network import Network
from mpqc.values.site import SiteTable

HINT = "the last good state is kept; a lower learning rate may help"


def check_loss(loss: float, root: fx.GraphModule, batch: TrainingBatch, step: int) -> None:
    """Raises TrainingError naming the first layer whose values are not finite, where `loss` is not."""
    if not math.isfinite(loss):
        name = _first_not_finite(root, batch)
        raise TrainingError(
            f"the loss is {loss} at step {step}", where=name or "the loss", why="values are NaN or infinite" if name else "", hint=HINT
        )


def check_gradients(root: fx.GraphModule, step: int) -> None:
    """Raises TrainingError naming the parameter whose gradient is not finite."""
    found = [(name, item.grad) for name, item in root.named_parameters() if item.grad is not None]
    norms = torch._foreach_norm([gradient for _, gradient in found]) if found else []
    if found and not bool(torch.isfinite(torch.stack(list(norms))).all()):
        name = next(name for (name, _), norm in zip(found, norms, strict=True) if not torch.isfinite(norm))
        raise TrainingError(f"the gradient is NaN or infinite at step {step}", where=name, hint=HINT)


class _Search(fx.Interpreter):
    """Remembers the first node whose value is not finite."""

    found: fx.Node | None = None

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if self.found is None and isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            self.found = n
        return value


def _first_not_finite(root: fx.GraphModule, batch: TrainingBatch) -> str:
    search = _Search(root)
    with torch.no_grad():
        search.run(*batch.inputs)
    if search.found is None:
        return ""
    source, quantizer = origin(search.found), quantizer_of(root, search.found)
    return quantizer.site if quantizer is not None else (source.node or source.tensor if source else search.found.name)


def refuse_untrainable(network: Network, table: SiteTable) -> None:
    """Raises ModelError where ONNX Runtime runs a node between two weights: no gradient passes it. Also where there is nothing to train."""
    if not any(node.weight for node in table.nodes):
        raise ModelError("has no weights that could be trained", where=network.name, hint="leave --qat-steps out")
    products = {node.name for node in table.nodes if node.weight}
    before: set[fx.Node] = set()
    blocked: dict[fx.Node, str] = {}
    for node in network.module.graph.nodes:
        inputs = node.all_input_nodes
        source = origin(node)
        own = source is not None and source.node in products
        through = next((blocked[item] for item in inputs if item in blocked), "")
        if own and through:
            reasons = {item.name: item.reason for item in network.floats}
            raise ModelError("no gradient passes this node, and weights stand before and behind it", where=through, why=reasons.get(through, ""))
        if own or any(item in before for item in inputs):
            before.add(node)
        outside = node.op == "call_module" and not inserted(network.module, node)
        if outside and node in before and source is not None:
            blocked[node] = source.node
        elif through:
            blocked[node] = through
