"""Amounts of resources as text: read exactly, with units that are required, and printed."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction

from mpqc.errors import UsageError
from mpqc.facts.resources import AVERAGE_BITS, RESOURCES, Flag, resources_of
from mpqc.values.budget import Budget, Resource

_NUMBER = r"[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?"


def parse_budget(resource: Resource, text: str) -> Budget:
    """A budget from text such as "20ms" or "1.5MB" (1 kB = 1024 bytes). Raises UsageError without a unit or a positive number."""
    return Budget(resource, float(parse_exactly(resource, text)))


def parse_exactly(resource: Resource, text: str) -> Fraction:
    """The amount that `text` says, without rounding. Raises UsageError without a unit or a positive number that a float can hold."""
    where = RESOURCES[resource].flag.option
    match = re.fullmatch(rf"\s*({_NUMBER})\s*([A-Za-z]*)\s*", text)
    if not match:
        raise UsageError(f"{text!r} is not an amount", where=where, hint=f"write for example {_example(resource)}")
    factor = _factor(resource, text, match[2])
    if not 0 < float(match[1]) * factor < math.inf:
        raise UsageError(f"{text!r} is not a number above zero", where=where)
    return Fraction(match[1]) * factor


def _factor(resource: Resource, text: str, unit: str) -> int:
    facts = RESOURCES[resource]
    if unit not in facts.units:
        fault = f"{text!r} has the unknown unit {unit!r}" if unit else f"{text!r} has no unit"
        hint = f"use one of {', '.join(filter(None, facts.units))}, for example {_example(resource)}"
        raise UsageError(fault, where=facts.flag.option, hint=hint)
    return facts.units[unit]


def _example(resource: Resource) -> str:
    flag = RESOURCES[resource].flag
    return flag.example.split("/")[resources_of(flag).index(resource)]


def parse_flag(flag: Flag, text: str) -> tuple[Budget, ...]:
    """What `flag` with `text` bounds: one amount, or one for each of its resources with slashes between, where "-" leaves one free.

    Raises UsageError where an amount is wrong, missing, or none is given.
    """
    bounded, sides = resources_of(flag), [side.strip() for side in text.split("/")]
    if len(bounded) == 1:
        return (parse_budget(bounded[0], text),)
    if len(sides) != len(bounded):
        hint = f"write for example {flag.example}; - leaves a side free"
        raise UsageError(f"{text!r} is not {'/'.join(bounded).upper()}", where=flag.option, hint=hint)
    if set(sides) == {"-"}:
        raise UsageError(f"{text!r} bounds nothing", where=flag.option, hint="give at least one side a number")
    return tuple(parse_budget(resource, side) for resource, side in zip(bounded, sides, strict=True) if side != "-")


def parse_average_bits(text: str) -> tuple[Budget, ...]:
    """Budgets from "W/A" average bits such as "4/4"; "-" leaves one side free: "3/-"."""
    return parse_flag(AVERAGE_BITS, text)


def format_amount(resource: Resource, amount: float | Fraction, digits: int | None = None) -> str:
    """`amount` of `resource` in the largest unit that keeps it at or above 1.

    Four digits, rounded to the nearest; with `digits`, that many, rounded up, in the unit that needs the fewest where they do not round.
    """
    units = {factor: unit for unit, factor in reversed(list(RESOURCES[resource].units.items()))}  # the first spelling of a factor wins
    size = abs(float(amount))
    fitting = [factor for factor in sorted(units, reverse=True) if factor <= size] or [min(units)]
    if digits is None:
        return f"{float(amount) / fitting[0]:.4g} {units[fitting[0]]}"
    texts = [f"{_rounded_up(Fraction(amount) / factor, digits)} {units[factor]}" for factor in fitting]
    return min((text for text in texts if amount_of(resource, text) == amount), key=lambda text: sum(map(str.isdigit, text)), default=texts[0])


def _rounded_up(value: Fraction, digits: int) -> str:
    """`value`, above zero, with `digits` digits, in plain decimal."""
    place = math.floor(math.log10(value)) + 1 - digits
    step = Fraction(10) ** place
    return f"{Decimal(math.ceil(value / step)).scaleb(place).normalize():f}"


def amount_of(resource: Resource, text: str) -> Fraction:
    """The exact amount that a text of `format_amount` means."""
    number, unit = text.split()
    return Fraction(Decimal(number)) * RESOURCES[resource].units[unit]


def format_budget(budget: Budget) -> str:
    """A budget as reports have it, with all digits of its limit: `size <= 1.5 MB`."""
    return f"{budget.resource.value} <= {format_amount(budget.resource, Fraction(Decimal(repr(budget.limit))), 17)}"
