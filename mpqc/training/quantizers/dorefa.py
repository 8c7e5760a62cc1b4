"""DoReFa weights at whole or fractional widths, for the tensor or for each output channel (Zhou et al. 2016; FracBits).

DoReFa's levels are 2 Q_k(u) - 1 with u = (tanh(w) / max|tanh(w)| + 1) / 2: steps of 2 / (2^k - 1), none of them 0. mpqc's weights have a code for 0,
so the same steps are shifted by half of one; and they are multiplied by max|tanh(w)|, so that layers without BatchNorm keep their size.
"""

from __future__ import annotations

import torch
from torch import Tensor


class _Round(torch.autograd.Function):
    """clamp(rne(t / step), low, high) step, straight through for t."""

    @staticmethod
    def forward(ctx: object, t: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.clamp(torch.round(t / step), low, high) * step

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None, None, None


def magnitude(weight: Tensor) -> Tensor:
    """max|tanh(w)|, without gradient."""
    return torch.tanh(weight.detach()).abs().max().clamp(min=1e-12)


def steps(size: Tensor, bits: Tensor) -> Tensor:
    """The step at each of `bits` (whole numbers; 1 where they are 0) for weights of magnitude `size`."""
    return torch.where(bits > 1, size * 2 / (torch.exp2(bits.clamp(min=1)) - 1), size)


def dorefa(weight: Tensor, bits: Tensor, *, axis: int = 0) -> Tensor:
    """`weight` at `bits` ([] or one an index of `axis`); 0 at 0 bits. Gradients: 1 - tanh(w)^2, none to `bits`."""
    width = along(bits.detach().to(weight.dtype), axis, weight.ndim)
    half = torch.exp2((width - 1).clamp(min=0))
    made = _Round.apply(torch.tanh(weight), steps(magnitude(weight), width), -half, half - 1)  # type: ignore[no-untyped-call]
    return torch.where(width > 0, made, torch.zeros_like(made))  # type: ignore[no-any-return]


def fractional_dorefa(weight: Tensor, width: Tensor, *, axis: int = 0) -> Tensor:
    """(lambda - floor) Q_ceil + (1 + floor - lambda) Q_floor for lambda = `width` ([] or one an index of `axis`).

    The gradient to lambda is Q_ceil - Q_floor, to w the straight-through one of both terms.
    """
    below = torch.floor(width.detach())
    above = torch.ceil(width.detach())
    fraction = along(width - below, axis, weight.ndim)
    lower = dorefa(weight, below, axis=axis)
    if bool((above == below).all()):
        return lower
    return fraction * dorefa(weight, above, axis=axis) + (1 - fraction) * lower


def along(values: Tensor, axis: int, rank: int) -> Tensor:
    """`values` [] or [n] shaped to broadcast along `axis`."""
    if values.ndim == 0:
        return values
    shape = [1] * rank
    shape[axis] = values.numel()
    return values.reshape(shape)
