"""Training at a plan that is given: LSQ quantizers whose bits never change."""

from __future__ import annotations

from typing import ClassVar

from mpqc.strategies.common import LsqStrategy


class FixedPlan(LsqStrategy):
    """One learned step an output channel of weights and one a sharing group of activations, at the bits of the session's plan."""

    name: ClassVar[str] = "fixed"
    decides: ClassVar[bool] = False
