"""Recurrent layers, unrolled over time so that gradients pass through them. Source: ONNX LSTM-14, GRU-14.

Shapes: x [T, B, I]; per direction D: weights [D, gates * H, I], recurrent [D, gates * H, H], bias [D, 2 * gates * H];
states [D, B, H]; first output [T, D, B, H].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mpqc.frontend.registry import op

Step = Callable[[Tensor, tuple[Tensor, ...], int], tuple[Tensor, ...]]
"""(x of one time step, states of a direction, direction) -> new states; the first is the output"""
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}


def refuse_recurrent(attributes: Mapping[str, Any]) -> str:
    """What neither these functions nor the decomposition covers."""
    activations = [name.lower() for name in attributes.get("activations", [])]
    if activations and activations not in ([name.lower() for name in names] * times for names in DEFAULTS.values() for times in (1, 2)):
        return f"activations {', '.join(activations)} are not supported"
    for name in ("clip", "input_forget", "layout"):
        if attributes.get(name):
            return f"attribute {name} is not supported"
    return ""


def _unroll(x: Tensor, states: tuple[Tensor, ...], step: Step, direction: str) -> tuple[Tensor, ...]:
    """Every direction over time: outputs [T, D, B, H], then the final states [D, B, H]."""
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    outputs, finals = [], []
    for index, reverse in enumerate(backward):
        current = tuple(state[index] for state in states)
        made = []
        for time in reversed(range(x.shape[0])) if reverse else range(x.shape[0]):
            current = step(x[time], current, index)
            made.append(current[0])
        outputs.append(torch.stack(made[::-1] if reverse else made))
        finals.append(current)
    return torch.stack(outputs, 1), *(torch.stack(parts) for parts in zip(*finals, strict=True))


def _initial(x: Tensor, weight: Tensor, hidden: int, state: Tensor | None) -> Tensor:
    return x.new_zeros(weight.shape[0], x.shape[1], hidden) if state is None else state


def _bias(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Bias of the input part and of the recurrent part, [D, gates * H] each."""
    if bias is None:
        zeros = weight.new_zeros(weight.shape[:2])
        return zeros, zeros
    first, second = bias.chunk(2, dim=1)
    return first, second


@op(absent=(4, 7), outputs=3, refuse=refuse_recurrent, ignored=("activations", "clip", "input_forget", "layout"))
def lstm(
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    lengths: None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: None = None,
    *,
    hidden_size: int,
    direction: str = "forward",
) -> tuple[Tensor, ...]:
    """Long short-term memory; gates in the order input, output, forget, cell. Returns (Y, Y_h, Y_c)."""
    input_bias, state_bias = _bias(weight, bias)

    def step(now: Tensor, states: tuple[Tensor, ...], index: int) -> tuple[Tensor, ...]:
        hidden, cell = states
        gates = now @ weight[index].t() + input_bias[index] + hidden @ recurrent[index].t() + state_bias[index]
        i, o, f, c = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(c)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    states = (_initial(x, weight, hidden_size, initial_h), _initial(x, weight, hidden_size, initial_c))
    return _unroll(x, states, step, direction)


@op(absent=(4,), outputs=2, refuse=refuse_recurrent, ignored=("activations", "clip", "layout"))
def gru(
    x: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    lengths: None = None,
    initial_h: Tensor | None = None,
    *,
    hidden_size: int,
    direction: str = "forward",
    linear_before_reset: int = 0,
) -> tuple[Tensor, ...]:
    """Gated recurrent unit; gates in the order update, reset, hidden. Returns (Y, Y_h)."""
    input_bias, state_bias = _bias(weight, bias)

    def step(now: Tensor, states: tuple[Tensor, ...], index: int) -> tuple[Tensor, ...]:
        (hidden,) = states
        xz, xr, xh = (now @ weight[index].t() + input_bias[index]).chunk(3, dim=-1)
        rz, rr, rh = recurrent[index].chunk(3)
        bz, br, bh = state_bias[index].chunk(3)
        z, r = torch.sigmoid(xz + hidden @ rz.t() + bz), torch.sigmoid(xr + hidden @ rr.t() + br)
        candidate = r * (hidden @ rh.t() + bh) if linear_before_reset else (r * hidden) @ rh.t() + bh
        return ((1 - z) * torch.tanh(xh + candidate) + z * hidden,)

    return _unroll(x, (_initial(x, weight, hidden_size, initial_h),), step, direction)
