"""BatchNorm or addition, ReLU and quantizer of one chain as one pass over memory (quantizers/one_pass.py), where a step allows it.

The chains are found once, on the graph; whether one runs fused is decided anew each time, since quantizers are switched, watched and replaced.
The modules stay where they are: nothing that looks them up sees a difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, fx, nn

from mpqc.frontend.ops_elementwise import add, relu
from mpqc.numerics.fake_quant import FakeQuantize
from mpqc.passes.lib.quantizer_graph import add_module, quantizer_of
from mpqc.training.batch_norm import EPSILON, BatchNormBehind
from mpqc.training.quantizers import native
from mpqc.training.quantizers.base import TrainedState
from mpqc.training.quantizers.one_pass import Running, normalised, rounded, takes_norm
from mpqc.training.quantizers.steps import OnePass


@dataclass(frozen=True)
class Chain:
    """Nodes of which each is the only reader of the one before."""

    first: fx.Node
    """A BatchNorm, an addition or, without them, the ReLU"""
    nodes: tuple[fx.Node, ...]
    """All, in order"""
    relu: bool
    quantizer: fx.Node | None


class Fused(nn.Module):
    """Does what the modules of a chain do one after the other, in one pass where it can."""

    def __init__(self, norm: BatchNormBehind | None, quantizer: FakeQuantize | None, *, relu: bool) -> None:
        super().__init__()
        self.parts = (norm, quantizer)  # in a tuple, so that they stay children of the graph module alone
        self.relu = relu

    def forward(self, z: Tensor, skip: Tensor | None = None) -> Tensor:
        """The same shape and dtype."""
        norm, quantizer = self.parts
        if not native.suits(z) or not self._plain():
            return self._apart(z, skip)
        rounding = _rounding(quantizer, z)
        if quantizer is not None and quantizer.active and rounding is None:
            return self._apart(z, skip)
        if norm is not None:
            return self._normalised(z, norm, rounding)
        if skip is not None and (skip.dtype is not z.dtype or skip.shape != z.shape or skip.stride() != z.stride()):
            return self._apart(z, skip)
        return rounded(z, skip, rounding, relu=self.relu)

    def _plain(self) -> bool:
        """Whether this is a step of training that nobody watches from inside."""
        norm, quantizer = self.parts
        watched = any(item is not None and (item._forward_pre_hooks or item._forward_hooks) for item in self.parts)
        apart = norm is not None and (not norm.training or norm.gathered is not None or norm.group.size > 1)
        return self.training and not watched and not apart and not (quantizer is not None and not quantizer.training)

    def _normalised(self, z: Tensor, norm: BatchNormBehind, rounding: OnePass | None) -> Tensor:
        if not takes_norm(z, norm.gamma, norm.beta, norm.mean, norm.variance):
            return self._apart(z, None)
        running = Running(norm.mean, norm.variance, norm.momentum, EPSILON)
        return normalised(z, norm.gamma, norm.beta, running, rounding, relu=self.relu)

    def _apart(self, z: Tensor, skip: Tensor | None) -> Tensor:
        norm, quantizer = self.parts
        made = z if norm is None else norm(z)
        made = made if skip is None else add(made, skip)
        made = relu(made) if self.relu else made
        return made if quantizer is None else quantizer(made)  # type: ignore[no-any-return]


def fuse(root: fx.GraphModule) -> None:
    """Put a Fused in the place of every chain, in place; the modules of the chains stay."""
    for chain in list(_chains(root)):
        norm = _norm(root, chain.first)
        quantizer = None if chain.quantizer is None else quantizer_of(root, chain.quantizer)
        target = add_module(root, "fused_", Fused(norm, quantizer, relu=chain.relu))
        last = chain.nodes[-1]
        with root.graph.inserting_before(last):
            made = root.graph.call_module(target, tuple(chain.first.args))
        made.meta = dict(chain.first.meta)
        last.replace_all_uses_with(made)
        for node in reversed(chain.nodes):
            root.graph.erase_node(node)
    root.recompile()


def _rounding(quantizer: FakeQuantize | None, x: Tensor) -> OnePass | None:
    if quantizer is None or not quantizer.active or not isinstance(quantizer.state, TrainedState):
        return None
    return quantizer.state.one_pass(x)


def _chains(root: fx.GraphModule) -> Iterator[Chain]:
    taken: set[fx.Node] = set()
    for node in root.graph.nodes:
        if node in taken:
            continue
        chain = _from(root, node)
        if chain is not None:
            taken.update(chain.nodes)
            yield chain


def _from(root: fx.GraphModule, node: fx.Node) -> Chain | None:
    """The chain that begins at `node`: a BatchNorm with whatever follows, or something else before a quantizer."""
    norm = _norm(root, node)
    if norm is None and not _is(node, add) and not _is(node, relu):
        return None
    nodes = [node]
    has_relu = _is(node, relu)
    if not has_relu and (follower := _only_reader(node)) is not None and _is(follower, relu):
        nodes.append(follower)
        has_relu = True
    follower = _only_reader(nodes[-1])
    quantizer = follower if follower is not None and quantizer_of(root, follower) is not None else None
    if quantizer is not None:
        nodes.append(quantizer)
    return Chain(node, tuple(nodes), has_relu, quantizer) if norm is not None or quantizer is not None else None


def _norm(root: fx.GraphModule, node: fx.Node) -> BatchNormBehind | None:
    found = root.get_submodule(str(node.target)) if node.op == "call_module" else None
    return found if isinstance(found, BatchNormBehind) else None


def _is(node: fx.Node, function: object) -> bool:
    plain = not node.kwargs and all(isinstance(item, fx.Node) for item in node.args)
    return node.op == "call_function" and node.target is function and plain


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
