"""One spelling for each activation function: Relu, Clip, HardSigmoid, HardSwish.

Min and Max with a scalar constant become Clip; nested Clips one Clip; Clip(0, none) Relu; Clip(x + 3, 0, 6) / 6 HardSigmoid(1/6, 1/2);
x * HardSigmoid(x; 1/6, 1/2) and x * Clip(x + 3, 0, 6) / 6 HardSwish (Howard et al. 2019, section 5.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from mpqc.passes.lib.base import PassResult
from mpqc.passes.lib.patterns import scalar
from mpqc.passes.lib.surgery import close_graph, free_name, input_at, open_graph, producer, read_only_by, unchanged

SIXTH = 1.0 / 6.0
CLOSE = 1e-6
"""Relative slack for constants such as 1/6 stored in float32."""


@dataclass(frozen=True)
class NormalizeActivations:
    """Rewrite the patterns above wherever what lies inside them has no other reader."""

    name: ClassVar[str] = "normalize-activations"

    def run(self, model: onnx.ModelProto) -> PassResult:
        """Every output keeps its name."""
        graph = open_graph(model)
        changed = False
        for rewrite in (_min_max, _merge_clips, _to_hard_sigmoid, _to_hard_swish, _to_relu):
            done = [node for node in list(graph.nodes) if rewrite(graph, node)]
            graph.cleanup(remove_unused_graph_inputs=False)  # dead readers would hide patterns from the next rewrite
            changed = changed or bool(done)
        return close_graph(graph, model) if changed else unchanged(model)


Rewrite = Callable[[gs.Graph, gs.Node], bool]


def _become(graph: gs.Graph, node: gs.Node, op_type: str, inputs: list[gs.Tensor], **attributes: float) -> bool:
    node.op, node.attrs = op_type, dict(attributes)
    node.inputs = inputs
    return True


def _bound(graph: gs.Graph, node: gs.Node, role: str, value: float, like: gs.Tensor) -> gs.Tensor:
    if np.isinf(value):
        return gs.Variable.empty()
    return gs.Constant(free_name(graph, f"{node.name}_{role}"), np.asarray(value, like.dtype))


def _set_clip(graph: gs.Graph, node: gs.Node, source: gs.Tensor, low: float, high: float) -> bool:
    inputs = [source, _bound(graph, node, "min", low, source), _bound(graph, node, "max", high, source)]
    return _become(graph, node, "Clip", inputs if not np.isinf(high) else inputs[:2])


def _min_max(graph: gs.Graph, node: gs.Node) -> bool:
    """Min(x, c) or Max(x, c) of the same shape as x."""
    if node.op not in ("Min", "Max") or len(node.inputs) != 2:
        return False
    for source, bound in (node.inputs, node.inputs[::-1]):
        value = scalar(bound)
        if value is not None and list(source.shape) == list(node.outputs[0].shape) and not isinstance(source, gs.Constant):
            return _set_clip(graph, node, source, *((-np.inf, value) if node.op == "Min" else (value, np.inf)))
    return False


def clip_bounds(node: gs.Node | None) -> tuple[float, float] | None:
    """Constant bounds of a Clip or Relu, infinite where absent."""
    if node is None or node.op not in ("Clip", "Relu"):
        return None
    if node.op == "Relu":
        return 0.0, float("inf")
    low, high = input_at(node, 1), input_at(node, 2)
    bounds = (-np.inf if low is None else scalar(low), np.inf if high is None else scalar(high))
    return None if bounds[0] is None or bounds[1] is None else (float(bounds[0]), float(bounds[1]))


def _merge_clips(graph: gs.Graph, node: gs.Node) -> bool:
    outer = clip_bounds(node)
    inner_node = producer(node.inputs[0]) if node.inputs else None
    inner = clip_bounds(inner_node)
    if outer is None or inner is None or inner_node is None or not read_only_by(graph, node.inputs[0], node):
        return False
    low, high = max(inner[0], outer[0]), min(inner[1], outer[1])
    if low > high:
        return False  # a constant: ONNX Clip with min above max gives max, not worth a rule
    return _set_clip(graph, node, inner_node.inputs[0], low, high)


def _to_relu(graph: gs.Graph, node: gs.Node) -> bool:
    if node.op != "Clip" or clip_bounds(node) != (0.0, float("inf")) or np.dtype(node.inputs[0].dtype).kind != "f":
        return False
    return _become(graph, node, "Relu", [node.inputs[0]])


def _scaled_by(node: gs.Node) -> tuple[gs.Tensor, float] | None:
    """(x, factor) where the node is x * factor or x / (1 / factor)."""
    if node.op == "Div":
        value = scalar(node.inputs[1])
        return (node.inputs[0], 1.0 / value) if value else None
    if node.op == "Mul":
        for source, other in (node.inputs, node.inputs[::-1]):
            value = scalar(other)
            if value is not None:
                return source, value
    return None


def _shifted_clip(graph: gs.Graph, tensor: gs.Tensor, reader: gs.Node) -> gs.Tensor | None:
    """x where `tensor` is Clip(x + 3, 0, 6) read by `reader` alone."""
    clip = producer(tensor)
    if clip is None or clip_bounds(clip) != (0.0, 6.0) or not read_only_by(graph, tensor, reader):
        return None
    add = producer(clip.inputs[0])
    if add is None or add.op != "Add" or not read_only_by(graph, clip.inputs[0], clip):
        return None
    found = [source for source, other in (add.inputs, add.inputs[::-1]) if scalar(other) == 3.0]
    return found[0] if found and list(found[0].shape) == list(add.outputs[0].shape) else None


def _to_hard_sigmoid(graph: gs.Graph, node: gs.Node) -> bool:
    scaled = _scaled_by(node)
    if scaled is None or abs(scaled[1] - SIXTH) > CLOSE:
        return False
    source = _shifted_clip(graph, scaled[0], node)
    return source is not None and _become(graph, node, "HardSigmoid", [source], alpha=SIXTH, beta=0.5)


def _to_hard_swish(graph: gs.Graph, node: gs.Node) -> bool:
    """x * HardSigmoid(x), or (x * Clip(x + 3, 0, 6)) / 6."""
    if node.op == "Mul" and len(node.inputs) == 2:
        for source, gate in (node.inputs, node.inputs[::-1]):
            maker = producer(gate)
            if maker is not None and _is_gate(maker, source) and read_only_by(graph, gate, node):
                return _become(graph, node, "HardSwish", [source])
    scaled = _scaled_by(node)
    product = producer(scaled[0]) if scaled is not None else None
    if scaled is None or product is None or abs(scaled[1] - SIXTH) > CLOSE or product.op != "Mul" or not read_only_by(graph, scaled[0], node):
        return False
    for source, gate in (product.inputs, product.inputs[::-1]):
        if _shifted_clip(graph, gate, product) is source:
            return _become(graph, node, "HardSwish", [source])
    return False


def _is_gate(node: gs.Node, source: gs.Tensor) -> bool:
    if node.op != "HardSigmoid" or node.inputs[0] is not source:
        return False
    return abs(node.attrs.get("alpha", 0.2) - SIXTH) <= CLOSE and abs(node.attrs.get("beta", 0.5) - 0.5) <= CLOSE
