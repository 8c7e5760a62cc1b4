"""DQ: step and range learned, bits inferred (Uhlich et al., "Mixed Precision DNNs: All you need is a good parametrization", ICLR 2020).

The uniform quantizer is parametrized by [d, qmax] ("U3"), the power-of-two one by [qmin, qmax]; their gradients are bounded and decoupled.
Steps are used rounded to powers of two and gradients pass the rounding straight through, as in the paper's experiments.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mpqc.errors import UsageError
from mpqc.training.quantizers import native
from mpqc.training.quantizers.base import TrainedState, inside_gradient, is_unsigned, like, parameter, product_sum, set_parameter
from mpqc.training.quantizers.lsq import lsq, lsq_one_pass
from mpqc.training.quantizers.one_pass import rounded
from mpqc.training.quantizers.steps import OnePass, Steps
from mpqc.values.qtype import QParams, QType

LEAST = 2.0**-8
MOST_STEP = 1.0
MOST_WEIGHT, MOST_ACTIVATION = 127.0, 255.0
"""Clamps of d, and of qmax for weights and activations (the authors' code)"""
BEYOND = 1 + 2.0**-22
STRICT = 1e-4
"""Relative distance kept between d and qmax"""


class DqUniform(torch.autograd.Function):
    """Q(x) = sign(x) d rne(|x| / d) for |x| <= qmax, sign(x) qmax beyond; below 0 an unsigned type has nothing.

    Gradients (U3, section 2.2): dQ/dx = 1 inside, 0 outside; dQ/dd = (Q(x) - x) / d inside, 0 outside; dQ/dqmax = 0 inside, sign(x) outside. Halves
    go to even, as everywhere in mpqc; the paper rounds them away from 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, largest: Tensor, unsigned: bool) -> Tensor:
        high = float(largest)
        low = 0.0 if unsigned else -high
        y = (x / step).round_().mul_(step).clamp_(low, high)
        ctx.save_for_backward(x, y, step)
        ctx.bounds = (low, high)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, step = ctx.saved_tensors
        low, high = ctx.bounds
        gradient = like(gradients[0], x)
        # hardtanh_backward takes an open range, this one is closed
        for_x = inside_gradient(gradient, x, low * BEYOND if low else -1e-30, high * BEYOND)
        inside = product_sum(for_x, y)
        for_step = (inside - product_sum(for_x, x)) / float(step)
        beyond = (product_sum(gradient, y) - inside) / high
        return for_x, for_step.reshape(step.shape).to(step.dtype), beyond.reshape(step.shape).to(step.dtype), None


class DqPowerOfTwo(torch.autograd.Function):
    """Q(x) = sign(x) times qmin for |x| <= qmin, 2^floor(1/2 + log2|x|) inside, qmax beyond.

    With `with_zero` (activations) |x| < qmin / sqrt(2) is 0. Gradients (section 2.3): dQ/dx = 2^round(log2|x|) / |x| inside, 0 outside; dQ/dqmin and
    dQ/dqmax are sign(x) below and beyond, 0 inside.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, smallest: Tensor, largest: Tensor, with_zero: bool) -> Tensor:
        size = x.abs()
        rounded = torch.exp2(torch.floor(0.5 + torch.log2(size.clamp(min=1e-38))))
        y = rounded.clamp(float(smallest), float(largest)) * torch.sign(x)
        if with_zero:
            y = torch.where(size < smallest / math.sqrt(2), torch.zeros_like(y), y)
        ctx.save_for_backward(x, y, smallest, largest)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, smallest, largest = ctx.saved_tensors
        size = x.abs()
        below, beyond = size <= smallest, size > largest
        slope = torch.where(below | beyond, torch.zeros_like(x), (y / torch.where(x == 0, torch.ones_like(x), x)))
        signed = gradients[0] * torch.sign(y)
        for_smallest, for_largest = (signed * below).sum(), (signed * beyond).sum()
        return gradients[0] * slope, for_smallest.reshape(smallest.shape), for_largest.reshape(largest.shape), None


def power_of_two(value: Tensor) -> Tensor:
    """The nearest power of two (in the logarithm), straight through for gradients."""
    made = torch.exp2(torch.round(torch.log2(value.detach())))
    return value + (made - value).detach()


