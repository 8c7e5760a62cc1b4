"""What a quantizer does to one tensor, in numbers: what the fused passes (one_pass.py) need to know of a state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """Codes that a value is rounded to, relative to the zero point."""

    low: int
    high: int
    half: bool = False
    """The odd numbers alone (qtype.py)"""
    margin: int = 0
    """Steps beyond both ends in which gradients still pass"""

    @property
    def inside(self) -> tuple[int, int]:
        """Where gradients pass, in steps."""
        return self.low - self.margin, self.high + self.margin


@dataclass(frozen=True)
class Steps:
    """clamp(rne(x / step), low, high) step."""

    step: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class OnePass:
    """What a state does to one tensor: y = (1 - share) first(x) + share second(x), with gradients to x for bottom < x < top."""

    first: Steps
    bottom: float
    top: float
    parameters: tuple[Tensor, ...]
    gradients: Callable[[float, float, float], tuple[float, ...]]
    """Those of `parameters` from the sums of g (y - x) inside, g y outside, and g (second(x) - first(x))"""
    second: Steps | None = None
    share: float = 0.0
