"""Budgets: bounds on summed costs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Resource(StrEnum):
    """What a budget bounds, and the unit in which costs of it are summed. All else that is known of one: mpqc.facts.resources."""

    LATENCY = "latency"
    """microseconds"""
    SIZE = "size"
    """bytes of weights and all other constants as stored"""
    BOPS = "bops"
    """bit operations: MACs x weight bits x activation bits"""
    WEIGHT_BITS = "weight_bits"
    """average bits of a weight (element-weighted mean over weight sites; a pruned weight counts 0)"""
    ACTIVATION_BITS = "activation_bits"
    """average bits of an activation (element-weighted mean over activation sites; a pruned one counts 0)"""
    PEAK_MEMORY = "peak_memory"
    """bytes of activations that are live together, at the worst moment; of a program, its arena with scratch and padding"""
    LARGEST_ACTIVATION = "largest_activation"
    """bytes of the largest activation"""
    ENERGY = "energy"
    """nanojoules, where the target has a table"""


@dataclass(frozen=True)
class Budget:
    """The sum of `resource` over the plan may not exceed `limit` (in the unit that `Resource` states)."""

    resource: Resource
    limit: float

    def __str__(self) -> str:
        """Exact, for what must not be confused; `mpqc.facts.amounts.format_budget` writes it for people."""
        return f"{self.resource.value} <= {self.limit!r}"
