"""LSTM and GRU against ONNX Runtime, unrolled in torch and decomposed in ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx_models import check, noise, one_op, run_ort

from mpqc.frontend import load_network

GATES = {"LSTM": 4, "GRU": 3}


def layer(op_type: str, steps: int, *, direction: str = "forward", bias: bool = True, states: bool = True, **attributes: Any) -> Any:
    """A recurrent layer of 5 inputs and 3 hidden units on a batch of 2."""
    count, gates = (2 if direction == "bidirectional" else 1), GATES[op_type] * 3
    constants: dict[int, Any] = {1: noise(count, gates, 5, seed=1), 2: noise(count, gates, 3, seed=2), 3: None, 4: None}
    inputs = [noise(steps, 2, 5)]
    if bias:
        constants[3] = noise(count, 2 * gates, seed=3)
    if states:
        inputs += [noise(count, 2, 3, seed=4 + index) for index in range(2 if op_type == "LSTM" else 1)]
    outputs = 3 if op_type == "LSTM" else 2
    return one_op(op_type, inputs, constants, outputs=outputs, hidden_size=3, direction=direction, **attributes)


@pytest.mark.parametrize("op_type", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("full", [True, False])
def test_directions(op_type: str, direction: str, steps: int, full: bool) -> None:
    check(*layer(op_type, steps, direction=direction, bias=full, states=full))


@pytest.mark.parametrize("steps", [2, 20])
def test_gru_reset_after(steps: int) -> None:
    check(*layer("GRU", steps, linear_before_reset=1))


def test_default_activations_written_out() -> None:
    check(*layer("LSTM", 20, activations=["Sigmoid", "Tanh", "Tanh"]))


@pytest.mark.parametrize("attributes", [{"activations": ["Tanh", "Tanh", "Tanh"]}, {"clip": 0.5}, {"input_forget": 1}])
@pytest.mark.parametrize("steps", [2, 20])
def test_variants_that_stay_float(attributes: dict[str, Any], steps: int) -> None:
    network = check(*layer("LSTM", steps, **attributes), floats=["LSTM"])
    assert next(iter(attributes)) in network.floats[0].reason


def test_lengths_stay_float() -> None:
    constants = {1: noise(1, 9, 5, seed=1), 2: noise(1, 9, 3, seed=2), 3: None, 4: np.array([3, 1], np.int32)}
    check(*one_op("GRU", [noise(3, 2, 5)], constants, outputs=2, hidden_size=3), floats=["GRU"])


def test_only_the_last_state_is_read() -> None:
    model, feeds = layer("LSTM", 20)
    model.graph.node[0].output[0] = ""
    model.graph.node[0].output[2] = ""
    del model.graph.output[2], model.graph.output[0]
    network = check(model, feeds)
    assert [spec.name for spec in network.outputs] == ["y1"]


@pytest.mark.parametrize("op_type", ["LSTM", "GRU"])
def test_gradients_through_time(op_type: str) -> None:
    """The derivative of the last state by the first input, against central differences in ONNX Runtime."""
    model, feeds = layer(op_type, 20, states=False)
    network = load_network(model)
    x = torch.from_numpy(feeds["x0"]).requires_grad_()
    network.module(x)[1].sum().backward()
    assert x.grad is not None
    shift = np.zeros_like(feeds["x0"])
    shift[18, 1, 2] = 1e-2
    above, below = (run_ort(model, {"x0": feeds["x0"] + sign * shift})[1].sum() for sign in (1, -1))
    assert float(x.grad[18, 1, 2]) == pytest.approx((above - below) / 2e-2, rel=2e-2)
