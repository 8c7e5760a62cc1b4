"""Budgets: bounds on summed costs, with units that are required."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

from mpqc.errors import UsageError


class Resource(StrEnum):
    """What a budget bounds, and the unit in which costs of it are summed."""

    LATENCY = "latency"
    """microseconds"""
    SIZE = "size"
    """bytes of weights and biases as stored"""
    BOPS = "bops"
    """bit operations: MACs x weight bits x activation bits"""
    WEIGHT_BITS = "weight_bits"
    """average bits of a weight (element-weighted mean over weight sites; a pruned weight counts 0)"""
    ACTIVATION_BITS = "activation_bits"
    """average bits of an activation (element-weighted mean over activation sites; a pruned one counts 0)"""
    PEAK_MEMORY = "peak_memory"
    """bytes of activations that are live together, at the worst moment"""
    LARGEST_ACTIVATION = "largest_activation"
    """bytes of the largest activation"""
    ENERGY = "energy"
    """nanojoules, where the target has a table"""


_UNITS: dict[Resource, dict[str, float]] = {
    Resource.LATENCY: {"us": 1.0, "ms": 1e3, "s": 1e6},
    Resource.SIZE: {"B": 1.0, "kB": 1024.0, "KB": 1024.0, "KiB": 1024.0, "MB": 1024.0**2, "MiB": 1024.0**2},
    Resource.BOPS: {"BOPs": 1.0, "MBOPs": 1e6, "GBOPs": 1e9, "TBOPs": 1e12},
    Resource.ENERGY: {"nJ": 1.0, "uJ": 1e3, "mJ": 1e6},
}
_UNITS[Resource.PEAK_MEMORY] = _UNITS[Resource.LARGEST_ACTIVATION] = _UNITS[Resource.SIZE]
_EXAMPLES = {Resource.LATENCY: "20ms", Resource.SIZE: "1.5MB", Resource.BOPS: "3GBOPs", Resource.ENERGY: "2mJ"}
_EXAMPLES[Resource.PEAK_MEMORY] = _EXAMPLES[Resource.LARGEST_ACTIVATION] = "8KB"


@dataclass(frozen=True)
class Budget:
    """The sum of `resource` over the plan may not exceed `limit` (in the unit that `Resource` states)."""

    resource: Resource
    limit: float

    def __str__(self) -> str:
        return f"{self.resource.value} <= {format_amount(self.resource, Fraction(Decimal(repr(self.limit))), 17)}"


def parse_budget(resource: Resource, text: str) -> Budget:
    """A budget from text such as "20ms" or "1.5MB" (1 kB = 1024 bytes). Raises UsageError without a unit or a positive number."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    where, example = f"--budget-{resource.value.replace('_', '-')}", _EXAMPLES[resource]
    if not match:
        raise UsageError(f"{text!r} is not an amount", where=where, hint=f"write for example {example}")
    units = _UNITS[resource]
    if match[2] not in units:
        fault = f"{text!r} has no unit" if not match[2] else f"{text!r} has the unknown unit {match[2]!r}"
        raise UsageError(fault, where=where, hint=f"use one of {', '.join(units)}, for example {example}")
    limit = _float(Decimal(match[1]), units[match[2]])
    if not 0 < limit < math.inf:
        raise UsageError(f"{text!r} is not a number above zero", where=where)
    return Budget(resource, limit)


def _float(number: Decimal, factor: float) -> float:
    """The float nearest to the product, which is worked out in decimal: 32.77824 million is 32,778,240. Infinite beyond floats."""
    return math.inf if number.adjusted() > 300 else float(number * Decimal(factor))


def parse_average_bits(text: str) -> tuple[Budget, ...]:
    """Budgets from "W/A" average bits such as "4/4"; "-" leaves one side free: "3/-"."""
    where = "--budget-avg-bits"
    match = re.fullmatch(r"\s*([0-9.]+|-)\s*/\s*([0-9.]+|-)\s*", text)
    if not match:
        raise UsageError(f"{text!r} is not WEIGHTS/ACTIVATIONS", where=where, hint="write for example 4/4 or 3/-")
    sides = zip((Resource.WEIGHT_BITS, Resource.ACTIVATION_BITS), match.groups(), strict=True)
    budgets = tuple(Budget(resource, _bits(number, where)) for resource, number in sides if number != "-")
    if not budgets:
        raise UsageError(f"{text!r} bounds nothing", where=where, hint="give at least one side a number")
    return budgets


def _bits(text: str, where: str) -> float:
    try:
        bits = float(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a number of bits", where=where, hint="write for example 4/4") from None
    if bits <= 0:
        raise UsageError(f"{text!r} is not above zero", where=where)
    return bits


def _units(resource: Resource) -> dict[str, float]:
    return _UNITS.get(resource, {"bits": 1.0})


def format_amount(resource: Resource, amount: float | Fraction, digits: int | None = None) -> str:
    """`amount` of `resource` in the largest unit that keeps it at or above 1.

    Four digits, rounded to the nearest; with `digits`, that many, rounded up, in the unit that needs the fewest where they do not round.
    """
    units: dict[float, str] = {factor: unit for unit, factor in reversed(_units(resource).items())}  # the first spelling of a factor wins
    size = abs(float(amount))
    fitting = [factor for factor in sorted(units, reverse=True) if factor <= size] or [min(units)]
    if digits is None:
        return f"{float(amount) / fitting[0]:.4g} {units[fitting[0]]}"
    texts = [f"{_rounded_up(Fraction(amount) / Fraction(factor), digits)} {units[factor]}" for factor in fitting]
    return min((text for text in texts if amount_of(resource, text) == amount), key=lambda text: sum(map(str.isdigit, text)), default=texts[0])


def _rounded_up(value: Fraction, digits: int) -> str:
    """`value`, above zero, with `digits` digits, in plain decimal."""
    place = math.floor(math.log10(value)) + 1 - digits
    step = Fraction(10) ** place
    return f"{Decimal(math.ceil(value / step)).scaleb(place).normalize():f}"


def amount_of(resource: Resource, text: str) -> Fraction:
    """The exact amount that a text of `format_amount` means."""
    number, unit = text.split()
    return Fraction(Decimal(number)) * Fraction(_units(resource)[unit])
