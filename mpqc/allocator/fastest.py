"""How far bits go on a network: the least time that any choice of widths takes, and the plan that takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mpqc.allocator.model import Effort
from mpqc.allocator.pricing import Pricing
from mpqc.allocator.problem import Cost, Group, Problem
from mpqc.allocator.search import minimum
from mpqc.allocator.solution import round_up
from mpqc.allocator.solver import DETERMINISTIC_RATE
from mpqc.allocator.terms import merge, terms_of
from mpqc.allocator.widest import widest
from mpqc.errors import PlanError, TargetError
from mpqc.facts.prices import Pricer
from mpqc.values.budget import Resource
from mpqc.values.plan import Choice, Plan, Proof
from mpqc.values.site import SiteTable


def fastest_latency(table: SiteTable, model: Pricer, *, seconds: float = 2.0, seed: int = 0) -> float | None:
    """Predicted microseconds of the fastest widths that the target has, the best found in `seconds`; None without latency or such widths."""
    try:
        race = _Race.of(table, model, 0)
    except TargetError:
        return None
    found = race.won(seconds, seed)
    return None if found is None else round_up(race.pricing.amount(Resource.LATENCY, race.latency.exact(found)))


def fastest_plan(table: SiteTable, model: Pricer, target: str, *, least: int = 0, seconds: float = 20.0, seed: int = 0) -> Plan:
    """The fastest plan for `target`, the best found in `seconds`; bits that cost no time are not taken away.

    least: bits that every site has at least. Raises TargetError where the target has no latency or, for a site, no such width; PlanError where
    widths have no kernel together.
    """
    race = _Race.of(table, model, least)
    found = race.won(seconds, seed)
    if found is None:
        raise PlanError("no plan is the fastest", where=target, why="some widths have no kernel together", hint="allow more widths")
    bits = {group.name: group.choices[at] for group, at in zip(race.groups, race.widened(found), strict=True)}
    reason = f"the fastest of at least {least} bits" if least else "the fastest"
    choices = tuple(Choice(site.name, site.kind, _number(bits[site.group_name]), reason) for site in table.sites)
    return Plan(target, choices, Proof("given"), strategy="fastest", pruned=table.pruned)


def _number(label: int | str | None) -> int | None:
    return label if isinstance(label, int) else None


@dataclass(frozen=True, eq=False)
class _Race:
    """Which choice of widths takes the least time."""

    pricing: Pricing
    groups: tuple[Group, ...]
    latency: Cost
    kernels: Cost
    """Forbids widths without a kernel"""

    @classmethod
    def of(cls, table: SiteTable, model: Pricer, least: int) -> _Race:
        """Among widths of at least `least` bits. Raises TargetError where the target has no latency, or for a site no such width."""
        common = {name: set.intersection(*(set(model.choices(site)) for site in sites)) for name, sites in table.groups.items()}
        widths = {name: tuple(sorted(bits for bits in known if bits >= least)) for name, known in common.items()}
        for name, known in widths.items():
            if not known:
                raise TargetError(f"the target has no width of {least} bits or more", where=name, hint="allow fewer bits")
        pricing = Pricing(table, model, widths)
        latency, kernels = pricing.bound(Resource.LATENCY, None), pricing.kernels()
        assert isinstance(latency, Cost)
        groups = tuple(Group(name, bits, (0.0,) * len(bits)) for name, bits in pricing.candidates.items())
        return cls(pricing, groups, latency, kernels)

    def won(self, seconds: float, seed: int) -> tuple[int, ...] | None:
        """The choices of the least time, the best found in `seconds`; None where there are none."""
        problem = Problem(self.groups, (self.latency, self.kernels), ())
        terms = replace(terms_of(problem), loss=merge(self.latency.tables))
        found = minimum(terms, Effort(seconds, seconds * DETERMINISTIC_RATE, seed), problem.admits).choice
        return None if found is None else tuple(found)

    def widened(self, found: tuple[int, ...]) -> tuple[int, ...]:
        """`found` with the widest choices that take no more time."""
        limited = replace(self.latency, limit=self.latency.exact(found))
        return widest(Problem(self.groups, (limited, self.kernels), ()), found)
