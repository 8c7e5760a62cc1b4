"""What the float network teaches: the loss between its outputs and those of a quantized one, without labels.

Every network output gives one term. Where a softmax stands at the end (or a single [batch, classes] output is taken for logits) the
term is KL(p || q), in nats, a position, plus LEAN times the relative squared difference of the logits: a network that is sure of every answer
has no KL to speak of, and its layers still differ. Elsewhere the term is the squared difference, a value, over the variance of the float
output over the data. The terms are means over positions and samples, and are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, fx

from mpqc.facts.ops import OPS, is_view
from mpqc.passes.lib.quantizer_graph import inserted, origin, quantizer_of
from mpqc.quantize.replay import Replay, arguments
from mpqc.values.network import Network

LEAN = 0.01
"""Weight of the relative squared error of logits beside their KL: far below the KL of any network that is not saturated."""


@dataclass(frozen=True)
class Term:
    """One tensor that is compared. `axis`: the classes of logits; None: values. Squared errors are divided by `variance`."""

    tensor: str
    axis: int | None = None
    variance: float = 1.0


@dataclass(frozen=True)
class Task:
    """The tensors to observe and how they are compared."""

    terms: tuple[Term, ...]

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the tensors to observe."""
        return frozenset(term.tensor for term in self.terms)

    @property
    def unit(self) -> str:
        """What a loss is, in words."""
        classes = all(term.axis is not None for term in self.terms)
        return "distillation loss (nats)" if classes else "distillation loss (squared output error over variance, plus nats where there is a softmax)"

    def loss(self, teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]) -> Tensor:
        """The loss of `student` against `teacher` (observed tensors by name): a float32 scalar, >= 0."""
        return torch.stack([_term_loss(term, teacher[term.tensor], student[term.tensor]) for term in self.terms]).sum()

    def probes(self, observed: Mapping[str, Tensor], generator: torch.Generator) -> list[Tensor]:
        """Random vectors u, one a term, with E[u u^T] = the Hessian of the loss of one sample at student = teacher, in the term's tensor.

        So E[(u^T J d)^2] is d^T H d for any direction d, where J is the Jacobian of the observed tensors. For KL the Hessian is
        diag(p) - p p^T, and u = sqrt(p) v - p (sqrt(p)^T v) with v normal has that covariance; independent probes of two terms add.
        """
        return [_probe(term, observed[term.tensor].detach(), generator) for term in self.terms]


