"""LSQ against equation 3 of its paper, the integer definition, and what export writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpqc.numerics.fake_quant import fake_quantize
from mpqc.numerics.integer import dequantize, quantize
from mpqc.training.quantizers import LsqState, at_bits, lsq
from mpqc.training.quantizers.base import product_sum
from mpqc.values.qtype import QParams, QType


def qparams(bits: int, scale: object, zero: object = 0, axis: int | None = None) -> QParams:
    scale = np.asarray(scale, np.float32)
    return QParams(QType(bits, axis), scale, np.broadcast_to(np.asarray(zero, np.int32), scale.shape).copy())


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def closed_form(x: torch.Tensor, s: torch.Tensor, low: int, high: int, margin: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """dy/dx and dy/ds of each value by equations 1 and 3; with a margin the inside is wider than the codes."""
    steps = x.double() / s.double()
    inside = (steps > low - margin) & (steps < high + margin)
    slope = torch.where(inside, torch.round(steps).clamp(low, high) - steps, torch.where(steps <= low, float(low), float(high)).double())
    return inside.double(), slope


@pytest.mark.parametrize(("bits", "zero"), [(2, 0), (4, 0), (8, 0), (4, -8), (3, -1), (1, 0)])
def test_tensor_gradients_are_equation_3(bits: int, zero: int) -> None:
    x = values(4, 3, 5, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    scale = torch.tensor(0.31, requires_grad=True)
    qtype = QType(bits)
    upstream = values(4, 3, 5, 6, seed=1)
    y = lsq(x, scale, zero, qtype, 0.125)
    y.backward(upstream)
    for_x, for_scale = closed_form(x.detach(), scale.detach(), qtype.qmin - zero, qtype.qmax - zero, margin=bits == 1)
    torch.testing.assert_close(x.grad, (upstream * for_x).float(), rtol=0, atol=0)
    torch.testing.assert_close(scale.grad.double(), 0.125 * (upstream * for_scale).sum(), rtol=1e-4, atol=1e-4)
    assert torch.equal(y, fake_quantize(x.detach(), scale.detach(), torch.tensor(zero, dtype=torch.int32), qtype))


def test_channel_gradients_are_equation_3() -> None:
    weight = values(5, 4, 3, 3).requires_grad_()
    scale = (0.1 + 0.2 * torch.arange(5)).requires_grad_()
    upstream = values(5, 4, 3, 3, seed=1)
    lsq(weight, scale, 0, QType(3, 0), 0.5).backward(upstream)
    for_weight, for_scale = closed_form(weight.detach(), scale.detach().reshape(-1, 1, 1, 1), -4, 3)
    torch.testing.assert_close(weight.grad, (upstream * for_weight).float(), rtol=0, atol=0)
    torch.testing.assert_close(scale.grad.double(), 0.5 * (upstream * for_scale).sum((1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_step_gradient_where_values_are_clipped_is_exact() -> None:
    x = torch.tensor([9.0, -9.0, 20.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: lsq(x, s, 0, QType(3)), torch.tensor(0.5, dtype=torch.float64, requires_grad=True))


def test_bfloat16_stays_on_the_grid_and_its_step_gradient_is_close() -> None:
    x = torch.relu(values(8, 4, 8, 8))
    scale = torch.tensor(0.125, requires_grad=True)
    half, whole = x.bfloat16().requires_grad_(), x.bfloat16().float().requires_grad_()
    made = lsq(half, scale, -8, QType(4), 1.0)
    upstream = values(8, 4, 8, 8, seed=2).bfloat16()
    made.backward(upstream)
    found, scale.grad = scale.grad.clone(), None
    exact = lsq(whole, scale, -8, QType(4), 1.0)
    exact.backward(upstream.float())
    assert made.dtype is torch.bfloat16
    assert torch.equal(made.float(), exact)
    torch.testing.assert_close(found, scale.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8])
def test_export_writes_what_training_saw(bits: int) -> None:
    state = LsqState()
    state.set(qparams(bits, np.linspace(0.02, 0.3, 6), axis=0))
    weight = values(6, 5, 3, 3)
    used, found = state.grid(weight).numpy(), state.qparams()
    np.testing.assert_array_equal(dequantize(quantize(used, found), found), used)
    np.testing.assert_array_equal(dequantize(quantize(weight.numpy(), found), found), used)


def test_gradient_scale_counts_features_or_weights() -> None:
    weight, activation = LsqState(), LsqState(per_sample=True)
    weight.set(qparams(4, [0.1, 0.1], axis=0))
    activation.set(qparams(4, 0.1, -8))
    assert weight._slope(values(2, 8)) == pytest.approx(1 / (8 * 7) ** 0.5)
    assert activation._slope(values(16, 2, 8)) == pytest.approx(1 / (16 * 15) ** 0.5)


def moved_range(bits: int) -> float:
    """The range of a state after steps that clipped values ask for, relative to its first one."""
    state = LsqState()
    state.set(qparams(bits, np.full(4, 1.0 / QType(bits).qmax), axis=0))
    optimizer, x = torch.optim.SGD(state.parameters(), lr=1e-3, momentum=0.9), values(4, 200)
    for _ in range(20):
        optimizer.zero_grad()
        (state(x) - x).square().mean().backward()
        optimizer.step()
        state.constrain()
    return float(state.scale.detach().mean()) * QType(bits).qmax


def test_ranges_of_sixteen_bits_move_as_those_of_eight() -> None:
    eight, sixteen = moved_range(8), moved_range(16)
    assert eight > 1.1
    assert 0.5 < (sixteen - 1) / (eight - 1) < 2


def test_a_new_width_keeps_the_range_and_the_parameter() -> None:
    state = LsqState()
    state.set(qparams(8, [0.01, 0.02], axis=0))
    parameter = state.scale
    state.set_bits(4)
    assert state.scale is parameter
    torch.testing.assert_close(state.scale.detach(), torch.tensor([0.01, 0.02]) * 127 / 7)
    state.set_bits(8)
    torch.testing.assert_close(state.scale.detach(), torch.tensor([0.01, 0.02]))


def test_a_new_width_keeps_ranges_with_a_zero_point() -> None:
    relu, signed = at_bits(qparams(8, 0.1, -128), 4), at_bits(qparams(8, 0.1, -28), 4)
    assert (int(relu.zero_point), float(relu.scale)) == (-8, pytest.approx(25.5 / 15))
    assert (int(signed.zero_point), float(signed.scale)) == (-8 + round(100 / 255 * 15), pytest.approx(1.7))


def test_steps_stay_positive() -> None:
    state = LsqState()
    state.set(qparams(4, [0.1, 0.2], axis=0))
    with torch.no_grad():
        state.scale.copy_(torch.tensor([-1.0, 0.5]))
    state.constrain()
    torch.testing.assert_close(state.scale.detach(), torch.tensor([0.001, 0.5]))


def test_half_width_sums_are_exact_to_single_precision() -> None:
    for shape in ((40, 8, 32, 32), (3, 5, 7)):
        one, other = values(*shape).bfloat16(), values(*shape, seed=1).bfloat16()
        exact = (one.double() * other.double()).sum()
        size = (one.double() * other.double()).square().sum().sqrt()
        assert abs(float(product_sum(one, other)) - float(exact)) < 1e-5 * float(size)
