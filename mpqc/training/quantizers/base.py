"""What trained quantizers share: the state behind a sharing group's quantizers, with parameters that an optimizer steps.

A `TrainedState` takes the place of the `QuantizerState` of FakeQuantize. Whatever its parametrization, `qparams()` and `grid()` give what
export writes: codes of numerics.quantize(grid(w), qparams()) dequantize to exactly the values that the forward pass used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mpqc.numerics.fake_quant import QuantizerState, quantizers
from mpqc.training.quantizers.steps import OnePass
from mpqc.values.qtype import MOST_HALF_BITS, QParams, QType

PIECE = 1 << 17
"""Values widened at once by `product_sum`"""

MOST_CODES, SIGNED_CODES = 255, 127
"""Largest codes of 8 bits, unsigned and signed: LSQ's rule for gradients is applied up to the first"""


class TrainedState(QuantizerState):
    """A state with trained parameters. `set` starts it from calibrated qparams; widths change by `set_bits`, which keeps the range."""

    def set_bits(self, bits: int) -> None:
        """Change the width and keep the range: s_new = s_old (2^(b_old-1) - 1) / (2^(b_new-1) - 1) for symmetric types, and the same for
        the 2^b - 1 steps of a type with a zero point. Does nothing at the present width or without a qtype."""
        qparams = self.qparams()
        if qparams is not None and qparams.qtype.bits != bits:
            self.set(at_bits(qparams, bits))

    def constrain(self) -> None:
        """Bring parameters back to where they mean something: to be called after each optimizer step."""

    def learned_bits(self) -> float | None:
        """The width that training asks for, where it is learned by gradient; None where bits are given from outside."""
        return None

    def one_pass(self, x: Tensor) -> OnePass | None:
        """What `forward` is about to do to `x`, its side effects done, where fused passes can do it; None otherwise, without side effects."""
        return None

    def grid(self, x: Tensor) -> Tensor:
        """The values of `x` that the quantized network uses, without gradients, in float32: exactly on the grid of `qparams()`."""
        with torch.no_grad():
            return self(x.float())  # type: ignore[no-any-return]


def at_bits(qparams: QParams, bits: int) -> QParams:
    """`qparams` at another width over the same range of real values, and on the same grid where it has that width."""
    old, new = qparams.qtype, QType(bits, qparams.qtype.axis, qparams.qtype.half and bits <= MOST_HALF_BITS)
    if not qparams.zero_point.any():
        scale = qparams.scale * (max(old.qmax, 1) / max(new.qmax, 1))
        return QParams(new, scale.astype(qparams.scale.dtype), qparams.zero_point)
    scale = (qparams.scale * ((old.qmax - old.qmin) / (new.qmax - new.qmin))).astype(qparams.scale.dtype)
    share = (qparams.zero_point - old.qmin) / (old.qmax - old.qmin)
    zero = (new.qmin + (share * (new.qmax - new.qmin)).round()).astype(qparams.zero_point.dtype)
    return QParams(new, scale, zero)


def replace_states(module: nn.Module, made: dict[str, TrainedState]) -> None:
    """Give the quantizers of each site in `made` the state there. Sites of a sharing group must be given one object."""
    for site, quantizer in quantizers(module).items():
        if site in made:
            quantizer.state = made[site]


def trained_states(module: nn.Module) -> dict[str, TrainedState]:
    """Site -> its trained state (the same object for the sites of a sharing group)."""
    return {site: item.state for site, item in quantizers(module).items() if isinstance(item.state, TrainedState)}


def is_unsigned(qparams: QParams) -> bool:
    """Whether no real value below 0 has a code: the zero point is the smallest code."""
    return bool((qparams.zero_point == qparams.qtype.qmin).all())


def flat(value: Tensor) -> Tensor:
    """All values in one row, without a copy where memory is dense (also channels last)."""
    if value.ndim == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last):
        return value.permute(0, 2, 3, 1).reshape(-1)
    return value.reshape(-1)


def like(value: Tensor, other: Tensor) -> Tensor:
    """`value` with the memory layout of `other`."""
    if other.ndim == 4 and not other.is_contiguous() and other.is_contiguous(memory_format=torch.channels_last):
        return value.contiguous(memory_format=torch.channels_last)
    return value.contiguous()


def product_sum(a: Tensor, b: Tensor) -> Tensor:
    """Sum of a * b over everything, accumulated in float32 at least. Half-width values are widened a piece at a time, inside the cache."""
    wide = torch.promote_types(a.dtype, torch.float32)
    left, right = flat(a), flat(b)
    if a.dtype == b.dtype == wide:
        return torch.dot(left, right)
    pieces = zip(left.split(PIECE), right.split(PIECE), strict=True)
    return torch.stack([torch.dot(one.to(wide), other.to(wide)) for one, other in pieces]).sum()


def inside_gradient(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """`gradient` where low < x < high and 0 elsewhere, in one pass over memory."""
    return torch.ops.aten.hardtanh_backward(gradient, x, low, high)  # type: ignore[no-any-return]


def rounded_steps(x: Tensor, scale: Tensor, low: float, high: float, half: bool = False) -> Tensor:
    """clamp(rne(x / scale), low, high) * scale with one new tensor of the shape of `x`; scale [] or broadcastable. With `half` the nearest odd
    number in place of rne."""
    made = x / scale
    made = made.sub_(1).div_(2).round_().mul_(2).add_(1) if half else made.round_()
    return made.clamp_(low, high).mul_(scale)


def parameter(values: Any) -> nn.Parameter:
    """A float32 parameter of these values."""
    return nn.Parameter(torch.as_tensor(values, dtype=torch.float32).clone())


def set_parameter(target: nn.Parameter, values: Any) -> None:
    """New values (and shape) for `target`, the object that the optimizer knows."""
    target.data = torch.as_tensor(values, dtype=torch.float32).clone().to(target.device)


def gradient_scale(elements: int, largest: int) -> float:
    """1 / sqrt(N Q_p): what LSQ multiplies the gradient of a step with (Esser et al. 2020, section 2.2).

    Types of more than 8 bits have steps so small that this rule would throw their ranges about: their range moves as one of 8 bits does, by
    the chain rule from step to range, Q_p s, in the gradient and in the move.
    """
    if largest <= MOST_CODES:
        return 1.0 / math.sqrt(max(elements, 1) * max(largest, 1))
    return (SIGNED_CODES / largest) ** 2 / math.sqrt(max(elements, 1) * SIGNED_CODES)
