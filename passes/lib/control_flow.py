"""If, Loop and Scan written out while a graph is walked: the branch taken or both, the body once for each iteration.

Both branches of an If on data are computed, and Where chooses: nodes have no effects, so what is not chosen does no harm. A Loop whose condition
depends on data goes on to its bound, with Where keeping what it had when the condition became false. What a loop stacks has a size that is known
only where the number of iterations is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpqc.errors import ModelError
from mpqc.passes.lib.base import attribute
from mpqc.passes.lib.bodies import body_of, renamed

UNROLLED = 8192
"""Nodes that the loops of a model may become together"""


class Walk(Protocol):
    """What is known of the graph so far, and the way to go on with more nodes."""

    types: dict[str, onnx.TypeProto]
    constants: dict[str, TensorProto]
    nodes: list[onnx.NodeProto]
    unrolled: int
    """Nodes of loop bodies that were visited"""

    def walk(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Visit nodes as if the graph had them here."""

    def add_constant(self, name: str, tensor: TensorProto) -> None:
        """A constant under a new name."""

    def shape(self, name: str) -> list[int]:
        """The fixed shape of a tensor."""


def write_out_if(graph: Walk, node: onnx.NodeProto) -> str:
    """The branch that a known condition takes, else both and a choice; an empty text. Raises ModelError for branches of different shapes."""
    known = graph.constants.get(node.input[0])
    if known is not None:
        condition = numpy_helper.to_array(known)
        if condition.size != 1:
            raise ModelError("its condition is not one value", where=f"If {node.name!r}")
        _branch(graph, node, "then_branch" if condition.any() else "else_branch", node.name, list(node.output))
        return ""
    sides = []
    for name in ("then_branch", "else_branch"):
        prefix = f"{node.name}/{name}"
        sides.append([f"{prefix}/{output}" for output in node.output])
        _branch(graph, node, name, prefix, sides[-1])
    for taken, other, output in zip(*sides, node.output, strict=True):
        if output:
            _check_alike(graph, node, taken, other)
            graph.walk(_choice(graph, node.input[0], taken, other, output))
    return ""


def _branch(graph: Walk, node: onnx.NodeProto, name: str, prefix: str, outputs: list[str]) -> None:
    body = body_of(node, name)
    if len(body.output) != len(outputs):
        raise ModelError("its outputs do not fit", where=f"If {node.name!r}", why=f"{len(body.output)} outputs in {name}")
    _enter(graph, renamed(body, f"{prefix}/", {}, outputs))


def _enter(graph: Walk, body: onnx.GraphProto) -> None:
    for tensor in body.initializer:
        graph.add_constant(tensor.name, tensor)
    graph.walk(body.node)


def _check_alike(graph: Walk, node: onnx.NodeProto, taken: str, other: str) -> None:
    if _same_type(graph, taken, other):
        return
    why = f"shapes {graph.shape(taken)} and {graph.shape(other)}"
    hint = "fix the input that decides (--value NAME=VALUE), or cut the model before this node"
    raise ModelError("its branches give different tensors, and data decides", where=f"If {node.name!r}", why=why, hint=hint)


def _same_type(graph: Walk, one: str, other: str) -> bool:
    first, second = (graph.types[name].tensor_type for name in (one, other))
    return bool(first.elem_type == second.elem_type) and graph.shape(one) == graph.shape(other)


def _choice(graph: Walk, condition: str, taken: str, other: str, output: str) -> list[onnx.NodeProto]:
    """output = taken where the one value of `condition` holds. A condition of more axes than the tensor would add axes to it."""
    nodes = []
    if len(graph.shape(condition)) > len(graph.shape(taken)):
        axes, flat = f"{output}/axes", f"{output}/condition"
        nodes.append(helper.make_node("Constant", [], [axes], axes, value=numpy_helper.from_array(np.ones(len(graph.shape(taken)), np.int64), axes)))
        nodes.append(helper.make_node("Reshape", [condition, axes], [flat], flat))
        condition = flat
    return [*nodes, helper.make_node("Where", [condition, taken, other], [output], f"{output}/choice")]


@dataclass
class _Turns:
    """A loop on its way: the state before the next iteration, what was stacked, and the condition to go on ("": always)."""

    graph: Walk
    node: onnx.NodeProto
    body: onnx.GraphProto
    states: list[str]
    condition: str
    stacked: list[list[str]] = field(default_factory=list)

    def turn(self, index: int, inputs: Mapping[str, str], first: int) -> None:
        """Writes the body once; `first`: its output that is the first state."""
        self.graph.unrolled += max(len(self.body.node), 1)
        if self.graph.unrolled > UNROLLED:
            raise _StaysWholeError(f"with {index + 1} iterations or more the loops are over {UNROLLED} nodes")
        prefix = f"{self.node.name}/{index}/"
        outputs = [f"{self.node.name}/{index}.{place}" for place in range(len(self.body.output))]
        _enter(self.graph, renamed(self.body, prefix, inputs, outputs))
        states, rest = outputs[first : first + len(self.states)], outputs[first + len(self.states) :]
        going = outputs[0] if first else ""
        if self.is_known(self.condition):
            self.states, self.condition = states, going
        else:
            self.keep(index, states, going)
        self.stacked.append(rest)

    def is_known(self, condition: str) -> bool:
        """Whether the number of iterations so far does not depend on data."""
        return not condition or condition in self.graph.constants

    def holds(self) -> bool:
        """Whether another iteration may run."""
        known = self.graph.constants.get(self.condition)
        return known is None or bool(numpy_helper.to_array(known).any())

    def keep(self, index: int, states: list[str], going: str) -> None:
        """The states after an iteration that ran only where the condition held."""
        kept = [f"{self.node.name}/{index}/state{place}" for place in range(len(states))]
        for new, old, name in zip(states, self.states, kept, strict=True):
            if not _same_type(self.graph, new, old):
                raise _StaysWholeError("its state changes shape, and data decides when it ends")
            self.graph.walk(_choice(self.graph, self.condition, new, old, name))
        both = f"{self.node.name}/{index}/going"
        self.graph.walk([helper.make_node("And", [self.condition, going], [both], both)])
        self.states, self.condition = kept, both

    def finish(self, axes: list[int], backward: list[bool]) -> None:
        """Binds the node's outputs."""
        names = list(self.node.output)
        count = len(self.states)
        for state, name in zip(self.states, names, strict=False):
            if name:
                self.graph.walk([helper.make_node("Identity", [state], [name], f"{name}/state")])
        for place, name in enumerate(names[count:]):
            if name:
                parts = [row[place] for row in self.stacked]
                self.graph.walk(_stack(name, parts[::-1] if backward[place] else parts, axes[place]))


