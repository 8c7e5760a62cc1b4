"""What was seen in one tensor, small enough for a report."""

from __future__ import annotations

from dataclasses import dataclass

from mpqc.values.json_file import Record

BINS = 48
"""Of the histogram"""


@dataclass(frozen=True)
class Spread(Record):
    """The values of a tensor, and the grid that its codes lie on."""

    low: float
    high: float
    """Least and largest value: of the weights, or seen in calibration data"""
    zeros: float
    """Part of the values that are exactly 0; they are in no bin"""
    histogram: tuple[int, ...]
    """Values in BINS equal bins from `low` to `high`, in thousandths of the fullest one; empty where only the range is known"""
    grid: tuple[float, float] | None = None
    """Least and largest value that the codes can say (of all channels); None where the tensor stays float"""
    scale: float | None = None
    """The step between two codes; of several channels the largest"""
    zero_point: int = 0
