"""FracBits: a real width lambda a tensor (or output channel), learned with the weights and rounded at the end (Yang and Jin, AAAI 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mpqc.training.quantizers import native
from mpqc.training.quantizers.base import TrainedState, is_unsigned, parameter, set_parameter
from mpqc.training.quantizers.dorefa import Widths, fractional_dorefa, half_steps, magnitude, on_half, steps
from mpqc.training.quantizers.one_pass import rounded
from mpqc.training.quantizers.pact import FractionalPact, levels
from mpqc.training.quantizers.pact import step as pact_step
from mpqc.training.quantizers.steps import OnePass, Steps
from mpqc.values.qtype import QParams, QType

OFF_INTEGER = 1e-3
"""Lambda keeps this distance from its bounds: at a whole number it has no gradient from the task."""


class FractionalState(TrainedState):
    """What weights and activations share: lambda between bounds, and its rounding."""

    def __init__(self, bounds: tuple[int, int] = (2, 8)) -> None:
        super().__init__()
        self.bounds = bounds
        self.width = parameter(8.0)
        """lambda: [] or one an output channel"""
        self.hardened = False

    def start_width(self, width: float) -> None:
        """Give lambda a value, the same for all channels; within the bounds and off whole numbers."""
        with torch.no_grad():
            self.width.fill_(width)
        self.hardened = False
        self.constrain()

    def harden(self, bits: Tensor | float) -> None:
        """Round: lambda becomes `bits` (whole numbers >= 0, [] or one a channel), and gets no gradient any more."""
        with torch.no_grad():
            self.width.copy_(torch.as_tensor(bits, dtype=torch.float32).expand_as(self.width))
        self.hardened = True
        self.width.requires_grad_(False)
        self.publish()

    def set_bits(self, bits: int) -> None:
        """The same whole width for all channels; alpha and the weights' range stay."""
        if self.qtype is not None:
            self.harden(float(bits))

    def learned_bits(self) -> float:
        """Mean lambda."""
        return float(self.width.detach().mean())

    def constrain(self) -> None:
        """Lambda within the bounds, just off them."""
        if not self.hardened:
            with torch.no_grad():
                self.width.clamp_(self.bounds[0] + OFF_INTEGER, self.bounds[1] - OFF_INTEGER)

    def publish(self) -> None:
        """qtype, scale and zero point as the parameters have them now."""
        raise NotImplementedError

    def qparams(self) -> QParams | None:
        """Those of the rounded-up width."""
        if self.qtype is not None:
            self.publish()
        return super().qparams()

    @property
    def whole(self) -> Tensor:
        """Lambda rounded up."""
        return torch.ceil(self.width.detach())


class FractionalWeight(FractionalState):
    """DoReFa weights. The range is that of the latent weights, so calibrated scales are not used."""

    def __init__(
        self, shape: tuple[int, ...], axis: int | None, *, per_channel: bool = False, bounds: tuple[int, int] = (2, 8), half: Widths = ()
    ) -> None:
        """`per_channel`: one lambda an index of `axis`. half: widths at which DoReFa's own levels, without a 0, can be stored."""
        super().__init__(bounds)
        self.half_widths = half
        self.axis, self.channels = axis, 1 if axis is None else shape[axis]
        if per_channel and axis is not None:
            set_parameter(self.width, torch.full((self.channels,), 8.0))
        self.register_buffer("size", torch.ones(()))

    def set(self, qparams: QParams | None) -> None:
        """Quantize at the width of `qparams`; lambda starts half a bit above."""
        self.qtype = None if qparams is None else QType(qparams.qtype.bits, self.axis)
        if qparams is not None:
            self.start_width(qparams.qtype.bits + 0.5)
            self.publish()

    def forward(self, x: Tensor) -> Tensor:
        """The weight at lambda bits."""
        if self.qtype is None:
            return x
        self.size = magnitude(x)
        if self.training:
            self.publish()
        return fractional_dorefa(x, self.width, axis=self.axis or 0, half=self.half_widths)

    def publish(self) -> None:
        """One scale a channel; the type is as wide as the widest channel."""
        bits, half = self.whole.expand(self.channels), on_half(self.whole, self.half_widths)
        self.qtype = QType(max(int(bits.max()), 1), self.axis, half)
        scale = (half_steps(self.size, bits) / 2 if half else steps(self.size, bits)).to(torch.float32)
        self.scale = scale.reshape(()) if self.axis is None else scale.clone()
        self.zero_point = torch.zeros(self.scale.shape, dtype=torch.int32, device=scale.device)

    @property
    def pruned(self) -> Tensor:
        """Boolean [channels]: those of 0 bits."""
        return self.whole.expand(self.channels) == 0


class FractionalActivation(FractionalState):
    """PACT activations with a learned clip alpha."""

    def __init__(self, *, bounds: tuple[int, int] = (2, 8), calibrated: bool = True) -> None:
        super().__init__(bounds)
        self.alpha = parameter(1.0)
        self.calibrated = calibrated
        self.unsigned = True

    def set(self, qparams: QParams | None) -> None:
        """alpha starts at the end of the calibrated range, lambda half a bit above its width."""
        self.qtype = None if qparams is None else QType(qparams.qtype.bits)
        if qparams is None:
            return
        self.unsigned = is_unsigned(qparams)
        steps_up = float(max(qparams.qtype.qmax - int(qparams.zero_point), int(qparams.zero_point) - qparams.qtype.qmin - 1, 1))
        set_parameter(self.alpha, float(qparams.scale) * steps_up)
        self.start_width(qparams.qtype.bits + 0.5)
        self.publish()

    def forward(self, x: Tensor) -> Tensor:
        """Activations at lambda bits."""
        if self.qtype is None:
            return x
        if native.suits(x) and (rounding := self.one_pass(x)) is not None:
            return rounded(x, None, rounding, relu=False)
        if self.training:
            self.publish()
        return FractionalPact.apply(x, self.alpha, self.width, self.unsigned, self.calibrated)  # type: ignore[no-untyped-call,no-any-return]

    def one_pass(self, x: Tensor) -> OnePass | None:
        """Always, with a qtype."""
        if self.qtype is None:
            return None
        if self.training:
            self.publish()
        width, clip, calibrated = float(self.width.detach()), float(self.alpha.detach()), self.calibrated
        below = math.floor(width)

        def gradients(inside: float, outside: float, difference: float) -> tuple[float, ...]:
            return ((inside if calibrated else 0.0) + outside) / clip, difference

        second = None if width == below else self._steps(clip, below + 1)
        bottom = 0.0 if self.unsigned else -clip
        return OnePass(self._steps(clip, below), bottom, clip, (self.alpha, self.width), gradients, second, width - below)

    def _steps(self, clip: float, bits: int) -> Steps:
        return Steps(pact_step(clip, bits, unsigned=self.unsigned), *levels(bits, unsigned=self.unsigned)) if bits else Steps(clip, 0, 0)

    def constrain(self) -> None:
        """Also alpha > 0."""
        super().constrain()
        with torch.no_grad():
            self.alpha.clamp_(min=1e-5)

    def publish(self) -> None:
        """The type of the rounded-up width."""
        bits = max(int(self.whole), 1)
        self.qtype = QType(bits)
        alpha = float(self.alpha.detach())
        self.scale = torch.tensor(pact_step(alpha, bits, unsigned=self.unsigned), device=self.alpha.device)
        zero = self.qtype.qmin if self.unsigned else 0
        self.zero_point = torch.tensor(zero, dtype=torch.int32, device=self.alpha.device)
