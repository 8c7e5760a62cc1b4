"""LSQ: the step of a uniform grid is learned (Esser et al., "Learned Step Size Quantization", ICLR 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpqc.training.quantizers import native, native_weights
from mpqc.training.quantizers.base import TrainedState, gradient_scale, inside_gradient, like, parameter, product_sum, rounded_steps, set_parameter
from mpqc.training.quantizers.steps import Levels, OnePass, Steps
from mpqc.values.qtype import QParams, QType

ONE_BIT_MARGIN = 1
"""Steps beyond both codes of a 1-bit type in which gradients still pass: -1 to 0 alone would leave every positive weight at 0 for good."""
SMALLEST = 0.01
"""Of the step that a state was last given: steps do not shrink below."""


class LsqTensor(torch.autograd.Function):
    """y = clamp(rne(x / s), low, high) s with one s for the tensor.

    Gradients (equations 1 and 3): dy/dx = 1 for low < x / s < high, else 0; dy/ds = rne(x / s) - x / s inside, low or high outside, times
    `slope`. Both come from x and y alone: s dy/ds = y - x inside and y outside, so that ds takes two dot products and no mask is kept. Large
    bfloat16 tensors take one pass each way (native.py).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, levels: Levels, slope: float) -> Tensor:
        ctx.bounds, ctx.slope, ctx.native = levels.inside, slope, native.suits(x) and not levels.margin and not levels.half
        if ctx.native:
            ctx.save_for_backward(x, scale)
            return native.forward(x, float(scale), levels.low, levels.high)
        y = rounded_steps(x, scale, levels.low, levels.high, levels.half)
        ctx.save_for_backward(x, scale, y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, *rest = ctx.saved_tensors
        gradient, step = like(gradients[0], x), float(scale)
        if ctx.native:
            for_x, total = native.backward(gradient, x, step, *ctx.bounds)
            return for_x, torch.full_like(scale, total * ctx.slope), None, None
        for_x = inside_gradient(gradient, x, ctx.bounds[0] * step, ctx.bounds[1] * step)
        if not ctx.needs_input_grad[1]:
            return for_x, None, None, None
        for_scale = (product_sum(gradient, rest[0]) - product_sum(for_x, x)) * (ctx.slope / step)
        return for_x, for_scale.reshape(scale.shape).to(scale.dtype), None, None


class LsqChannels(torch.autograd.Function):
    """LsqTensor with one s for each index of an axis; `scale` broadcasts against x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, levels: Levels, slope: float) -> Tensor:
        ctx.levels, ctx.slope = levels, slope
        ctx.native = scale.numel() == x.shape[0] == scale.shape[0] and native_weights.suits(x)
        if ctx.native:
            ctx.save_for_backward(x, scale)
            return native_weights.forward(x, scale, levels)
        y = rounded_steps(x, scale, levels.low, levels.high, levels.half)
        ctx.save_for_backward(x, y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.native:
            x, scale = ctx.saved_tensors
            for_x, for_scale = native_weights.backward(like(gradients[0], x), x, scale, ctx.levels, ctx.slope)
            return for_x, for_scale.reshape(scale.shape), None, None
        x, y, scale = ctx.saved_tensors
        low, high = ctx.levels.inside
        inside = (x > scale * low) & (x < scale * high)
        for_x = gradients[0] * inside
        if not ctx.needs_input_grad[1]:
            return for_x, None, None, None
        for_scale = (gradients[0] * y - for_x * x).sum_to_size(scale.shape) * (ctx.slope / scale)
        return for_x, for_scale, None, None


def lsq(x: Tensor, scale: Tensor, zero_point: Tensor | int, qtype: QType, slope: float = 1.0) -> Tensor:
    """`x` on the grid of `scale` ([] or [n] along qtype.axis), with the gradients of LSQ; those of the step times `slope`.

    The zero point, one integer for the tensor, is a constant: it only moves the clamp, as in fake_quantize, whose values these are bit for bit.
    """
    levels = levels_of(qtype, zero_point)
    if qtype.axis is None or scale.ndim == 0:
        return LsqTensor.apply(x, scale.reshape(()), levels, slope)  # type: ignore[no-untyped-call,no-any-return]
    shape = [1] * x.ndim
    shape[qtype.axis] = scale.shape[0]
    return LsqChannels.apply(x, scale.reshape(shape), levels, slope)  # type: ignore[no-untyped-call,no-any-return]


def levels_of(qtype: QType, zero_point: Tensor | int) -> Levels:
    """The codes of `qtype` relative to its zero point, one integer for the tensor."""
    zero = int(zero_point.reshape(-1)[0]) if isinstance(zero_point, Tensor) else zero_point
    return Levels(qtype.qmin - zero, qtype.qmax - zero, qtype.half, ONE_BIT_MARGIN if qtype.bits == 1 else 0)


def lsq_one_pass(scale: Tensor, zero_point: Tensor, qtype: QType, slope: float) -> OnePass:
    """`lsq` for a [] scale."""
    step, levels = float(scale.detach()), levels_of(qtype, zero_point)
    bottom, top = levels.inside

    def gradients(inside: float, outside: float, _: float) -> tuple[float, ...]:
        return ((inside + outside) * (slope / step),)

    return OnePass(Steps(step, levels.low, levels.high), bottom * step, top * step, (scale,), gradients)


class LsqState(TrainedState):
    """One learned step a tensor or output channel; the zero point is that of the calibrated range."""

    def __init__(self, *, per_sample: bool = False) -> None:
        """`per_sample`: the first dimension of values counts samples (activations), so features are what N counts."""
        super().__init__()
        del self.scale
        self.scale = parameter(1.0)
        self.per_sample = per_sample
        self.register_buffer("smallest", torch.zeros(()))

    def set(self, qparams: QParams | None) -> None:
        """Start from `qparams`; None leaves values float."""
        self.qtype = qparams.qtype if qparams is not None else None
        if qparams is None:
            return
        set_parameter(self.scale, qparams.scale)  # type: ignore[arg-type]
        self.zero_point = torch.as_tensor(qparams.zero_point, dtype=torch.int32, device=self.scale.device).clone()
        self.smallest = self.scale.detach() * SMALLEST

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid; `x` itself without a qtype."""
        return x if self.qtype is None else lsq(x, self.scale, self.zero_point, self.qtype, self._slope(x))

    def one_pass(self, x: Tensor) -> OnePass | None:
        """Where one step serves the tensor, on the grid with a zero."""
        if self.qtype is None or self.scale.ndim or self.zero_point.ndim or self.qtype.half:
            return None
        return lsq_one_pass(self.scale, self.zero_point, self.qtype, self._slope(x))

    def constrain(self) -> None:
        """Steps stay above SMALLEST of where they started, so positive."""
        with torch.no_grad():
            self.scale.clamp_(min=self.smallest)

    def _slope(self, x: Tensor) -> float:
        """LSQ's factor; on the half-integer grid, whose codes are 2 apart, that of the step 2 s: 2 for its gradient, 2 for the move back to s."""
        assert self.qtype is not None
        whole = x[0].numel() if self.per_sample and x.ndim else x.numel()
        elements = whole // max(self.scale.numel(), 1)
        if self.qtype.half:
            return gradient_scale(elements, max(self.qtype.qmax // 2, 1)) / 4
        largest = self.qtype.qmax - int(self.zero_point.reshape(-1)[0])
        return gradient_scale(elements, largest)
