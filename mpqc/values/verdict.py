"""The verdict on a compile: does it fit, what does it lose, how far can that be trusted, what next. Made in mpqc.report.judge, shown first."""

from __future__ import annotations

from dataclasses import dataclass

from mpqc.values.budget import Resource
from mpqc.values.json_file import Record

FINE, UNKNOWN, WORSE, LOST = "fine", "not known", "worse", "lost"
"""What a program keeps of what the network knows: all but little, nobody can tell, clearly less, or nothing to speak of"""
PERCENT, DECIBEL = "%", "dB"


@dataclass(frozen=True)
class Fit(Record):
    """One budget, and what is used of it."""

    resource: Resource
    used: float
    limit: float
    how: str
    """predicted | counted in the plan | counted in the built program | modelled"""
    unknown: str = ""
    """Why nobody can tell whether the budget holds; empty: it holds"""

    @property
    def share(self) -> float:
        """Used of limit."""
        return self.used / self.limit


@dataclass(frozen=True)
class Loss(Record):
    """What the integer program scores beside the float network, on the samples that the verdict names."""

    metric: str
    """In words: top-1 agreement with the float network, top-1, SQNR of y, ..."""
    unit: str
    """% | dB | empty for a function of the user's own"""
    value: float | None
    """None: SQNR of outputs that are exactly equal"""
    float_value: float | None = None
    """What the float network scores; None where it is what is compared with (SQNR)"""
    int8_value: float | None = None
    """What the same network scores with everything at 8 bits, quantizers run in float; None: SQNR of outputs that are exactly equal"""

    @property
    def drop(self) -> float | None:
        """Points lost against the float network; None for a metric that it has no value of."""
        return None if self.float_value is None or self.value is None else self.float_value - self.value


@dataclass(frozen=True)
class Verdict(Record):
    """The first thing that anybody reads of a compile."""

    keeps: str
    """fine | not known | worse | lost"""
    headline: str
    """One sentence"""
    fits: tuple[Fit, ...]
    """One a budget"""
    binds: str
    """The resource whose budget decides the bits; empty where none does"""
    loses: tuple[Loss, ...]
    """The metric that counts first"""
    samples: int
    held_out: bool
    """Whether they were left out of calibration"""
    trust: tuple[str, ...]
    """How sure each figure is"""
    next: tuple[str, ...]
    """What would help, the most first"""
    max_drop: float | None = None
    """Points of the first metric that may be lost"""

    @property
    def drop(self) -> float | None:
        """Points of the first metric that are lost."""
        return self.loses[0].drop if self.loses else None

    @property
    def is_past_its_drop(self) -> bool:
        """Whether more is lost than may be."""
        return self.max_drop is not None and self.drop is not None and self.drop > self.max_drop + 1e-9
