"""What happened in a training phase, for checkpoints and the report. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mpqc.values.json_file import Record
from mpqc.values.plan import Plan

POINTS = 200
"""Of the loss curve in the report, at most"""


@dataclass(frozen=True)
class Evaluation(Record):
    """The held-out part after `step` steps, in evaluation mode: what the exported program would do but for integer rounding."""

    step: int
    loss: float
    accuracy: float | None
    """Top-1 in percent; None without labels"""
    inside: bool
    """Whether the plan of that moment was inside the budgets, so that the state could be kept as the best"""

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better: accuracy where there are labels, then loss."""
        return (self.accuracy or 0.0, -self.loss)

    def clearly_better(self, later: Evaluation, samples: int) -> bool:
        """Whether it is better than a `later` one by more than chance explains: the standard error of the difference of two accuracies on so many
        samples. Losses, where there are no labels, are compared as they are."""
        if self.accuracy is None or later.accuracy is None:
            return self.rank > later.rank
        share = self.accuracy / 100
        return self.accuracy - later.accuracy > 100 * math.sqrt(2 * share * (1 - share) / samples)


@dataclass(frozen=True)
class BitChange(Record):
    """A re-allocation's effect on one site."""

    step: int
    site: str
    before: int | None
    after: int | None


@dataclass
class History:
    """Grows while the phase runs."""

    losses: list[float] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    changes: list[BitChange] = field(default_factory=list)
    seconds: float = 0.0
    """Of all runs of the phase together"""

    def note_plan(self, step: int, before: Plan | None, after: Plan | None) -> None:
        """Write down where two plans differ."""
        if before is None or after is None or before is after:
            return
        old = {choice.site: choice.bits for choice in before.choices}
        self.changes += [BitChange(step, item.site, old.get(item.site), item.bits) for item in after.choices if old.get(item.site) != item.bits]

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> History:
        """The inverse of state_dict."""
        evaluations = [Evaluation(**item) for item in state["evaluations"]]
        return cls(list(state["losses"]), evaluations, [BitChange(**item) for item in state["changes"]], float(state["seconds"]))

    def curve(self) -> tuple[tuple[int, float], ...]:
        """(step, mean loss of the steps since the last point), at most POINTS of them."""
        width = max(-(-len(self.losses) // POINTS), 1)
        parts = [(start, self.losses[start : start + width]) for start in range(0, len(self.losses), width)]
        return tuple((start + len(part), sum(part) / len(part)) for start, part in parts)


@dataclass(frozen=True)
class TrainingSummary(Record):
    """A finished phase, as the report shows it."""

    strategy: str
    steps: int
    batch: int
    samples: int
    held_out: int
    processes: int
    arithmetic: str
    """For example `bfloat16 on cpu`"""
    labelled: bool
    curve: tuple[tuple[int, float], ...]
    evaluations: tuple[Evaluation, ...]
    changes: tuple[BitChange, ...]
    best_step: int
    """Step of the state that is exported"""
    raw_bits: Mapping[str, int | None] = field(default_factory=dict)
    """Site -> bits that the method chose itself, before they were brought inside the budgets; empty for methods without bits of their own"""
    notes: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    """That the phase took; not in report.json, as `allocation_seconds`"""
    allocation_seconds: float = field(default=0.0, compare=False)
    """Part of `seconds` that was spent on choosing bits"""
