"""mpqc with one more resource, wear: a member and a record, nothing else. As a program it is `mpqc` with that resource; without arguments it
prints what Python code then sees."""

from __future__ import annotations

import sys

import mpqc
from mpqc.facts.prices import Pricer, SiteSum
from mpqc.facts.resources import RESOURCES, Flag, Need, ResourceFacts
from mpqc.values.budget import Resource
from mpqc.values.site import Site, SiteKind


def wear(model: Pricer, site: Site, bits: int) -> float:
    """Three a bit of a weight."""
    return 3.0 * site.elements * bits


NEED = Need("wear table", "wear", lambda chip: getattr(chip, "name", "") != "cortex-a72")
RECORD = ResourceFacts(
    Flag("rubbing", "Rubbing", "12kWo", "how much wears off"), {"Wo": 1, "kWo": 1000}, SiteSum(SiteKind.WEIGHT, wear), "worn off", need=NEED
)


def add() -> None:
    """Adds the member as the source would have it, and its record."""
    member = str.__new__(Resource, "wear")
    member._name_, member._value_ = "WEAR", "wear"
    Resource._member_names_.append("WEAR")
    Resource._member_map_["WEAR"] = Resource._value2member_map_["wear"] = member
    RESOURCES[member] = RECORD  # type: ignore[index]


if __name__ == "__main__":
    add()
    from mpqc.cli.app import run

    if sys.argv[1:]:
        run(sys.argv[1:])
    bound = mpqc.Rubbing("2kWo")
    print(bound, *bound.budgets, "Rubbing" in mpqc.__all__)
