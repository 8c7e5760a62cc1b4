"""Run single ONNX nodes in ONNX Runtime: constants while folding, and trial runs for shapes that inference cannot tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from mpqc.errors import ModelError
from mpqc.passes.lib.base import first_line, node_reads, subgraphs

MAX_ELEMENTS = 1 << 28
"""Largest tensor that is accepted: 1 GiB of float32."""
ENDLESS = frozenset({"Loop", "Scan"})


def fits(name: str, shape: Sequence[int]) -> None:
    """Raises ModelError where a shape has a negative dimension or more elements than a tensor may have."""
    if any(size < 0 for size in shape):
        raise ModelError("negative dimension", where=f"tensor {name!r}", why=str(list(shape)))
    if prod(shape) > MAX_ELEMENTS:
        raise ModelError(f"{prod(shape)} elements are more than {MAX_ELEMENTS}", where=f"tensor {name!r}", why=f"shape {list(shape)}")


def type_of(tensor: onnx.TensorProto) -> onnx.TypeProto:
    """The type of a tensor that is at hand."""
    return helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def single_node_model(
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    constants: Mapping[str, onnx.TensorProto],
    opsets: Iterable[onnx.OperatorSetIdProto],
) -> onnx.ModelProto:
    """A model of one node: what it reads of `constants` as initializers, the rest as inputs typed by `types`; outputs untyped."""
    reads = node_reads(node)
    inputs = [onnx.ValueInfoProto(name=name, type=types[name]) for name in reads if name not in constants]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "node", inputs, outputs, [constants[name] for name in reads if name in constants])
    return helper.make_model(graph, opset_imports=list(opsets), ir_version=10)


def open_session(model: onnx.ModelProto, where: str) -> ort.InferenceSession:
    """A single-threaded session without graph optimizations. Raises ModelError where ONNX Runtime refuses the model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class below Exception
        raise ModelError("ONNX Runtime cannot run the node", where=where, why=first_line(error)) from error


def run_session(session: ort.InferenceSession, feeds: Mapping[str, np.ndarray], where: str) -> list[np.ndarray]:
    """Outputs of one run. Raises ModelError where ONNX Runtime fails."""
    try:
        return session.run(None, dict(feeds))
    except Exception as error:  # as above
        raise ModelError("ONNX Runtime failed", where=where, why=first_line(error)) from error


def run_node(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], opsets: Iterable[onnx.OperatorSetIdProto]
) -> dict[str, onnx.TensorProto]:
    """The outputs of a node whose inputs are all constants."""
    where = f"{node.op_type} {node.name!r}"
    session = open_session(single_node_model(node, {}, constants, opsets), where)
    values = run_session(session, {}, where)
    made = dict(zip([name for name in node.output if name], values, strict=True))
    for name, value in made.items():
        _check_tensor(value, name, where)
    return {name: numpy_helper.from_array(np.asarray(value), name) for name, value in made.items()}


def _check_tensor(value: object, name: str, where: str) -> None:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise ModelError("not a tensor", where=f"output {name!r} of {where}", why="sequences, maps and optionals are not supported")


def probe_types(
    node: onnx.NodeProto,
    types: Mapping[str, onnx.TypeProto],
    constants: Mapping[str, onnx.TensorProto],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> dict[str, onnx.TypeProto]:
    """Output types seen in two trial runs, on zeros and on noise. Raises ModelError where they differ: the shape depends on data."""
    where = f"{node.op_type} {node.name!r}"
    if has_loop(node):
        raise ModelError("shapes inside a loop cannot be told before running it", where=where, hint="unroll the loop or cut the model before it")
    session = open_session(single_node_model(node, types, constants, opsets), where)
    names = [name for name in node.output if name]
    try:
        first, second = (_trial(session, seed, where) for seed in (None, 0))
    except ModelError as error:
        hint = "fix the inputs that decide it (values= of load_network), or cut the model before this node"
        raise ModelError("its shapes cannot be told before running it", where=where, why=error.why, hint=hint) from error
    for name, one, two in zip(names, first, second, strict=True):
        _check_tensor(one, name, where)
        if one.shape != two.shape:
            raise ModelError("its shape depends on the data", where=f"tensor {name!r} of {where}", hint="cut the model before this node")
    return {name: type_of(numpy_helper.from_array(value)) for name, value in zip(names, first, strict=True)}


def has_loop(node: onnx.NodeProto) -> bool:
    """Whether the node is, or holds, a loop."""
    return node.op_type in ENDLESS or any(has_loop(inner) for graph in subgraphs(node) for inner in graph.node)


def _trial(session: ort.InferenceSession, seed: int | None, where: str) -> list[np.ndarray]:
    rng = np.random.default_rng(seed or 0)
    feeds: dict[str, np.ndarray] = {}
    for value in session.get_inputs():
        noise = rng.standard_normal(value.shape) if seed is not None else np.zeros(value.shape)
        feeds[value.name] = np.asarray(noise, ORT_TYPES.get(value.type, np.float32))
    return run_session(session, feeds, where)


ORT_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64,
    "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