class _StaysWholeError(Exception):
    """Why a loop cannot be written out."""


def write_out_loop(graph: Walk, node: onnx.NodeProto) -> str:
    """Replaces a Loop by its iterations; an empty text, or why it stays."""
    body, states = body_of(node, "body"), list(node.input[2:])
    bound = _bound(graph, node)
    turns = _Turns(graph, node, body, states, node.input[1] if len(node.input) > 1 else "")
    stacks = any(node.output[len(states) :])

    def run() -> None:
        count = 0
        while (bound is None or count < bound) and turns.holds():
            if not turns.is_known(turns.condition) and (stacks or bound is None):
                raise _StaysWholeError("how often it runs depends on data")
            inputs = dict(zip((value.name for value in body.input), _turn_inputs(graph, node, count, turns), strict=True))
            turns.turn(count, inputs, 1)
            count += 1
        if stacks and not count:
            raise _StaysWholeError("it stacks the results of no iteration")
        turns.finish([0] * len(body.output), [False] * len(body.output))

    return _attempt(graph, run)


def _turn_inputs(graph: Walk, node: onnx.NodeProto, count: int, turns: _Turns) -> list[str]:
    """Names for the body's inputs: the iteration's number, a condition that holds, the states."""
    number, going = f"{node.name}/{count}/number", f"{node.name}/going"
    graph.add_constant(number, numpy_helper.from_array(np.array(count, np.int64), number))
    graph.add_constant(going, numpy_helper.from_array(np.array(True), going))
    return [number, going, *turns.states]


def _bound(graph: Walk, node: onnx.NodeProto) -> int | None:
    """The largest number of iterations; None where it is not known."""
    known = graph.constants.get(node.input[0]) if node.input[0] else None
    return None if known is None else int(numpy_helper.to_array(known).reshape(()))


def write_out_scan(graph: Walk, node: onnx.NodeProto) -> str:
    """Replaces a Scan (opset 9 and newer) by its iterations; an empty text, or why it stays."""
    body, scanned = body_of(node, "body"), int(attribute(node, "num_scan_inputs", 0))
    split = len(node.input) - scanned
    states, sources = list(node.input[:split]), list(node.input[split:])
    stacks = len(body.output) - split
    axes = _listed(node, "scan_input_axes", scanned)
    backward = [bool(flag) for flag in _listed(node, "scan_input_directions", scanned)]
    turns = _Turns(graph, node, body, states, "")

    def run() -> None:
        if not sources:
            raise _StaysWholeError("it scans nothing")
        count = graph.shape(sources[0])[axes[0]]
        if not count:
            raise _StaysWholeError("it scans an empty tensor")
        for index in range(count):
            places = [count - 1 - index if flag else index for flag in backward]
            slices = [_slice(graph, node, index, *each) for each in zip(sources, axes, places, strict=True)]
            turns.turn(index, dict(zip((value.name for value in body.input), [*turns.states, *slices], strict=True)), 0)
        output_axes = _listed(node, "scan_output_axes", stacks)
        turns.finish(output_axes, [bool(flag) for flag in _listed(node, "scan_output_directions", stacks)])

    return _attempt(graph, run)


def _listed(node: onnx.NodeProto, name: str, count: int) -> list[int]:
    return list(attribute(node, name, [])) or [0] * count


def _slice(graph: Walk, node: onnx.NodeProto, index: int, source: str, axis: int, place: int) -> str:
    name = f"{node.name}/{index}/{source}"
    graph.add_constant(f"{name}/place", numpy_helper.from_array(np.array(place, np.int64), f"{name}/place"))
    graph.walk([helper.make_node("Gather", [source, f"{name}/place"], [name], name, axis=axis)])
    return name


def _stack(name: str, parts: list[str], axis: int) -> list[onnx.NodeProto]:
    axes = f"{name}/axis"
    nodes = [helper.make_node("Constant", [], [axes], axes, value=numpy_helper.from_array(np.array([axis], np.int64), axes))]
    raised = [f"{part}/raised" for part in parts]
    nodes += [helper.make_node("Unsqueeze", [part, axes], [up], up) for part, up in zip(parts, raised, strict=True)]
    return [*nodes, helper.make_node("Concat", raised, [name], f"{name}/stack", axis=axis)]


def _attempt(graph: Walk, run: Any) -> str:
    """Runs `run`; where that ends with a reason to stay, the nodes written so far go again."""
    before = len(graph.nodes)
    try:
        run()
    except _StaysWholeError as reason:
        del graph.nodes[before:]
        return str(reason)
    return ""
