"""FracBits quantizers: interpolation, gradients, widths by layer and by channel, pruned channels, and what export writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpqc.numerics.integer import dequantize, quantize
from mpqc.training.quantizers import FractionalActivation, FractionalWeight
from mpqc.training.quantizers.dorefa import dorefa, fractional_dorefa, magnitude
from mpqc.training.quantizers.pact import FractionalPact, clipped
from mpqc.values.qtype import QParams, QType


def qparams(bits: int, scale: object, zero: int = 0, axis: int | None = None) -> QParams:
    scale = np.asarray(scale, np.float32)
    return QParams(QType(bits, axis), scale, np.full(scale.shape, zero, np.int32))


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pact(x: torch.Tensor, alpha: torch.Tensor, width: torch.Tensor, *, unsigned: bool = True, calibrated: bool = False) -> torch.Tensor:
    return FractionalPact.apply(x, alpha, width, unsigned, calibrated)


@pytest.mark.parametrize("unsigned", [True, False])
def test_activations_interpolate_between_widths(unsigned: bool) -> None:
    x, alpha, width = values(64) * 2, torch.tensor(1.5), torch.tensor(3.25)
    low, high = clipped(x, 1.5, 3, unsigned=unsigned), clipped(x, 1.5, 4, unsigned=unsigned)
    torch.testing.assert_close(pact(x, alpha, width, unsigned=unsigned), 0.25 * high + 0.75 * low)
    assert float(high.max()) == pytest.approx(1.5)


@pytest.mark.parametrize("calibrated", [True, False])
def test_activation_gradients(calibrated: bool) -> None:
    x = (values(300) * 2).requires_grad_()
    alpha, width = torch.tensor(1.5, requires_grad=True), torch.tensor(2.6, requires_grad=True)
    upstream = values(300, seed=1)
    y = pact(x, alpha, width, calibrated=calibrated)
    y.backward(upstream)
    raw = x.detach()
    inside, above = (raw > 0) & (raw < 1.5), raw >= 1.5
    torch.testing.assert_close(x.grad, upstream * inside)
    difference = clipped(raw, 1.5, 3, unsigned=True) - clipped(raw, 1.5, 2, unsigned=True)
    torch.testing.assert_close(width.grad, (upstream * difference).sum(), rtol=1e-4, atol=1e-4)
    slope = above.float() + (torch.where(inside, (y.detach() - raw) / 1.5, 0.0) if calibrated else 0.0)
    torch.testing.assert_close(alpha.grad, (upstream * slope).sum(), rtol=1e-4, atol=1e-4)


def test_lambda_is_differentiable_between_whole_numbers() -> None:
    x, alpha = values(50).double(), torch.tensor(1.2, dtype=torch.float64)
    width = torch.tensor(3.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda lam: pact(x, alpha, lam), width)
    weight, widths = values(3, 20).double(), torch.tensor([2.3, 0.5, 5.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda lam: fractional_dorefa(weight, lam), widths)


def test_a_whole_lambda_has_no_gradient_from_the_task() -> None:
    width = torch.tensor(3.0, requires_grad=True)
    pact(values(50), torch.tensor(1.2), width).sum().backward()
    assert float(width.grad) == 0.0


def test_weights_have_dorefas_steps_and_gradient() -> None:
    weight = torch.cat([values(4, 30), torch.full((4, 1), -4.0)], 1).requires_grad_()
    made = dorefa(weight, torch.tensor(3.0))
    step = float(magnitude(weight)) * 2 / 7
    np.testing.assert_allclose(np.round(made.detach().numpy() / step), made.detach().numpy() / step, atol=1e-5)
    assert made.detach().div(step).round().unique().tolist() == list(range(-4, 4))
    made.sum().backward()
    torch.testing.assert_close(weight.grad, 1 - torch.tanh(weight.detach()) ** 2)


def test_channels_of_zero_bits_are_pruned() -> None:
    state = FractionalWeight((3, 10), 0, per_channel=True, bounds=(0, 8))
    state.set(qparams(4, [1.0, 1.0, 1.0], axis=0))
    state.harden(torch.tensor([0.0, 2.0, 5.0]))
    weight = values(3, 10)
    used, found = state.grid(weight).numpy(), state.qparams()
    assert state.pruned.tolist() == [True, False, False]
    assert not used[0].any()
    assert [len(np.unique(row)) <= levels for row, levels in zip(used, (1, 4, 32), strict=True)] == [True] * 3
    assert found.qtype == QType(5, 0)
    np.testing.assert_array_equal(dequantize(quantize(used, found), found), used)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_export_writes_what_training_saw(bits: int) -> None:
    weight_state, state = FractionalWeight((6, 20), 0), FractionalActivation()
    weight_state.set(qparams(8, np.ones(6), axis=0))
    state.set(qparams(8, 0.02, -128))
    for item in (weight_state, state):
        item.set_bits(bits)
    weight, x = values(6, 20), values(200) * 4
    used = weight_state.grid(weight).numpy()
    np.testing.assert_array_equal(dequantize(quantize(used, weight_state.qparams()), weight_state.qparams()), used)
    found = state.qparams()
    np.testing.assert_array_equal(dequantize(quantize(x.numpy(), found), found), state.grid(x).numpy())
    assert found.qtype.bits == weight_state.qparams().qtype.bits == bits


def test_signed_activations_keep_a_code_for_zero() -> None:
    state = FractionalActivation()
    state.set(qparams(8, 0.02, 3))
    state.set_bits(4)
    x, found = values(200) * 4, state.qparams()
    np.testing.assert_array_equal(dequantize(quantize(x.numpy(), found), found), state.grid(x).numpy())
    assert (int(found.zero_point), float(state.grid(torch.zeros(1)))) == (0, 0.0)


def test_lambda_starts_half_a_bit_up_and_keeps_off_whole_numbers() -> None:
    state = FractionalWeight((4, 4), 0, bounds=(2, 8))
    state.set(qparams(3, np.ones(4), axis=0))
    assert state.learned_bits() == pytest.approx(3.5)
    with torch.no_grad():
        state.width.fill_(1.0)
    state.constrain()
    assert state.learned_bits() == pytest.approx(2.001)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_at_few_bits_levels_are_those_of_dorefa(bits: int) -> None:
    """2 Q_k(u) - 1 with Q_k(u) = rne((2^k - 1) u) / (2^k - 1), times max|tanh(w)|; what is written lies on the half-integer grid, bit for bit."""
    weight = values(6, 5, 3, 3)
    state = FractionalWeight((6, 5, 3, 3), 0, bounds=(1, 8), half=(1, 2, 3))
    state.set(qparams(bits, np.ones(6), axis=0))
    state.harden(float(bits))
    made, q = state.grid(weight), None
    t, steps = torch.tanh(weight), 2**bits - 1
    size = t.abs().max()
    published = size * (2 * torch.round(steps * (t / size + 1) / 2) / steps - 1)
    assert float((made - published).abs().max()) < 1e-6
    q = state.qparams()
    assert q is not None
    assert q.qtype == QType(bits, 0, half=True)
    assert np.array_equal(dequantize(quantize(made.numpy(), q), q), made.numpy())


def test_where_the_grid_cannot_be_stored_levels_keep_their_zero() -> None:
    state = FractionalWeight((6, 5, 3, 3), 0, half=(3,))
    state.set(qparams(2, np.ones(6), axis=0))
    state.harden(2.0)
    assert 0.0 in state.grid(values(6, 5, 3, 3))
