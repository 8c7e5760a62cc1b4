"""The classes by which Python code asks for budgets, one a flag: `Latency("20ms")`, `AverageBits("4/4")`.

They are made from the table of resources; `mpqc` has them under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mpqc.errors import UsageError
from mpqc.facts.amounts import parse_flag
from mpqc.facts.resources import Flag, flags
from mpqc.values.budget import Budget


@dataclass(frozen=True)
class Bound:
    """An upper bound, as text with its unit. Raises UsageError where the unit is missing or unknown."""

    amount: str
    flag: ClassVar[Flag]

    def __post_init__(self) -> None:
        if not isinstance(self.amount, str):
            name, example = type(self).__name__, self.flag.example
            raise UsageError(f"{self.amount!r} has no unit", where=name, hint=f"write text with a unit, as in {name}({example!r})")
        _ = self.budgets

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """What the allocator sees."""
        return parse_flag(self.flag, self.amount)


def bound_of(flag: Flag) -> type[Bound]:
    """The class by which `flag` is asked for."""
    about = f"{flag.help[0].upper()}{flag.help[1:]}: `{flag.bound}({flag.example!r})`."
    return type(flag.bound, (Bound,), {"flag": flag, "__doc__": about, "__module__": __name__})


def __getattr__(name: str) -> type[Bound]:
    flag = next((flag for flag in flags() if flag.bound == name), None)
    if flag is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = made = bound_of(flag)
    return made
