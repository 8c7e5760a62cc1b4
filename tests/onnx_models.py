"""Small ONNX models for tests, and the comparison of an imported network with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import helper, numpy_helper
from torch import fx

from mpqc.frontend import load_network
from mpqc.values.network import Network

Arrays = Mapping[str, np.ndarray]


def noise(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Uniform float32 numbers."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def value_info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    """A graph input like `array`."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def graph_model(
    nodes: Sequence[onnx.NodeProto], inputs: Arrays, constants: Arrays, outputs: Sequence[str], *, opset: int = 21, ir_version: int = 8
) -> onnx.ModelProto:
    """A model whose outputs are untyped (inference finds the types)."""
    graph = helper.make_graph(
        nodes,
        "test",
        [value_info(name, array) for name, array in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def one_op(
    op_type: str,
    inputs: Sequence[np.ndarray],
    constants: Mapping[int, Any] | None = None,
    *,
    opset: int = 21,
    outputs: int = 1,
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node and its feeds. `constants` are initializers by input position; `inputs` fill the other positions; None is absent."""
    fixed = dict(constants or {})
    names, feeds, stored, rest = [], {}, {}, list(inputs)
    for position in range(len(fixed) + len(rest)):
        if position in fixed and fixed[position] is None:
            names.append("")
        elif position in fixed:
            names.append(f"c{position}")
            stored[names[-1]] = np.asarray(fixed[position])
        else:
            names.append(f"x{position}")
            feeds[names[-1]] = rest.pop(0)
    made = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(op_type, names, made, name="node", **attributes)
    return graph_model([node], feeds, stored, made, opset=opset), feeds


def run_ort(model: onnx.ModelProto, feeds: Arrays) -> list[np.ndarray]:
    """Outputs of ONNX Runtime without graph optimizations, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact sums on x86 without VNNI too
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))


class CheckedInterpreter(fx.Interpreter):
    """Runs a network and asserts that every value has the shape and type recorded in meta."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            assert tuple(value.shape) == n.meta["shape"], (n.meta["origin"], tuple(value.shape), n.meta["shape"])
            assert str(value.dtype).removeprefix("torch.") == n.meta["dtype"], n.meta["origin"]
        return value


def run_network(network: Network, feeds: Arrays) -> list[np.ndarray]:
    """Outputs of the FX graph."""
    with torch.no_grad():
        values = CheckedInterpreter(network.module).run(*(torch.from_numpy(np.array(feeds[spec.name])) for spec in network.inputs))
    return [value.detach().numpy() for value in values]


def assert_close(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray], tolerance: float = 1e-5) -> None:
    """Same types and shapes, and values within `tolerance` of the expected range."""
    assert len(actual) == len(expected)
    for got, want in zip(actual, expected, strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        if want.dtype.kind != "f":
            np.testing.assert_array_equal(got, want)
        elif want.size:
            span = max(float(np.max(np.abs(want))), 1e-3)
            np.testing.assert_allclose(got / span, want / span, rtol=0, atol=tolerance)


def check(model: onnx.ModelProto, feeds: Arrays, *, tolerance: float = 1e-5, floats: Sequence[str] = (), **options: Any) -> Network:
    """Import `model`; its canonical ONNX and its FX graph must give what ONNX Runtime gives for the original."""
    expected = run_ort(model, feeds)
    network = load_network(model, **options)
    assert [node.op_type for node in network.floats] == list(floats), [node.reason for node in network.floats]
    kept = {name: array for name, array in feeds.items() if name in {spec.name for spec in network.inputs}}
    assert_close(run_ort(network.model, kept), expected, tolerance)
    assert_close(run_network(network, kept), expected, tolerance)
    return network
