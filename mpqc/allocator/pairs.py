"""Losses of two sites together: what quantizing both costs beyond the sum of each alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mpqc.allocator.problem import Label, Table
from mpqc.errors import PlanError
from mpqc.values.sensitivities import Pair
from mpqc.values.site import SiteTable


def interactions_of(pairs: Sequence[Pair], table: SiteTable, candidates: Mapping[str, tuple[int | None, ...]]) -> tuple[Table, ...]:
    """The pairs as problem terms over groups; sites of one group give a term of that group alone.

    Raises PlanError for an unknown site and for a value that is NaN or infinite, by name.
    """
    position = {name: index for index, name in enumerate(candidates)}
    return tuple(_table(pair, table, candidates, position) for pair in pairs)


def _table(pair: Pair, table: SiteTable, candidates: Mapping[str, tuple[int | None, ...]], position: Mapping[str, int]) -> Table:
    unknown = [name for name in (pair.first, pair.second) if name not in table.by_name]
    if unknown:
        raise PlanError("a pair names a site that the network does not have", where=unknown[0])
    if not all(math.isfinite(value) for value in pair.values.values()):
        raise PlanError("the loss of a pair is NaN or infinite", where=f"{pair.first}, {pair.second}", hint="check the data for NaN or overflow")
    one, other = (table.by_name[name].group_name for name in (pair.first, pair.second))
    if one == other:
        return Table((position[one],), np.array([_value(pair, bits, bits) for bits in candidates[one]]))
    values = [[_value(pair, a, b) for b in candidates[other]] for a in candidates[one]]
    return Table((position[one], position[other]), np.array(values))


def _value(pair: Pair, first: Label, second: Label) -> float:
    return pair.values.get((first, second), 0.0) if isinstance(first, int) and isinstance(second, int) else 0.0


def pair_loss(pairs: Sequence[Pair], bits: Mapping[str, int | None]) -> float:
    """What `pairs` add to the loss of a plan (site -> bits)."""
    return sum(_value(pair, bits.get(pair.first), bits.get(pair.second)) for pair in pairs)
