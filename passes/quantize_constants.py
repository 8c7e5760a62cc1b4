"""Quantize the constants that are no sites: biases, and the constant operands of Add, Sub and Mul."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from mpqc.facts.ops import Role, facts
from mpqc.numerics.fake_quant import FakeQuantize, FakeQuantizeBias, FakeQuantizeOperand, Quantizer, quantizers
from mpqc.numerics.ranges import affine_qparams
from mpqc.passes.lib.quantizer_graph import add_module, origin
from mpqc.values.network import Network
from mpqc.values.site import OpNode, SiteTable


@dataclass(frozen=True)
class QuantizeConstants:
    """Inserts quantizers that follow the sites around their node, in place: a bias has the scale s_x * s_w, an operand
    8 bits over its range (a node that runs as a table computes with the real value).

    Without them a network of few bits would differ from its integer program in about one activation of a hundred.
    """

    name: ClassVar[str] = "quantize-constants"

    def run(self, network: Network, table: SiteTable) -> None:
        """Insert in place. Needs insert-quantizers."""
        sites, calls = quantizers(network.module), _calls(network.module)
        for node in table.nodes:
            for constant in _constants(calls[node.name]):
                made = _quantizer(network.module, node, constant, sites)
                if made is not None:
                    _insert(network.module, calls[node.name], constant, made)
        network.module.recompile()


def _calls(module: fx.GraphModule) -> dict[str, fx.Node]:
    """ONNX node name -> the FX call that stands for it (not the getitems behind it)."""
    calls: dict[str, fx.Node] = {}
    for node in module.graph.nodes:
        source = origin(node)
        if source is not None and source.node:
            calls.setdefault(source.node, node)
    return calls


def _constants(call: fx.Node) -> list[fx.Node]:
    return [item for item in call.all_input_nodes if item.op == "get_attr"]


def _quantizer(module: fx.GraphModule, node: OpNode, constant: fx.Node, sites: dict[str, FakeQuantize]) -> Quantizer | None:
    if node.weight is not None:
        return FakeQuantizeBias(sites[node.inputs[0]], sites[node.weight])
    if facts(node.op_type).role is not Role.BINARY or node.is_table:
        return None
    values = _attribute(module, str(constant.target)).detach()
    qparams = affine_qparams(float(values.min()), float(values.max()), 8)
    return FakeQuantizeOperand(qparams, tuple(sites[name] for name in node.inputs), sites[node.output])


def _attribute(module: fx.GraphModule, target: str) -> torch.Tensor:
    parent, _, name = target.rpartition(".")
    found = getattr(module.get_submodule(parent), name)
    assert isinstance(found, torch.Tensor), target
    return found


def _insert(module: fx.GraphModule, call: fx.Node, constant: fx.Node, quantizer: Quantizer) -> None:
    target = add_module(module, "constant_quantizer_", quantizer)
    with module.graph.inserting_before(call):
        made = module.graph.call_module(target, (constant,))
    made.meta = {key: constant.meta[key] for key in ("shape", "dtype") if key in constant.meta}
    call.replace_input_with(constant, made)