class _DqState(TrainedState):
    """What both parametrizations share: two positive parameters, clamps, and bits that can be fixed from outside."""

    def __init__(self, *, weight: bool) -> None:
        super().__init__()
        self.weight = weight
        self.unsigned = False
        self.fixed_bits: int | None = None
        """Set by `freeze`: from then on the grid is that of this width, all its codes in use, and nothing of it is trained."""
        self.smallest = parameter(1.0)
        self.largest = parameter(1.0)

    @property
    def most(self) -> float:
        """The clamp of qmax."""
        return MOST_WEIGHT if self.weight else MOST_ACTIVATION

    def constrain(self) -> None:
        """The authors' clamps, and d < qmax."""
        with torch.no_grad():
            self.largest.clamp_(LEAST, self.most)
            self.smallest.clamp_(LEAST, MOST_STEP)
            self.smallest.copy_(torch.minimum(self.smallest, self.largest * (1 - STRICT)))

    def clip_gradients(self) -> None:
        """Gradients of both parameters within [-d, d] (the authors' code, where a constraint is on): call it before each optimizer step."""
        bound = float(self.smallest.detach())
        for item in (self.smallest, self.largest):
            if item.grad is not None:
                item.grad.clamp_(-bound, bound)


class DqUniformState(_DqState):
    """[d, qmax]: `smallest` is d. Per tensor. Signed activations keep the symmetric range in training."""

    def __init__(self, *, weight: bool, rounded: bool = True) -> None:
        """`rounded`: d is used as a power of two."""
        super().__init__(weight=weight)
        self.rounded = rounded

    def set(self, qparams: QParams | None) -> None:
        """Start at the range and width of `qparams` (per channel: the largest range): d = 2^floor(log2 d), qmax = the largest level times d."""
        self.qtype = None if qparams is None else QType(qparams.qtype.bits)
        if qparams is None:
            return
        self.unsigned = is_unsigned(qparams)
        step = torch.as_tensor(qparams.scale, dtype=torch.float32).max()
        if not self.unsigned and qparams.zero_point.any():  # an asymmetric range: its wider side
            step = step * max(1.0, float(abs(qparams.zero_point - qparams.qtype.qmin).max()) / (1 << (qparams.qtype.bits - 1)))
        step = torch.exp2(torch.floor(torch.log2(step))) if self.rounded else step
        set_parameter(self.smallest, step)
        set_parameter(self.largest, step * self._levels(qparams.qtype.bits))
        self.fixed_bits = None
        self._publish()

    def set_bits(self, bits: int) -> None:
        """The range stays: d = qmax over the levels of the width (then to a power of two in use)."""
        if self.qtype is None:
            return
        with torch.no_grad():
            self.smallest.copy_(self.largest / self._levels(bits))
        self.fixed_bits = bits if self.fixed_bits is not None else None
        self._publish()

    def freeze(self, bits: int, step: float | None = None) -> None:
        """Fix the grid: that in use where the width is the learned one; where it is another, `step` for d, or the same range in its levels.

        Of a fixed width, a step that went on learning would take the range with it: a power of two later it is half or twice as wide.
        """
        if bits != self.bits and step is None:
            self.set_bits(bits)
        elif bits != self.bits:
            set_parameter(self.smallest, step)
        set_parameter(self.smallest, self._step().detach())
        set_parameter(self.largest, self.smallest.detach() * self._levels(bits))
        self.fixed_bits = bits
        self._learns(learns=False)
        self._publish()

    def thaw(self) -> None:
        """The inverse of `freeze`, but for d and qmax."""
        self.fixed_bits = None
        self._learns(learns=True)

    def _learns(self, *, learns: bool) -> None:
        for item in (self.smallest, self.largest):
            item.requires_grad_(learns)
            item.grad = None

    @property
    def range(self) -> float:
        """Values beyond it, on both sides, are clamped to it: qmax as a multiple of d."""
        return float(self._top() * self._step().detach())

    def learned_bits(self) -> float:
        """log2(qmax / d + 1) + 1 (without the sign bit for unsigned types), not rounded up."""
        return float(self.real_bits().detach())

    def real_bits(self) -> Tensor:
        """The width as a differentiable function of the parameters (equation 7 without the rounding)."""
        sign = 0.0 if self.unsigned else 1.0
        return torch.log2(self.largest / self._step() + 1) + sign

    @property
    def bits(self) -> int:
        """ceil(log2(qmax / d + 1) + 1) with qmax snapped to a multiple of d, as the authors' code counts; >= 2 for signed types, else >= 1."""
        if self.fixed_bits is not None:
            return self.fixed_bits
        top = int(torch.round(self.largest.detach() / self._step().detach()))
        sign = 0 if self.unsigned else 1
        return min(max(math.ceil(math.log2(top + 1) - 1e-9) + sign, 1 + sign), 16)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid; `x` itself without a qtype."""
        if self.qtype is None:
            return x
        if native.suits(x) and (rounding := self.one_pass(x)) is not None:
            return rounded(x, None, rounding, relu=False)
        step = self._step()
        if self.training:
            self._publish()
        if self.fixed_bits is not None:
            return lsq(x, step, self.zero_point, self.qtype, 1.0)
        return DqUniform.apply(x, step, self._snapped(step), self.unsigned)  # type: ignore[no-untyped-call,no-any-return]

    def one_pass(self, x: Tensor) -> OnePass | None:
        """Always, with a qtype."""
        if self.qtype is None:
            return None
        step = self._step()
        if self.training:
            self._publish()
        if self.fixed_bits is not None:
            return lsq_one_pass(step.reshape(()), self.zero_point, self.qtype, 1.0)
        snapped = self._snapped(step)
        size, high = float(step.detach()), float(snapped.detach())

        def gradients(inside: float, outside: float, _: float) -> tuple[float, ...]:
            return inside / size, outside / high

        levels = round(high / size)
        bottom = -1e-30 if self.unsigned else -high * BEYOND
        return OnePass(Steps(size, 0 if self.unsigned else -levels, levels), bottom, high * BEYOND, (step, snapped), gradients)

    def _snapped(self, step: Tensor) -> Tensor:
        """qmax as a multiple of the step, straight through for gradients."""
        return self.largest + (self._top() * step - self.largest).detach()

    def qparams(self) -> QParams | None:
        """Bits as counted, the step in use."""
        self._publish()
        return super().qparams()

    def _top(self) -> Tensor:
        return torch.round(self.largest.detach() / self._step().detach()).clamp(1, self._levels(16))

    def _step(self) -> Tensor:
        return power_of_two(self.smallest) if self.rounded else self.smallest

    def _levels(self, bits: int) -> int:
        return (1 << bits) - 1 if self.unsigned else max((1 << (bits - 1)) - 1, 1)

    def _publish(self) -> None:
        """qtype, scale and zero point as the parameters have them now."""
        if self.qtype is None:
            return
        self.qtype = QType(self.bits)
        self.scale = self._step().detach().clone().reshape(())
        zero = self.qtype.qmin if self.unsigned else 0
        self.zero_point = torch.tensor(zero, dtype=torch.int32, device=self.scale.device)


class DqPowerOfTwoState(_DqState):
    """[qmin, qmax]: `smallest` is qmin; levels qmin 2^k. Written as an integer type wide enough for the largest level over the smallest."""

    def set(self, qparams: QParams | None) -> None:
        """Start with 2^(b-1) levels a sign below the largest value of `qparams`. Raises UsageError for widths above 4: beyond 16-bit codes."""
        self.qtype = None if qparams is None else QType(16)
        if qparams is None:
            return
        self.unsigned = is_unsigned(qparams)
        exponents = 2 ** (qparams.qtype.bits - 1) - 1
        if exponents > 14:
            raise UsageError(f"{qparams.qtype.bits} bits of powers of two span 2^{exponents}", hint="use 2 to 4 bits: codes have at most 16")
        span = torch.as_tensor(qparams.scale, dtype=torch.float32).max() * float((qparams.qtype.qmax - qparams.zero_point).max())
        largest = torch.exp2(torch.round(torch.log2(span)))
        set_parameter(self.largest, largest)
        set_parameter(self.smallest, largest / 2**exponents)
        self._publish()

    @property
    def bits(self) -> int:
        """ceil(log2(log2(qmax / qmin) + 1) + 1): bits of the exponent code with its sign."""
        sign = 0 if self.unsigned else 1
        return math.ceil(math.log2(self._exponents() + 1) - 1e-9) + sign

    def learned_bits(self) -> float:
        """The same, not rounded up."""
        ratio = torch.log2(self.largest.detach() / self.smallest.detach())
        return float(torch.log2(ratio + 1)) + (0.0 if self.unsigned else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the levels; `x` itself without a qtype."""
        if self.qtype is None:
            return x
        if self.training:
            self._publish()
        made = DqPowerOfTwo.apply(x, power_of_two(self.smallest), power_of_two(self.largest), not self.weight)  # type: ignore[no-untyped-call]
        return torch.relu(made) if self.unsigned else made  # type: ignore[no-any-return]

    def _exponents(self) -> int:
        return max(int(torch.round(torch.log2(self.largest.detach())) - torch.round(torch.log2(self.smallest.detach()))), 0)

    def _publish(self) -> None:
        width = min(self._exponents() + (1 if self.unsigned else 2), 16)
        self.qtype = QType(width)
        self.scale = power_of_two(self.smallest.detach()).clone().reshape(())
        zero = self.qtype.qmin if self.unsigned else 0
        self.zero_point = torch.tensor(zero, dtype=torch.int32, device=self.scale.device)
