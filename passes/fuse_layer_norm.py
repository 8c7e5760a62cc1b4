"""Layer normalization written out in arithmetic becomes one LayerNormalization node.

y = (x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias (Ba et al. 2016, equation 4), also as x * g + (bias - mean * g) with
g = scale / sqrt(...), as TensorFlow writes it. One node keeps the variance in float, where eight bits would ruin it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.patterns import made_by, orders, product, reduced_axes, same, scalar
from mpqc.passes.lib.surgery import close_graph, constant, free_name, open_graph, unchanged


@dataclass(frozen=True, eq=False)
class _Norm:
    """What the formula says."""

    source: gs.Tensor
    axis: int
    epsilon: float
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None


@dataclass(frozen=True)
class FuseLayerNorm:
    """The last node of the formula becomes LayerNormalization over the trailing axes, with constant scale and bias."""

    name: ClassVar[str] = "fuse-layer-norm"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Nodes are tried from the last one back, so that scale and bias are taken along."""
        graph = open_graph(model)
        fused = [node for node in reversed(list(graph.nodes)) if (norm := _match(node)) and _rewrite(graph, node, norm)]
        return close_graph(graph, model) if fused else unchanged(model)


def _match(node: gs.Node) -> _Norm | None:
    if node.op == "Add":
        return _with_bias(node) or _folded(node)
    if node.op == "Mul":
        return _with_scale(node) or _normalized(node)
    return _normalized(node) if node.op == "Div" else None


def _with_bias(node: gs.Node) -> _Norm | None:
    for inner, other in orders(node):
        bias, maker = constant(other), made_by(inner, "Mul")
        norm = _with_scale(maker) if maker is not None and bias is not None else None
        if norm is not None:
            return _Norm(norm.source, norm.axis, norm.epsilon, norm.scale, bias)
    return None


def _with_scale(node: gs.Node) -> _Norm | None:
    for inner, other in orders(node):
        scale, maker = constant(other), made_by(inner, "Div", "Mul")
        norm = _normalized(maker) if maker is not None and scale is not None else None
        if norm is not None:
            return _Norm(norm.source, norm.axis, norm.epsilon, scale)
    return None


def _normalized(node: gs.Node) -> _Norm | None:
    """(x - mean) / root, or times its reciprocal."""
    pairs = [(node.inputs[0], node.inputs[1])] if node.op == "Div" else [(a, _reciprocal(b)) for a, b in orders(node)]
    for centred, root in pairs:
        found = _centred(centred)
        epsilon = _root(root, centred, found[1]) if found is not None and root is not None else None
        if found is not None and epsilon is not None:
            return _Norm(found[0], found[1], epsilon)
    return None


def _folded(node: gs.Node) -> _Norm | None:
    """x * g + (bias - mean * g), g = scale / root."""
    for left, right in orders(node):
        product_node, shift = made_by(left, "Mul"), made_by(right, "Sub")
        bias = constant(shift.inputs[0]) if shift is not None else None
        if product_node is None or shift is None or bias is None:
            continue
        for source, gain in orders(product_node):
            norm = _gain(source, gain, shift.inputs[1])
            if norm is not None:
                return _Norm(source, norm.axis, norm.epsilon, norm.scale, bias)
    return None


def _gain(source: gs.Tensor, gain: gs.Tensor, mean_part: gs.Tensor) -> _Norm | None:
    """g and mean * g for the same x; the squares are those of x minus the same mean."""
    means = [mean for mean, factor in orders(made_by(mean_part, "Mul")) if factor is gain and made_by(mean, "ReduceMean")]
    for inverse, other in orders(made_by(gain, "Mul")):
        scale, root = constant(other), _reciprocal(inverse)
        if scale is None or root is None:
            continue
        for mean in means:
            found = _variance(root, source, mean)
            if found is not None:
                return _Norm(source, found[0], found[1], scale)
    return None


def _reciprocal(tensor: gs.Tensor) -> gs.Tensor | None:
    node = made_by(tensor, "Reciprocal", "Div")
    if node is None or (node.op == "Div" and scalar(node.inputs[0]) != 1.0):
        return None
    return node.inputs[-1]


def _centred(tensor: gs.Tensor) -> tuple[gs.Tensor, int] | None:
    """(x, first normalised axis) where the tensor is x - mean(x)."""
    sub = made_by(tensor, "Sub")
    mean = made_by(sub.inputs[1], "ReduceMean") if sub is not None else None
    if sub is None or mean is None or mean.inputs[0] is not sub.inputs[0]:
        return None
    axis = _trailing(mean)
    return None if axis is None else (sub.inputs[0], axis)


def _trailing(mean: gs.Node) -> int | None:
    """The first axis, where a mean is over it and all behind it."""
    axes, rank = reduced_axes(mean), len(mean.inputs[0].shape)
    return axes[0] if axes and axes == list(range(axes[0], rank)) else None


def _root(root: gs.Tensor, centred: gs.Tensor, axis: int) -> float | None:
    """Epsilon where the tensor is sqrt(mean(centred^2) + epsilon) over the same axes."""
    sqrt = made_by(root, "Sqrt")
    for variance, number in orders(made_by(sqrt.inputs[0], "Add") if sqrt is not None else None):
        mean, epsilon = made_by(variance, "ReduceMean"), scalar(number)
        if mean is None or epsilon is None or epsilon < 0 or _trailing(mean) != axis:
            continue
        factor, tensors = product(mean.inputs[0], [centred])
        if factor == 1.0 and same(tensors, [centred, centred]):
            return epsilon
    return None


def _variance(root: gs.Tensor, source: gs.Tensor, mean: gs.Tensor) -> tuple[int, float] | None:
    """(axis, epsilon) where `root` belongs to x minus this very mean."""
    for reader in source.outputs:
        if reader.op != "Sub" or reader.inputs[0] is not source or reader.inputs[1] is not mean:
            continue
        found = _centred(reader.outputs[0])
        epsilon = _root(root, reader.outputs[0], found[1]) if found is not None else None
        if found is not None and epsilon is not None:
            return found[1], epsilon
    return None


def _rewrite(graph: gs.Graph, node: gs.Node, norm: _Norm) -> bool:
    shape = [int(size) for size in norm.source.shape[norm.axis :]]
    scale = _fitted(np.ones(1, norm.source.dtype) if norm.scale is None else norm.scale, shape)
    bias = None if norm.bias is None else _fitted(norm.bias, shape)
    if scale is None or (norm.bias is not None and bias is None) or list(node.outputs[0].shape) != list(norm.source.shape):
        return False
    inputs = [norm.source, gs.Constant(free_name(graph, f"{node.name}.scale"), scale)]
    inputs += [gs.Constant(free_name(graph, f"{node.name}.bias"), bias)] if bias is not None else []
    node.op, node.attrs, node.inputs = "LayerNormalization", {"axis": norm.axis, "epsilon": norm.epsilon}, inputs
    return True


def _fitted(values: np.ndarray, shape: list[int]) -> np.ndarray | None:
    """`values` in the normalised shape, None where they vary along other axes."""
    while values.ndim > len(shape) and values.shape[0] == 1:
        values = values[0]
    if values.ndim > len(shape) or any(size not in (1, wanted) for size, wanted in zip(values.shape[::-1], shape[::-1], strict=False)):
        return None
    return np.ascontiguousarray(np.broadcast_to(values, shape))
