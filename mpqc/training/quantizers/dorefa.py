"""DoReFa weights at whole or fractional widths, for the tensor or for each output channel (Zhou et al. 2016; FracBits).

DoReFa's levels are 2 Q_k(u) - 1 with u = (tanh(w) / max|tanh(w)| + 1) / 2: steps of 2 / (2^k - 1), none of them 0. At the widths in `half` these are
the levels, on the half-integer grid; at others weights have a code for 0, so the same steps are shifted by half of one. All are multiplied by
max|tanh(w)|, so that layers without BatchNorm keep their size.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Widths = Collection[int]


class _Levels(torch.autograd.Function):
    """(1 - fraction) Q_below(t) + fraction Q_above(t), straight through for t; rows of 0 bits give 0 and take no gradient."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, fraction: Tensor, below: _Grid, above: _Grid) -> Tensor:
        lower, upper = below.rounded(t), above.rounded(t)
        ctx.save_for_backward(upper - lower)
        ctx.through = (1 - fraction) * below.some + fraction * above.some
        ctx.fraction = fraction
        return fraction * upper + (1 - fraction) * lower

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (difference,) = ctx.saved_tensors
        return gradients[0] * ctx.through, (gradients[0] * difference).sum_to_size(ctx.fraction.shape), None, None


class _Round(torch.autograd.Function):
    """Q(t), straight through for t."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, grid: _Grid) -> Tensor:
        ctx.some = grid.some
        return grid.rounded(t)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0] * ctx.some, None


@dataclass(frozen=True, eq=False)
class _Grid:
    """The levels of whole widths, shaped to broadcast with the weight."""

    step: Tensor
    low: Tensor
    high: Tensor
    some: Tensor
    """1 where there are bits, else 0"""
    offset: float = 0.0
    """Of the levels from whole steps: a half on the half-integer grid"""

    @classmethod
    def of(cls, size: Tensor, bits: Tensor, half: Widths = ()) -> _Grid:
        """Of `bits`, for weights of magnitude `size`."""
        if on_half(bits, half):
            codes, one = torch.exp2(bits - 1), torch.ones_like(bits)
            return cls(half_steps(size, bits), -codes, codes - 1, one, 0.5)
        codes = torch.exp2((bits - 1).clamp(min=0))
        some = (bits > 0).to(bits.dtype)
        return cls(steps(size, bits), -codes * some, (codes - 1) * some, some)

    def rounded(self, t: Tensor) -> Tensor:
        """(clamp(rne(t / step - offset), low, high) + offset) step."""
        return torch.round(t / self.step - self.offset).clamp_(self.low, self.high).add_(self.offset).mul_(self.step)


def magnitude(weight: Tensor) -> Tensor:
    """max|tanh(w)|, without gradient."""
    return _largest(torch.tanh(weight))


def steps(size: Tensor, bits: Tensor) -> Tensor:
    """The step at each of `bits` (whole numbers; 1 where they are 0) for weights of magnitude `size`."""
    return torch.where(bits > 1, size * 2 / (torch.exp2(bits.clamp(min=1)) - 1), size)


def half_steps(size: Tensor, bits: Tensor) -> Tensor:
    """The step between levels of the half-integer grid: the largest level is the magnitude `size`."""
    return size * 2 / (torch.exp2(bits) - 1)


def on_half(bits: Tensor, half: Widths) -> bool:
    """Whether one width serves the tensor and is one of `half`."""
    return bits.numel() == 1 and int(bits) in half


def dorefa(weight: Tensor, bits: Tensor, *, axis: int = 0, half: Widths = ()) -> Tensor:
    """`weight` at `bits` ([] or one an index of `axis`); 0 at 0 bits. Gradients: 1 - tanh(w)^2, none to `bits`.

    half: widths on the half-integer grid.
    """
    t = torch.tanh(weight)
    grid = _Grid.of(_largest(t), along(bits.detach().to(weight.dtype), axis, weight.ndim), half)
    return _Round.apply(t, grid)  # type: ignore[no-untyped-call,no-any-return]


def fractional_dorefa(weight: Tensor, width: Tensor, *, axis: int = 0, half: Widths = ()) -> Tensor:
    """(lambda - floor) Q_ceil + (1 + floor - lambda) Q_floor for lambda = `width` ([] or one an index of `axis`).

    The gradient to lambda is Q_ceil - Q_floor, to w the straight-through one of both terms.
    """
    below = torch.floor(width.detach())
    above = torch.ceil(width.detach())
    if bool((above == below).all()):
        return dorefa(weight, below, axis=axis, half=half)
    t = torch.tanh(weight)
    size, rank = _largest(t), weight.ndim
    grids = (_Grid.of(size, along(bits.to(weight.dtype), axis, rank), half) for bits in (below, above))
    return _Levels.apply(t, along(width - below, axis, rank), *grids)  # type: ignore[no-untyped-call,no-any-return]


def _largest(t: Tensor) -> Tensor:
    return t.detach().abs().max().clamp(min=1e-12)


def along(values: Tensor, axis: int, rank: int) -> Tensor:
    """`values` [] or [n] shaped to broadcast along `axis`."""
    if values.ndim == 0:
        return values
    shape = [1] * rank
    shape[axis] = values.numel()
    return values.reshape(shape)
