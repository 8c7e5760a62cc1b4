"""Fused passes give what the separate ops give on float32 copies, but for roundings to bfloat16, whatever the number of threads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpqc.training.quantizers import native
from mpqc.training.quantizers.base import TrainedState
from mpqc.training.quantizers.dq import DqUniformState
from mpqc.training.quantizers.fractional import FractionalActivation
from mpqc.training.quantizers.lsq import LsqState
from mpqc.training.quantizers.one_pass import Running, normalised, rounded
from mpqc.values.qtype import QParams, QType

MAKE: dict[str, Callable[[], TrainedState]] = {
    "lsq": lambda: LsqState(per_sample=True),
    "dq": lambda: DqUniformState(weight=False),
    "fracbits": FractionalActivation,
}
KINDS = [None, "lsq", "dq", "fracbits"]
ZERO_POINTS = [-8, 0, -3]
SHAPES = [(8, 16, 24, 24), (3, 12, 31, 31), (2, 320, 9, 9)]


@pytest.fixture(autouse=True)
def compiled() -> None:
    if native.library() is None:
        pytest.skip("nothing compiles fused.c here")


def state_of(kind: str | None, zero: int) -> TrainedState | None:
    if kind is None:
        return None
    state = MAKE[kind]()
    state.set(QParams(QType(4), np.array(0.17, np.float32), np.array(zero, np.int32)))
    if isinstance(state, FractionalActivation):
        state.start_width(3.4)
    return state


def values(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(shape[1], generator=generator) + 0.2
    made = torch.randn(shape, generator=generator) * spread.reshape(1, -1, 1, 1) + 3 * torch.randn(shape[1], generator=generator).reshape(1, -1, 1, 1)
    return made.bfloat16().to(memory_format=torch.channels_last)


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return float((a.float() - b.float()).norm()) <= tolerance * float(b.float().norm()) + 1e-6


def in_one_pass(z: Tensor, gamma: Tensor, beta: Tensor, running: Running, state: TrainedState | None, *, relu: bool) -> Tensor:
    return normalised(z, gamma, beta, running, None if state is None else state.one_pass(z), relu=relu)


def apart(z: Tensor, gamma: Tensor, beta: Tensor, running: Running, state: TrainedState | None, *, relu: bool) -> Tensor:
    made = F.batch_norm(z.float(), running.mean, running.variance, gamma, beta, True, running.momentum, running.epsilon)
    made = F.relu(made) if relu else made
    return made if state is None else state(made)  # type: ignore[no-any-return]


def results(function: Callable[..., Tensor], shape: tuple[int, ...], kind: str | None, zero: int, relu: bool) -> list[Tensor]:
    """y, running statistics, gradients to z, gamma, beta and the state's parameters."""
    z, gradient, state = values(shape).requires_grad_(), values(shape, 1), state_of(kind, zero)
    gamma, beta = (torch.linspace(0.5, 1.5, shape[1]).requires_grad_(), torch.linspace(-1, 1, shape[1]).requires_grad_())
    running = Running(torch.zeros(shape[1]), torch.ones(shape[1]), 0.1, 1e-5)
    y = function(z, gamma, beta, running, state, relu=relu)
    y.backward(gradient.to(y.dtype))
    learned = [] if state is None else [item.grad for item in state.parameters() if item.grad is not None]
    return [y.detach(), running.mean, running.variance, z.grad, gamma.grad, beta.grad, *learned]  # type: ignore[list-item]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("kind", "zero"), [(None, 0), *((kind, zero) for kind in MAKE for zero in ZERO_POINTS)])
def test_batch_norm_relu_and_rounding(shape: tuple[int, ...], relu: bool, kind: str | None, zero: int) -> None:
    found, expected = (results(function, shape, kind, zero, relu) for function in (in_one_pass, apart))
    assert len(found) == len(expected) > (6 if kind else 5)
    assert float((found[0].float() - expected[0].bfloat16().float()).abs().gt(0.02).float().mean()) < 1e-4
    for index, (one, other) in enumerate(zip(found[1:], expected[1:], strict=True), 1):
        assert close(one, other, 1e-5 if index < 3 else 1e-2), index


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("kind", MAKE)
def test_addition_relu_and_rounding(kind: str, relu: bool, adds: bool) -> None:
    def run(wide: bool) -> list[Tensor]:
        state = state_of(kind, -8 if relu else 0)
        assert state is not None
        z, skip = (values((4, 16, 24, 24), seed).requires_grad_() for seed in (0, 1))
        if wide:
            made = z.float() + skip.float() if adds else z.float()
            y = state(F.relu(made) if relu else made)
        else:
            y = rounded(z, skip if adds else None, state.one_pass(z), relu=relu)
        y.backward(values((4, 16, 24, 24), 2).to(y.dtype))
        learned = [item.grad for item in state.parameters() if item.grad is not None]
        return [y.detach(), z.grad, *([skip.grad] if adds else []), *learned]  # type: ignore[list-item]

    found, expected = run(False), run(True)
    assert len(found) == len(expected)
    assert all(close(one, other, 1e-2) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(kind: str | None) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(results(in_one_pass, (16, 20, 48, 48), kind, -8, True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for other_run in found[1:] for one, other in zip(found[0], other_run, strict=True))


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    z = (values((8, 16, 24, 24)).float() * 0.25 + 64).bfloat16().to(memory_format=torch.channels_last)
    running = Running(torch.zeros(16), torch.ones(16), 1.0, 1e-5)
    normalised(z, torch.ones(16), torch.zeros(16), running, None, relu=False)
    variance, mean = torch.var_mean(z.double(), (0, 2, 3))
    assert torch.allclose(running.mean.double(), mean, rtol=1e-6)
    assert torch.allclose(running.variance.double(), variance, rtol=1e-4)
