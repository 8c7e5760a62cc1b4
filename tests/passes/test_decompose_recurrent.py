"""Decomposed LSTM and GRU: the text, the same function, and the layers that stay whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import assert_close, noise, one_op, run_ort

from mpqc.errors import ModelError
from mpqc.passes.decompose_recurrent import DecomposeRecurrent
from mpqc.passes.fold_constants import FoldConstants
from mpqc.passes.lib.base import PassResult, verify
from mpqc.passes.lib.text import render

GATES = {"LSTM": 4, "GRU": 3}


def layer(op_type: str, steps: int, *, states: bool = True, **attributes: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """5 inputs, 3 hidden units, batch 2."""
    count, gates = (2 if attributes.get("direction") == "bidirectional" else 1), GATES[op_type] * 3
    constants: dict[int, Any] = {1: noise(count, gates, 5, seed=1), 2: noise(count, gates, 3, seed=2), 3: noise(count, 2 * gates, seed=3), 4: None}
    number = 2 if op_type == "LSTM" else 1
    inputs = [noise(steps, 2, 5), *(noise(count, 2, 3, seed=4 + index) for index in range(number if states else 0))]
    model, feeds = one_op(op_type, inputs, constants, outputs=number + 1, hidden_size=3, **attributes)
    return FoldConstants().run(model).model, feeds


def run(step: DecomposeRecurrent, model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> PassResult:
    before = model.SerializeToString()
    result = step.run(model)
    assert model.SerializeToString() == before
    verify(result.model, after=step.name)
    assert_close(run_ort(result.model, feeds), run_ort(model, feeds))
    return result


@pytest.mark.parametrize(("op_type", "attributes"), [("LSTM", {}), ("GRU", {"linear_before_reset": 1}), ("GRU", {"direction": "reverse"})])
def test_golden(golden: Callable[[str, str], None], op_type: str, attributes: dict[str, Any]) -> None:
    model, feeds = layer(op_type, 2, **attributes)
    result = run(DecomposeRecurrent(), model, feeds)
    name = "_".join([op_type.lower(), *map(str, attributes)])
    golden(f"passes/decompose_recurrent_{name}.txt", f"before\n{render(model)}\nafter\n{render(result.model)}")
    assert result.changed
    assert not {"LSTM", "GRU"} & {node.op_type for node in result.model.graph.node}
    assert not DecomposeRecurrent().run(result.model).changed


@pytest.mark.parametrize("op_type", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("states", [True, False])
def test_same_function(op_type: str, direction: str, states: bool) -> None:
    run(DecomposeRecurrent(), *layer(op_type, 4, direction=direction, states=states))


def test_limit_counts_both_directions() -> None:
    model, feeds = layer("LSTM", 4, direction="bidirectional")
    assert run(DecomposeRecurrent(max_steps=8), model, feeds).changed
    result = run(DecomposeRecurrent(max_steps=7), model, feeds)
    assert not result.changed
    assert "8 steps are more than 7" in result.notes[0]


@pytest.mark.parametrize("attributes", [{"activations": ["Relu", "Tanh", "Tanh"]}, {"clip": 1.0}, {"input_forget": 1}])
def test_variants_stay_whole(attributes: dict[str, Any]) -> None:
    model, feeds = layer("LSTM", 2, **attributes)
    result = run(DecomposeRecurrent(), model, feeds)
    assert not result.changed
    assert "stays whole" in result.notes[0]


@pytest.mark.parametrize(
    ("position", "value", "role"),
    [(1, np.float32(0.3), "weights"), (1, noise(1, 9), "weights"), (2, noise(1, 9, 4), "recurrent weights"), (3, noise(9), "bias")],
)
def test_weights_of_another_shape_are_refused_by_name(position: int, value: np.ndarray, role: str) -> None:
    constants: dict[int, Any] = {1: noise(1, 9, 5), 2: noise(1, 9, 3), 3: noise(1, 18)} | {position: value}
    model, _ = one_op("GRU", [noise(2, 2, 5)], constants, outputs=2, hidden_size=3)
    with pytest.raises(ModelError, match=f"its {role} have shape"):
        DecomposeRecurrent().run(FoldConstants().run(model).model)
