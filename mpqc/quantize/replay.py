"""Running a network's FX graph on numpy batches while watching the values of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from mpqc.passes.lib.quantizer_graph import origin
from mpqc.values.network import Network

Watch = Callable[[str, Tensor], Tensor]
"""Called with a tensor's name and value; returns the value to go on with."""


class Replay(fx.Interpreter):
    """An interpreter that shows the values of chosen tensors, in execution order, to `watch`; other values are freed after their last use."""

    def __init__(self, module: fx.GraphModule, watch: Watch, names: frozenset[str]) -> None:
        super().__init__(module)
        self.watch, self.names = watch, names

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        source = origin(n)
        if source is not None and isinstance(value, Tensor) and source.tensor in self.names:
            return self.watch(source.tensor, value)
        return value


def arguments(module: fx.GraphModule, batch: Mapping[str, np.ndarray]) -> list[Tensor]:
    """The tensors of `batch` in the order of the placeholders of `module`."""
    sources = (origin(node) for node in module.graph.nodes if node.op == "placeholder")
    return [torch.from_numpy(np.ascontiguousarray(batch[source.tensor])) for source in sources if source is not None]


def outputs(network: Network, value: Any) -> dict[str, Tensor]:
    """What the graph module returned, by output name."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return {spec.name: tensor for spec, tensor in zip(network.outputs, values, strict=True)}


def run(network: Network, batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The outputs of `network` for one batch, without gradients."""
    with torch.no_grad():
        return outputs(network, network.module(*arguments(network.module, batch)))
