"""PACT: activations clipped at a learned alpha, at a whole or fractional width (Choi et al. 2018; FracBits: Yang and Jin, AAAI 2021).

Q_k has the steps of mpqc's unsigned types: alpha / (2^k - 1) from 0, zero point at the smallest code. Signed activations, which FracBits clips
at both sides of 0, keep a code for 0: steps of alpha / (2^(k-1) - 1) over the two's complement range.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mpqc.training.quantizers.base import inside_gradient, like, product_sum, rounded_steps


class FractionalPact(torch.autograd.Function):
    """y = (lambda - floor) Q_ceil(x) + (1 + floor - lambda) Q_floor(x), where Q_k clips at alpha; Q_0 is 0 everywhere.

    Gradients: dy/dx = 1 inside the clip, 0 outside; dy/dlambda = Q_ceil(x) - Q_floor(x), so 0 at whole widths; dy/dalpha = sign(x) outside and
    inside 0 (PACT, equation 3) or, `calibrated`, (y - x) / alpha (Jin et al. 2020, "Towards Efficient Training for Neural Network Quantization").
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, width: Tensor, unsigned: bool, calibrated: bool) -> Tensor:
        value, clip = float(width), float(alpha)
        below = math.floor(value)
        y = clipped(x, clip, below, unsigned=unsigned)
        difference = torch.zeros(0)
        if value != below:
            difference = clipped(x, clip, below + 1, unsigned=unsigned).sub_(y)
            y = y.add_(difference, alpha=value - below)
        ctx.save_for_backward(x, y, difference, alpha, width)
        ctx.low, ctx.high, ctx.calibrated = (0.0 if unsigned else -clip), clip, calibrated
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, difference, alpha, width = ctx.saved_tensors
        gradient = like(gradients[0], x)
        for_x = inside_gradient(gradient, x, ctx.low, ctx.high)
        within = for_x if ctx.calibrated else None
        for_alpha = _alpha_gradient(gradient, for_x, x, y, within) / ctx.high
        for_width = product_sum(gradient, like(difference, x)) if difference.numel() else torch.zeros(())
        shaped = [value.reshape(to.shape).to(to.dtype) for value, to in ((for_alpha, alpha), (for_width, width))]
        return for_x, shaped[0], shaped[1], None, None


def _alpha_gradient(gradient: Tensor, for_x: Tensor, x: Tensor, y: Tensor, within: Tensor | None) -> Tensor:
    """alpha dy/dalpha . gradient: y outside, and y - x inside where calibrated."""
    if within is not None:
        return product_sum(gradient, y) - product_sum(within, x)
    return product_sum(gradient, y) - product_sum(for_x, y)


def clipped(x: Tensor, alpha: float, bits: int, *, unsigned: bool) -> Tensor:
    """Q_bits(x): a new tensor; zeros at 0 bits."""
    if bits == 0:
        return torch.zeros_like(x)
    low, high = levels(bits, unsigned=unsigned)
    return rounded_steps(x, torch.tensor(step(alpha, bits, unsigned=unsigned)), low, high)


def levels(bits: int, *, unsigned: bool) -> tuple[int, int]:
    """The lowest and the highest multiple of the step in Q_bits, for bits >= 1."""
    if unsigned:
        return 0, (1 << bits) - 1
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def step(alpha: float, bits: int, *, unsigned: bool) -> float:
    """The step of Q_bits, as a float32 number."""
    levels = (1 << bits) - 1 if unsigned else max((1 << (bits - 1)) - 1, 1)
    return float(torch.tensor(alpha, dtype=torch.float32) / levels)
