"""AdaRound: whether each weight rounds up or down is learned, its grid stays (Nagel et al., "Up or Down?", ICML 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mpqc.training.quantizers.base import TrainedState
from mpqc.training.quantizers.dorefa import along

LEAN = 0.45
"""How far a weight that starts from a code lies from it at most, in steps: it rounds to that code"""
LOW, HIGH = -0.1, 1.1
"""The stretch of the sigmoid (zeta, gamma)"""


class RoundingState(TrainedState):
    """w -> s clamp(floor(w / s) + h(V), qmin, qmax) with h = clip(1.2 sigmoid(V) - 0.1, 0, 1) for a weight that stays what it is.

    On the half-integer grid s clamp(2 (floor((w / s - 1) / 2) + h(V)) + 1, qmin, qmax).
    """

    def __init__(self) -> None:
        super().__init__()
        self.choice = nn.Parameter(torch.zeros(0))
        """V, of the shape of the weight"""

    def begin(self, weight: Tensor) -> None:
        """Start where h(V) is the fraction of each weight, so that the soft values are the weights themselves (inside the range)."""
        steps = self._steps(weight)
        fraction = (steps - torch.floor(steps)).clamp(1e-4, 1 - 1e-4)
        self.choice.data = -torch.log((HIGH - LOW) / (fraction - LOW) - 1)

    def near(self, weight: Tensor, rounded: Tensor) -> Tensor:
        """What starts as `rounded` (on the grid) and may learn to round to the next code on the side of `weight`."""
        reach = LEAN * self._scale(weight)
        return rounded + torch.clamp(weight - rounded, -reach, reach)

    def share(self) -> Tensor:
        """h(V): how far each weight is rounded up, 0 to 1."""
        return (torch.sigmoid(self.choice) * (HIGH - LOW) + LOW).clamp(0, 1)

    def undecided(self, sharpness: float) -> Tensor:
        """Sum of 1 - |2 h - 1|^beta: 0 where every weight is rounded."""
        return (1 - (2 * self.share() - 1).abs().pow(sharpness)).sum()

    def forward(self, x: Tensor) -> Tensor:
        """Soft values while training, rounded ones in evaluation; `x` itself without a qtype."""
        if self.qtype is None:
            return x
        if not self.choice.numel():
            self.begin(x)
        up = self.share() if self.training else (self.share() >= 0.5).to(x.dtype)
        codes = torch.floor(self._steps(x)) + up
        return torch.clamp(codes * 2 + 1 if self.qtype.half else codes, self.qtype.qmin, self.qtype.qmax) * self._scale(x)

    def _steps(self, weight: Tensor) -> Tensor:
        """Where each weight lies between neighbouring levels: whole numbers are levels."""
        steps = weight.detach() / self._scale(weight)
        return (steps - 1) / 2 if self.qtype is not None and self.qtype.half else steps

    def _scale(self, weight: Tensor) -> Tensor:
        axis = None if self.qtype is None else self.qtype.axis
        return self.scale if axis is None else along(self.scale, axis, weight.ndim)


def sharpness(progress: float, warm_up: float = 0.2, start: float = 20.0, end: float = 2.0) -> float:
    """beta of `undecided`: from 20 to 2 by half a cosine after the warm-up (progress 0 to 1)."""
    part = max(0.0, progress - warm_up) / (1 - warm_up)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * part))
