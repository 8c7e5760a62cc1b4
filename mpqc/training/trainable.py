"""The network as it is trained: a copy of its graph with a quantizer at every site and BatchNorm behind convolutions."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx, nn

from mpqc.numerics.fake_quant import FakeQuantize, QuantizerState, quantizers
from mpqc.passes.lib.quantizer_graph import add_module, inserted, origin, producers, quantizer_of
from mpqc.passes.prepare_quantizers import with_quantizers
from mpqc.quantize.calibration import moved_sites
from mpqc.training.batch_free import free_batch
from mpqc.training.batch_norm import LATENT_NORM, BatchNormBehind
from mpqc.training.depthwise import use_float32_where_faster
from mpqc.training.fusion import fuse
from mpqc.training.processes import Group
from mpqc.values.network import Network
from mpqc.values.qtype import QParams
from mpqc.values.site import OpNode, SiteKind, SiteTable

if TYPE_CHECKING:
    from mpqc.quantize.calibration import Calibration
    from mpqc.sensitivity.task import Task
    from mpqc.training.quantizers.base import TrainedState


SILENT = 1e-8
"""Norm of a channel that counts as zeros"""


@dataclass(frozen=True)
class Layer:
    """A node with a weight that is trained: where its parts are in the module. `norm` empty: no BatchNorm behind."""

    node: str
    weight: str
    """Site"""
    axis: int
    """Of the weight, that counts output channels"""
    weight_at: str
    bias: str = ""
    """Initializer"""
    bias_at: str = ""
    norm_at: str = ""


class Trainable:
    """See TrainableModule in session.py. `root` gives the task's tensors, in the order of its terms, for the placeholders' values."""

    def __init__(self, network: Network, table: SiteTable, root: fx.GraphModule, layers: tuple[Layer, ...], calibration: Calibration) -> None:
        self.network, self.table, self.root, self.layers, self.calibration = network, table, root, layers, calibration
        self.by_weight = {layer.weight: layer for layer in layers}

    @cached_property
    def quantizers(self) -> Mapping[str, FakeQuantize]:
        """By site."""
        return quantizers(self.root)

    @property
    def norms(self) -> tuple[BatchNormBehind, ...]:
        """Every BatchNorm, in execution order."""
        return tuple(item for layer in self.layers if (item := self.norm(layer)) is not None)

    def norm(self, layer: Layer) -> BatchNormBehind | None:
        """The BatchNorm behind `layer`."""
        found = self.root.get_submodule(layer.norm_at) if layer.norm_at else None
        return found if isinstance(found, BatchNormBehind) else None

    def install(self, states: Mapping[str, TrainedState]) -> None:
        """Give sites their states; sites that are left out stay float."""
        for site, quantizer in self.quantizers.items():
            quantizer.state = states[site] if site in states else QuantizerState()

    def weight(self, site: str) -> nn.Parameter:
        """The latent weight of a site."""
        return self.root.get_parameter(self.by_weight[site].weight_at)

    def factor(self, site: str) -> Tensor:
        """What folding multiplies each output channel of a weight with: [n], or [] for 1."""
        norm = self.norm(self.by_weight[site]) if site in self.by_weight else None
        return torch.ones(()) if norm is None else norm.factor()

    def calibrated(self, site: str, bits: int) -> QParams:
        """The calibrated grid of a site on the scale of its latent values."""
        found = self.calibration.qparams(site, bits)
        factor = self.factor(site).cpu().numpy()
        if self.table.by_name[site].kind is SiteKind.ACTIVATION or not factor.shape:
            return found
        return replace(found, scale=(found.scale / factor).astype(np.float32))

    def allows_half(self, site: str, bits: int) -> bool:
        """Whether a weight may lie on the half-integer grid at this width."""
        return self.calibration.allows_half(site, bits)

    @contextmanager
    def floating(self) -> Iterator[None]:
        """Within the block nothing is quantized."""
        before = {item: item.enabled for item in self.quantizers.values()}
        for item in before:
            item.enabled = False
        try:
            yield
        finally:
            for item, enabled in before.items():
                item.enabled = enabled

    def constrain(self) -> None:
        """Bring what must stay positive back, after an optimizer step. States are the strategy's."""
        for norm in self.norms:
            norm.constrain()

    def parameters(self) -> list[nn.Parameter]:
        """Weights, biases, gammas and betas: everything trained but the states."""
        return [*self.weights(), *self.others()]

    def weights(self) -> list[nn.Parameter]:
        """The latent weights."""
        return list({id(item): item for item in (self.weight(layer.weight) for layer in self.layers)}.values())

    def others(self) -> list[nn.Parameter]:
        """Biases, gammas and betas."""
        biases = [self.root.get_parameter(layer.bias_at) for layer in self.layers if layer.bias_at and not layer.norm_at]
        return [*biases, *(item for norm in self.norms for item in (norm.gamma, norm.beta))]


def make_trainable(network: Network, table: SiteTable, calibration: Calibration, task: Task, *, batch_norm: bool = True, group: Group) -> Trainable:
    """A trainable copy of `network` that computes what it computes. BatchNorm is inert until start_batch_norm has seen data."""
    own = replace(network, module=copy.deepcopy(network.module))
    prepared = with_quantizers(own, table)
    root = prepared.module
    _skip_repeats(root, table)
    _observe(root, task)
    free_batch(root, network)
    layers = tuple(_layers(root, table, network, batch_norm, group))
    root.graph.eliminate_dead_code()
    trained = {name for layer in layers for name in (layer.weight_at, layer.bias_at) if name and not (name == layer.bias_at and layer.norm_at)}
    for name, parameter in root.named_parameters():
        parameter.requires_grad_(name in trained or name.rpartition(".")[2] in ("gamma", "beta"))
    use_float32_where_faster(root)
    fuse(root)
    return Trainable(network, table, root, layers, calibration)


