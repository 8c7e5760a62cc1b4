"""How far bits go on a network: the least time that any choice of widths takes."""

from __future__ import annotations

from dataclasses import replace

from mpqc.allocator.model import Effort
from mpqc.allocator.pricing import Pricing
from mpqc.allocator.problem import Cost, Group, Problem
from mpqc.allocator.search import minimum
from mpqc.allocator.solution import round_up
from mpqc.allocator.solver import DETERMINISTIC_RATE
from mpqc.allocator.terms import merge, terms_of
from mpqc.errors import TargetError
from mpqc.facts.prices import Pricer
from mpqc.values.budget import Resource
from mpqc.values.site import SiteTable


def fastest_latency(table: SiteTable, model: Pricer, *, seconds: float = 2.0, seed: int = 0) -> float | None:
    """Predicted microseconds of the fastest widths that the target has, the best found in `seconds`; None without latency or such widths."""
    widths = {name: set.intersection(*(set(model.choices(site)) for site in sites)) for name, sites in table.groups.items()}
    pricing = Pricing(table, model, {name: tuple(sorted(common)) for name, common in widths.items()})
    try:
        latency, kernels = pricing.bound(Resource.LATENCY, None), pricing.kernels()
    except TargetError:
        return None
    assert isinstance(latency, Cost)
    groups = tuple(Group(name, bits, (0.0,) * len(bits)) for name, bits in pricing.candidates.items())
    problem = Problem(groups, (latency, kernels), ())
    terms = replace(terms_of(problem), loss=merge(latency.tables))
    found = minimum(terms, Effort(seconds, seconds * DETERMINISTIC_RATE, seed), problem.admits).choice
    return None if found is None else round_up(pricing.amount(Resource.LATENCY, latency.exact(found)))
