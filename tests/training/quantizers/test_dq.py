"""DQ's two parametrizations against the gradients of its section 2, its bit counts, and what export writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpqc.errors import UsageError
from mpqc.numerics.integer import dequantize, quantize
from mpqc.training.quantizers import DqPowerOfTwoState, DqUniformState
from mpqc.training.quantizers.dq import DqPowerOfTwo, DqUniform
from mpqc.values.qtype import QParams, QType


def qparams(bits: int, scale: float, zero: int = 0) -> QParams:
    return QParams(QType(bits), np.asarray(scale, np.float32), np.asarray(zero, np.int32))


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("unsigned", [False, True])
def test_uniform_gradients_are_u3(unsigned: bool) -> None:
    x = values(200).requires_grad_()
    d, top = torch.tensor(0.25, requires_grad=True), torch.tensor(1.25, requires_grad=True)
    upstream = values(200, seed=1)
    y = DqUniform.apply(x, d, top, unsigned)
    y.backward(upstream)
    raw = x.detach()
    inside = (raw <= 1.25) & (raw >= (0 if unsigned else -1.25))
    expected = torch.where(inside, torch.round(raw / 0.25) * 0.25, torch.where(raw > 0, 1.25, 0.0 if unsigned else -1.25))
    torch.testing.assert_close(y.detach(), expected)
    torch.testing.assert_close(x.grad, upstream * inside)
    torch.testing.assert_close(d.grad, (upstream * torch.where(inside, (expected - raw) / 0.25, 0.0)).sum(), rtol=1e-4, atol=1e-4)
    sign = torch.where(raw > 0, 1.0, 0.0 if unsigned else -1.0)
    torch.testing.assert_close(top.grad, (upstream * torch.where(inside, 0.0, sign)).sum(), rtol=1e-4, atol=1e-4)


def test_the_end_of_the_range_is_inside() -> None:
    x = torch.tensor([1.25, -1.25, 1.2501], requires_grad=True)
    DqUniform.apply(x, torch.tensor(0.25), torch.tensor(1.25), False).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 0.0]


def test_uniform_gradient_of_qmax_is_exact_beyond_it() -> None:
    x, d = torch.tensor([3.0, -4.0, 5.0], dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64)
    top = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: DqUniform.apply(x, d, q, False), top)


def test_power_of_two_gradients() -> None:
    x = values(300).requires_grad_()
    low, top = torch.tensor(0.125, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    upstream = values(300, seed=1)
    y = DqPowerOfTwo.apply(x, low, top, False)
    y.backward(upstream)
    raw, size, sign = x.detach(), x.detach().abs(), torch.sign(x.detach())
    level = torch.exp2(torch.floor(0.5 + torch.log2(size)))
    below, beyond = size <= 0.125, size > 1.0
    torch.testing.assert_close(y.detach(), sign * torch.where(below, 0.125, torch.where(beyond, 1.0, level.clamp(0.125, 1.0))))
    inside = ~below & ~beyond
    torch.testing.assert_close(x.grad, torch.where(inside, upstream * level.clamp(0.125, 1.0) / size, 0.0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(low.grad, (upstream * sign * below).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(top.grad, (upstream * sign * beyond).sum(), rtol=1e-4, atol=1e-4)
    assert raw.shape == y.shape


def test_activations_have_a_code_for_zero() -> None:
    y = DqPowerOfTwo.apply(torch.tensor([0.08, 0.1, -0.05, 2.0]), torch.tensor(0.125), torch.tensor(1.0), True)
    torch.testing.assert_close(y, torch.tensor([0.0, 0.125, 0.0, 1.0]))


@pytest.mark.parametrize(("top", "bits"), [(0.5, 2), (1.5, 3), (3.4, 4), (3.6, 4), (4.0, 5), (63.5, 8), (120.0, 9)])
def test_bits_are_counted_from_the_snapped_range(top: float, bits: int) -> None:
    state = DqUniformState(weight=True)
    state.set(qparams(4, 0.5))
    with torch.no_grad():
        state.largest.fill_(top)
    assert state.bits == bits
    assert state.qparams().qtype.bits == bits


def test_unsigned_types_drop_the_sign_bit() -> None:
    state = DqUniformState(weight=False)
    state.set(qparams(4, 0.25, -8))
    assert (state.bits, float(state.learned_bits())) == (4, pytest.approx(4.0))
    assert int(state.qparams().zero_point) == -8


def test_constraints_of_the_authors_code() -> None:
    state = DqUniformState(weight=True)
    state.set(qparams(4, 0.25))
    state.smallest.grad, state.largest.grad = torch.tensor(9.0), torch.tensor(-9.0)
    state.clip_gradients()
    assert (float(state.smallest.grad), float(state.largest.grad)) == (0.25, -0.25)
    with torch.no_grad():
        state.smallest.fill_(3.0)
        state.largest.fill_(500.0)
    state.constrain()
    assert (state.smallest.item(), state.largest.item()) == (1.0, 127.0)
    with torch.no_grad():
        state.largest.fill_(0.5)
    state.constrain()
    assert state.smallest.item() < state.largest.item()


@pytest.mark.parametrize("frozen", [False, True])
def test_export_writes_what_uniform_training_saw(frozen: bool) -> None:
    state = DqUniformState(weight=True)
    state.set(qparams(3, 0.3))
    if frozen:
        state.freeze(4)
    weight = values(400)
    used, found = state.grid(weight).numpy(), state.qparams()
    assert found.qtype.bits == (4 if frozen else 3)
    np.testing.assert_array_equal(dequantize(quantize(used, found), found), used)


@pytest.mark.parametrize("bits", [2, 3])
def test_freezing_at_the_learned_width_leaves_weights_in_range_as_they_are(bits: int) -> None:
    state = DqUniformState(weight=True)
    state.set(qparams(bits, 0.3))
    with torch.no_grad():
        state.smallest.mul_(1.2)
    weight = values(400)
    used = state.grid(weight)
    assert used.abs().max() == pytest.approx(state.range)
    within = weight.clamp(-state.range, state.range)
    state.freeze(bits)
    torch.testing.assert_close(state.grid(within), used, rtol=0, atol=0)
    assert float(state.grid(weight).min()) < -state.range  # the code that the learned range does not have


def test_a_frozen_grid_does_not_learn_and_a_thawed_one_does() -> None:
    state = DqUniformState(weight=True)
    state.set(qparams(3, 0.3))
    for learns, change in ((False, lambda: state.freeze(4)), (True, state.thaw)):
        change()
        weight = values(50).requires_grad_(True)
        state(weight).sum().backward()
        assert weight.grad is not None
        assert (state.smallest.grad is not None) == learns
    assert state.bits == 4


def test_export_writes_what_power_of_two_training_saw() -> None:
    state = DqPowerOfTwoState(weight=True)
    state.set(qparams(4, 0.3))
    used, found = state.grid(values(400)).numpy(), state.qparams()
    np.testing.assert_array_equal(dequantize(quantize(used, found), found), used)
    assert len(np.unique(np.abs(used))) <= 8
    with pytest.raises(UsageError):
        state.set(qparams(6, 0.3))


def test_real_bits_have_the_gradient_of_their_formula() -> None:
    state = DqUniformState(weight=True, rounded=False)
    state.set(qparams(4, 0.1))
    state.real_bits().backward()
    d, top = 0.1, 0.7
    assert float(state.largest.grad) == pytest.approx(1 / ((top + d) * np.log(2)), rel=1e-4)
    assert float(state.smallest.grad) == pytest.approx(-top / (d * (top + d) * np.log(2)), rel=1e-4)
