"""What ONNX-level passes share: the result type, the verifier run between passes, and the runner.

A pass is a frozen dataclass with a kebab-case `name` and `run(model) -> PassResult`. Contract: a valid model in, a valid model
out with the same inputs and outputs (names, types, order) computing the same function; the argument is never changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import onnx
from onnx import TensorProto, helper, shape_inference

from mpqc.errors import ModelError

CODE_RANGES: Mapping[int, tuple[int, int]] = {
    TensorProto.INT16: (-(2**15), 2**15 - 1),
    TensorProto.UINT16: (0, 2**16 - 1),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT2: (-2, 1),
    TensorProto.UINT2: (0, 3),
}
"""Element type of a quantized tensor -> its smallest and largest code"""


@dataclass(frozen=True, eq=False)
class PassResult:
    """The model after a pass, whether it differs, and what the report should say."""

    model: onnx.ModelProto
    changed: bool
    notes: tuple[str, ...] = ()


class OnnxPass(Protocol):
    """A pass on the canonical ONNX model."""

    @property
    def name(self) -> str:
        """Kebab-case, as files and reports write it."""

    def run(self, model: onnx.ModelProto) -> PassResult:
        """A new model, or the same object where nothing changed."""


def run_passes(model: onnx.ModelProto, passes: Iterable[OnnxPass]) -> PassResult:
    """Each pass in order, verified after every change.

    Raises ModelError where the model was invalid before, BrokenGraphError naming the pass that broke it.
    """
    changed, notes = False, list[str]()
    for step in passes:
        result = step.run(model)
        if result.changed:
            _check(result.model, model, step.name)
        model, changed = result.model, changed or result.changed
        notes += result.notes
    return PassResult(model, changed, tuple(dict.fromkeys(notes)))


class BrokenGraphError(RuntimeError):
    """A pass made an invalid graph of a valid one: a fault of mpqc's own, which the command line reports as such."""


def _check(model: onnx.ModelProto, before: onnx.ModelProto, name: str) -> None:
    try:
        verify(model, after=name)
    except ModelError as error:
        verify(before, after="the model as it was given")
        raise BrokenGraphError(f"pass {name} broke the graph: {error.why or error.what}") from error


def verify(model: onnx.ModelProto, *, after: str) -> None:
    """Check the invariants of canonical models: ONNX's own checker, types that agree, unique node names.

    Raises ModelError naming `after` (the pass or step that ran last).
    """
    try:
        onnx.checker.check_model(model)
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise ModelError("invalid ONNX model", where=after, why=first_line(error)) from error
    _verify_names(model, after)


def _verify_names(model: onnx.ModelProto, after: str) -> None:
    counts = Counter(node.name for node in model.graph.node)
    repeated = [name for name, count in counts.items() if count > 1 or not name]
    if repeated:
        raise ModelError(f"node name {repeated[0]!r} is empty or used twice", where=after)


def first_line(error: BaseException) -> str:
    """The first line of an exception's text that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes (If, Loop, Scan), not nested ones."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def captured(graph: onnx.GraphProto) -> list[str]:
    """Names that a subgraph reads from the graphs around it, in order of first use."""
    known = {value.name for value in graph.input} | {value.name for value in graph.initializer}
    found: dict[str, None] = {}
    for node in graph.node:
        found.update((name, None) for name in node_reads(node) if name not in known)
        known.update(node.output)
    found.update((value.name, None) for value in graph.output if value.name not in known)
    return list(found)


def node_reads(node: onnx.NodeProto) -> list[str]:
    """Every tensor that a node reads: its inputs, then what its subgraphs capture; each once, empty names left out."""
    reads = dict.fromkeys(name for name in node.input if name)
    for graph in subgraphs(node):
        reads.update(dict.fromkeys(captured(graph)))
    return list(reads)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The attribute's value, strings decoded, or `default` where the node has none."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default