def _positions(term: Term, value: Tensor) -> int:
    """How many positions of one sample the mean runs over."""
    size = value.numel() // value.shape[0]
    return size if term.axis is None else max(size // value.shape[term.axis], 1)


def _term_loss(term: Term, teacher: Tensor, student: Tensor) -> Tensor:
    squares = ((student - teacher) ** 2).mean() / term.variance
    if term.axis is None:
        return squares
    p, q = torch.log_softmax(teacher, term.axis), torch.log_softmax(student, term.axis)
    return (p.exp() * (p - q)).sum() / (_positions(term, teacher) * teacher.shape[0]) + LEAN * squares


def _probe(term: Term, value: Tensor, generator: torch.Generator) -> Tensor:
    size = value.numel() / value.shape[0]
    squares = torch.randn(value.shape, generator=generator) * (2 / (size * term.variance)) ** 0.5
    if term.axis is None:
        return squares
    v, p = torch.randn(value.shape, generator=generator), torch.softmax(value, term.axis)
    root = p.sqrt()
    return (root * v - p * (root * v).sum(term.axis, keepdim=True)) / _positions(term, value) ** 0.5 + LEAN**0.5 * squares


def find_task(network: Network, batches: Iterable[Mapping[str, np.ndarray]]) -> Task:
    """The terms of `network`: one a float output, its logits where a softmax ends it.

    Behind nodes that ONNX Runtime runs, and at integer outputs, no gradient flows: there the float tensors that enter are compared instead.
    Runs the network once over `batches` for the variances.
    """
    terms = _terms(network)
    spread = _variances(network, frozenset(term.tensor for term in terms), batches)
    return Task(tuple(replace(term, variance=spread.get(term.tensor, 1.0)) for term in terms))


def _variances(network: Network, names: frozenset[str], batches: Iterable[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Variance over all values of each tensor; 1 where it is constant."""
    sums = {name: torch.zeros(3, dtype=torch.float64) for name in names}

    def watch(name: str, value: Tensor) -> Tensor:
        wide = value.double()
        sums[name] += torch.stack([torch.tensor(float(value.numel()), dtype=torch.float64), wide.sum(), wide.square().sum()])
        return value

    with torch.no_grad():
        for batch in batches:
            Replay(network.module, watch, names).run(*arguments(network.module, batch))
    means = {name: (total / total[0].clamp(min=1)).tolist() for name, total in sums.items()}
    spread = {name: square - mean**2 for name, (_, mean, square) in means.items()}
    return {name: value if value > 1e-12 else 1.0 for name, value in spread.items()}


def _terms(network: Network) -> tuple[Term, ...]:
    graph = network.module.graph
    returned = next(node for node in graph.nodes if node.op == "output").all_input_nodes
    blocked = [node for node in graph.nodes if _runs_outside(network.module, node) or _jumps(node)]
    ends = [end for node in (*returned, *blocked) for end in _differentiable(network.module, node)]
    return tuple(dict.fromkeys(_term(network, node, alone=len(returned) == 1) for node in dict.fromkeys(ends)))


def _blocks(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether gradients stop at `node`: it runs in ONNX Runtime, its result is not float, or it is a function of steps."""
    if node.op in ("placeholder", "get_attr", "output"):
        return False
    return _runs_outside(module, node) or not _is_float(node) or _jumps(node)


def _is_float(node: fx.Node) -> bool:
    return "float" in str(node.meta.get("dtype", "float32"))


def _jumps(node: fx.Node) -> bool:
    """Whether the gradient of `node` is 0 wherever there is one (Round, Sign)."""
    return node.op == "call_function" and _kind(node) in OPS and _is_float(node) and not OPS[_kind(node)].trainable


def _runs_outside(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and not inserted(module, node)


def _differentiable(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    if node.op in ("placeholder", "get_attr"):
        return []
    if not _blocks(module, node):
        return [node]
    return [end for reader in node.all_input_nodes for end in _differentiable(module, reader)]


def _term(network: Network, node: fx.Node, *, alone: bool) -> Term:
    inner = node
    while is_view(_kind(inner)) or quantizer_of(network.module, inner) is not None:
        inner = inner.all_input_nodes[0]
    if _kind(inner) in ("Softmax", "LogSoftmax"):
        source = _through_quantizer(network.module, inner.all_input_nodes[0])
        return Term(_tensor(source), _softmax_axis(network, _name(inner)))
    tensor = _tensor(_through_quantizer(network.module, node))
    shape = tuple(node.meta.get("shape", ()))
    autoencodes = any(spec.shape == shape for spec in network.inputs)
    return (
        Term(tensor, 1)
        if alone and len(shape) == 2 and shape[1] >= 2 and not autoencodes and _kind(inner) in ("Gemm", "Conv", "MatMul", "Add")
        else Term(tensor)
    )


def _through_quantizer(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0] if quantizer_of(module, node) is not None else node


def _kind(node: fx.Node) -> str:
    source = origin(node)
    return source.op_type if source else ""


def _name(node: fx.Node) -> str:
    source = origin(node)
    return source.node if source else ""


def _tensor(node: fx.Node) -> str:
    source = origin(node)
    return source.tensor if source else node.name


def _softmax_axis(network: Network, name: str) -> int:
    from mpqc.frontend.view import view

    found = next(node for node in view(network.model).nodes if node.name == name)
    return int(found.attributes.get("axis", -1))
