"""Quantize-dequantize in torch: bit for bit numerics.quantize then numerics.dequantize, with gradients for training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mpqc.values.qtype import QParams, QType


class _RoundToGrid(torch.autograd.Function):
    """y = clamp(rne(x / s), low, high) * s, where low and high are code bounds minus the zero point (integers in float32); with `half` the
    nearest odd number in place of the nearest integer.

    Gradients: straight through inside the range and zero outside for x; that of LSQ (Esser et al., 2020, equation 3) for s.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor, half: bool) -> Tensor:
        steps = x / scale
        rounded = nearest_odd(steps) if half else torch.round(steps)
        codes = torch.clamp(rounded, low, high)
        ctx.save_for_backward(steps, codes, rounded, low, high)
        ctx.scale_shape = scale.shape
        return codes * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        steps, codes, rounded, low, high = ctx.saved_tensors
        inside = (rounded >= low) & (rounded <= high)
        for_x = gradients[0] * inside
        if not ctx.needs_input_grad[1]:
            return for_x, None, None, None, None
        slope = torch.where(inside, codes - steps, codes)
        return for_x, (gradients[0] * slope).sum_to_size(ctx.scale_shape), None, None, None


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qtype: QType) -> Tensor:
    """Real values of the codes of `x`: float32 of the shape of `x`. `scale` (float32) and `zero_point` (int32) are [] or [n] along qtype.axis.

    The arithmetic is that of numerics.integer. The clamp moves the zero point to the bounds, which changes no bit: codes are below 2^17
    and exact in float32.
    """
    scale, zero = _along(scale, qtype.axis, x.ndim), _along(zero_point, qtype.axis, x.ndim)
    low, high = (qtype.qmin - zero).to(torch.float32), (qtype.qmax - zero).to(torch.float32)
    return _RoundToGrid.apply(x, scale, low, high, qtype.half)  # type: ignore[no-untyped-call,no-any-return]


def nearest_odd(steps: Tensor) -> Tensor:
    """2 rne((steps - 1) / 2) + 1: what the half-integer grid rounds to."""
    return torch.round((steps - 1) / 2) * 2 + 1


def _along(values: Tensor, axis: int | None, rank: int) -> Tensor:
    if axis is None or values.ndim == 0:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = values.shape[0]
    return values.reshape(shape)


class QuantizerState(nn.Module):
    """The qparams that one or several quantizers use: the object that a sharing group has in common."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.qtype: QType | None = None
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    def set(self, qparams: QParams | None) -> None:
        """Use `qparams` from now on; None leaves values as they are (float)."""
        self.qtype = qparams.qtype if qparams is not None else None
        if qparams is not None:
            self.scale = torch.as_tensor(qparams.scale, dtype=torch.float32, device=self.scale.device).clone()
            self.zero_point = torch.as_tensor(qparams.zero_point, dtype=torch.int32, device=self.scale.device).clone()

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid; `x` itself without a qtype."""
        return x if self.qtype is None else fake_quantize(x, self.scale, self.zero_point, self.qtype)

    def qparams(self) -> QParams | None:
        """What the state stands for, as export writes it; None where values stay float."""
        if self.qtype is None:
            return None
        return QParams(self.qtype, self.scale.detach().cpu().numpy().copy(), self.zero_point.detach().cpu().numpy().copy())

    def extra_repr(self) -> str:
        return "float" if self.qtype is None else self.qtype.key


class Quantizer(nn.Module):
    """Any module that a pass inserted to put values on a grid."""


class FakeQuantize(Quantizer):
    """A quantizer of one site: the identity while it is disabled or has no qtype, fake_quantize otherwise."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site
        self.enabled = True
        self.state = QuantizerState()

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid of the state's qparams; the same shape."""
        return self.state(x) if self.active else x

    @property
    def active(self) -> bool:
        """Whether values change: enabled and given a qtype."""
        return self.enabled and self.state.qtype is not None

    def extra_repr(self) -> str:
        return f"{self.site}{'' if self.enabled else ', disabled'}"


class FakeQuantizeBias(Quantizer):
    """int32 codes of scale s_x * s_w[c], while the input and the weight of the node are quantized; the identity otherwise.

    Integer biases are stored so. Gradients pass straight through.
    """

    def __init__(self, data: FakeQuantize, weight: FakeQuantize) -> None:
        super().__init__()
        self.factors = (data, weight)  # in a tuple, so that they stay children of the graph module alone

    def forward(self, bias: Tensor) -> Tensor:
        """`bias` [channels] on its grid."""
        if not all(item.active for item in self.factors):
            return bias
        scale = (self.factors[0].state.scale * self.factors[1].state.scale).detach()
        return _StraightThrough.apply(bias, int32_grid(bias.detach(), scale))  # type: ignore[no-untyped-call,no-any-return]


def int32_grid(bias: Tensor, scale: Tensor) -> Tensor:
    """`bias` [channels] as export stores it: int32 codes of `scale` ([] or [channels])."""
    codes = torch.round(bias.double() / scale.double()).clamp(-(2.0**31), 2.0**31 - 1)
    return codes.float() * scale


class FakeQuantizeOperand(Quantizer):
    """8-bit codes of the constant operand of an Add, Sub or Mul while the node runs on integers; the identity otherwise."""

    def __init__(self, qparams: QParams, inputs: tuple[FakeQuantize, ...], output: FakeQuantize) -> None:
        super().__init__()
        self.neighbours = (inputs, output)
        self.state = QuantizerState()
        self.state.set(qparams)

    def forward(self, operand: Tensor) -> Tensor:
        """`operand` on its grid."""
        inputs, output = self.neighbours
        if self.state.qtype is None or not output.active or not any(item.active for item in inputs):
            return operand
        return fake_quantize(operand, self.state.scale, self.state.zero_point, self.state.qtype)


class _StraightThrough(torch.autograd.Function):
    """The second argument, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, made: Tensor) -> Tensor:
        return made.reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None


def quantizers(module: nn.Module) -> dict[str, FakeQuantize]:
    """Site name -> quantizer, for every quantizer in `module`."""
    return {item.site: item for item in module.modules() if isinstance(item, FakeQuantize)}


@contextmanager
def only_enabled(module: nn.Module, sites: frozenset[str]) -> Iterator[None]:
    """Within the block the quantizers of `sites` are enabled and all others disabled; afterwards each is as before."""
    before = {quantizer: quantizer.enabled for quantizer in quantizers(module).values()}
    try:
        for quantizer in before:
            quantizer.enabled = quantizer.site in sites
        yield
    finally:
        for quantizer, enabled in before.items():
            quantizer.enabled = enabled
