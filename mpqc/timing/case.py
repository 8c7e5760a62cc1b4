"""One run of one kernel: what a cost row says the cycles of."""

from __future__ import annotations

from dataclasses import dataclass

from mpqc.lowering.kernels.kernel import Kernel
from mpqc.targets import Shape


@dataclass(frozen=True)
class Case:
    """One kernel at one shape, as a cost row names it."""

    kind: str
    shape: Shape
    weight_bits: int | None
    kernel: Kernel
    activation_bits: int = 8
    less: Kernel | None = None
    """A kernel whose cycles are taken off: the row is what the rest costs"""
