"""What tests of ONNX-level passes share: writing models node by node, and the promises that every pass keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx_models import assert_close, graph_model, noise, run_ort

from mpqc.passes.fold_constants import FoldConstants
from mpqc.passes.lib.base import OnnxPass, PassResult, verify
from mpqc.passes.lib.text import render


def make(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node written as `make("Add", "a b", "c")`, named after its output; "-" is an absent input."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op_type, names, outputs.split(), name=f"n_{outputs.split()[0]}", **attributes)


def typed(nodes: Sequence[onnx.NodeProto], x: np.ndarray, constants: dict[str, Any], outputs: str = "y") -> onnx.ModelProto:
    """A model with value_info, as passes get it."""
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    return FoldConstants().run(graph_model(nodes, {"x": x}, arrays, outputs.split(), ir_version=10)).model


def run(step: OnnxPass, model: onnx.ModelProto, x: np.ndarray, *, changed: bool = True) -> PassResult:
    """Run the pass; it must say the truth about `changed`, leave its argument alone and keep the function."""
    before = model.SerializeToString()
    result = step.run(model)
    assert model.SerializeToString() == before
    assert result.changed == changed == (result.model.SerializeToString(deterministic=True) != model.SerializeToString(deterministic=True))
    verify(result.model, after=step.name)
    assert_close(run_ort(result.model, {"x": x}), run_ort(model, {"x": x}))
    assert not step.run(result.model).changed, "a second run finds nothing"
    return result


def text(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """What golden files hold."""
    return f"before\n{render(before)}\nafter\n{render(after)}"


def ops(model: onnx.ModelProto) -> list[str]:
    """Op types in order."""
    return [node.op_type for node in model.graph.node]


def bn(channels: int) -> dict[str, np.ndarray]:
    """Parameters of a BatchNormalization."""
    return {name: noise(channels, seed=index, low=0.2) for index, name in enumerate(("scale", "shift", "mean", "variance"))}


BN = "scale shift mean variance"