def make_teacher(network: Network, task: Task) -> fx.GraphModule:
    """The float network as a module that gives the task's tensors, without gradients."""
    teacher = copy.deepcopy(network.module)
    _observe(teacher, task)
    free_batch(teacher, network)
    return teacher.requires_grad_(False).eval()


def start_batch_norm(trainable: Trainable, batches: Iterable[tuple[Tensor, ...]]) -> None:
    """Give every BatchNorm the statistics of the float network over `batches` and every channel of its weight one norm: the function stays."""
    for norm in trainable.norms:
        norm.gathered = []
    with torch.no_grad():
        for inputs in batches:
            trainable.root(*inputs)
    for layer in trainable.layers:
        behind = trainable.norm(layer)
        if behind is not None:
            behind.start(_scale_channels(trainable.weight(layer.weight), layer.axis))


def _scale_channels(weight: nn.Parameter, axis: int) -> Tensor:
    """Multiply every output channel so that its norm is LATENT_NORM (channels of zeros stay), in place; returns the factors [n]."""
    rows = weight.detach().transpose(0, axis).flatten(1)
    norms = rows.norm(dim=1)
    factors = torch.where(norms > SILENT, LATENT_NORM / norms.clamp(min=SILENT), torch.ones(()).to(norms))
    with torch.no_grad():
        weight.mul_(factors.reshape([-1 if index == axis else 1 for index in range(weight.ndim)]))
    return factors


def _skip_repeats(root: fx.GraphModule, table: SiteTable) -> None:
    """Take the quantizers of values that only repeat others of their group out of the graph (their modules stay): a second rounding changes no
    value, but would stop the gradients of those at the ends of the range."""
    blended = {name for node in table.nodes if node.op_type == "Resize" for name in (node.output, *node.extra_outputs)}
    repeats = moved_sites(table) - blended
    for node in list(root.graph.nodes):
        found = quantizer_of(root, node)
        if found is not None and found.site in repeats:
            node.replace_all_uses_with(node.all_input_nodes[0])
            root.graph.erase_node(node)


def _observe(module: fx.GraphModule, task: Task) -> None:
    """Return the task's tensors, quantized where they have a quantizer, instead of the network's outputs."""
    values = producers(module)
    quantized = {item.site: node for node in module.graph.nodes if (item := quantizer_of(module, node))}
    output = next(node for node in module.graph.nodes if node.op == "output")
    output.args = (tuple(quantized.get(term.tensor, values[term.tensor]) for term in task.terms),)
    module.graph.eliminate_dead_code()
    module.recompile()


def _layers(root: fx.GraphModule, table: SiteTable, network: Network, batch_norm: bool, group: Group) -> Iterator[Layer]:
    """The layers of `root`; puts BatchNorm behind those that can have one."""
    calls = {source.node: node for node in reversed(root.graph.nodes) if (source := origin(node)) and source.node}
    readers = Counter(str(item.target) for item in root.graph.nodes if item.op == "get_attr" for _ in item.users)
    last = _not_before_a_product(root, table)
    for op in table.nodes:
        if op.weight is None or op.name not in calls:
            continue
        call, axis = calls[op.name], table.by_name[op.weight].axis
        weight, bias = _constant(root, call, 1), _constant(root, call, 2)
        if weight is None:
            continue
        layer = Layer(op.name, op.weight, axis or 0, str(weight.target), _tensor(bias), str(bias.target) if bias else "")
        alone = bias is not None and readers[str(weight.target)] == readers[str(bias.target)] == 1
        if batch_norm and alone and op.op_type == "Conv" and axis == 0 and op.name not in last and _has_area(op):
            layer = replace(layer, norm_at=_put_norm(root, call, layer, op, group))
        yield layer


def _put_norm(root: fx.GraphModule, call: fx.Node, layer: Layer, op: OpNode, group: Group) -> str:
    found = quantizers(root)
    norm = BatchNormBehind(root.get_parameter(layer.bias_at), found[op.inputs[0]], found[layer.weight], group)
    target = add_module(root, "batch_norm_", norm)
    call.args = (*call.args[:2], None, *call.args[3:])
    with root.graph.inserting_after(call):
        made = root.graph.call_module(target, (call,))
    made.meta = dict(call.meta)
    call.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
    return target


def _constant(root: fx.GraphModule, call: fx.Node, position: int) -> fx.Node | None:
    """The get_attr behind an argument, through its quantizer."""
    found = call.args[position] if len(call.args) > position else None
    if isinstance(found, fx.Node) and inserted(root, found):
        found = found.all_input_nodes[0]
    return found if isinstance(found, fx.Node) and found.op == "get_attr" else None


def _tensor(node: fx.Node | None) -> str:
    source = origin(node) if node is not None else None
    return source.tensor if source else ""


def _has_area(op: OpNode) -> bool:
    """Whether a channel has more than one value a sample: squeezed ones have no statistics to speak of."""
    return prod(op.output_shape[2:]) > 1


def _not_before_a_product(root: fx.GraphModule, table: SiteTable) -> frozenset[str]:
    """Nodes behind which no other node multiplies with weights: heads, which have no BatchNorm in any network."""
    products = {op.name for op in table.nodes if op.weight is not None}
    leads: set[fx.Node] = set()
    last: set[str] = set()
    for node in reversed(root.graph.nodes):
        source = origin(node)
        follows = any(user in leads for user in node.users)
        is_product = source is not None and source.node in products
        if is_product and not follows and source is not None:
            last.add(source.node)
        if is_product or follows:
            leads.add(node)
    return frozenset(last)
