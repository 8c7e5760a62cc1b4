"""Every site of a finished plan: what was seen in it, and what each of its widths would lose, take and store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpqc.errors import TargetError
from mpqc.report.model import Alternative, SiteRow
from mpqc.values.budget import Resource
from mpqc.values.plan import Plan
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable
from mpqc.values.spread import Spread

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel


@dataclass(frozen=True)
class Seen:
    """What was seen of the sites before bits were chosen."""

    spreads: Mapping[str, Spread] = field(default_factory=dict)
    losses: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Sensitivities; empty where none were measured"""
    unit: str = ""
    """Of the losses, in words"""


def site_rows(table: SiteTable, plan: Plan, cost_model: CostModel, seen: Seen) -> tuple[SiteRow, ...]:
    """One row a site, in the order of the table."""
    pricing = _Pricing(table, plan, cost_model, seen)
    reasons = {choice.site: choice.reason for choice in plan.choices}
    return tuple(
        SiteRow(
            name=site.name,
            kind=site.kind,
            shape=site.shape,
            bits=plan.bits(site.name),
            group=site.group_name,
            reason=reasons.get(site.name, ""),
            alternatives=tuple(pricing.alternatives(site)),
            spread=seen.spreads.get(site.name),
        )
        for site in table.sites
    )


class _Pricing:
    """Prices single changes of one plan."""

    def __init__(self, table: SiteTable, plan: Plan, cost_model: CostModel, seen: Seen) -> None:
        self.table, self.plan, self.cost_model, self.seen = table, plan, cost_model, seen
        self.around: dict[str, list[OpNode]] = {}
        for node in table.nodes:
            for group in {table.by_name[name].group_name for name in _sites_of(node) if name in table.by_name}:
                self.around.setdefault(group, []).append(node)

    def alternatives(self, site: Site) -> Iterator[Alternative]:
        """`site`, and all that share its qparams, at every width that was scored or that the target has."""
        owned = set(self.cost_model.choices(site))
        scored = self.seen.losses.get(site.name, {})
        for bits in sorted(owned | set(scored)):
            priced = (self._microseconds(site, bits), self._bytes(site, bits)) if bits in owned else (None, None)
            yield Alternative(bits, self._loss(site, bits), *priced)

    def _loss(self, site: Site, bits: int) -> float | None:
        rows = [self.seen.losses.get(member.name, {}) for member in self.table.groups[site.group_name]]
        return sum(row[bits] for row in rows) if all(bits in row for row in rows) else None

    def _bytes(self, site: Site, bits: int) -> int:
        return self.cost_model.weight_bytes(site, bits) if site.kind is SiteKind.WEIGHT else self.cost_model.activation_bytes(site, bits)

    def _microseconds(self, site: Site, bits: int) -> float | None:
        if not self.cost_model.can_bound(Resource.LATENCY):
            return None
        try:
            times = [self._node(node, site.group_name, bits) for node in self.around.get(site.group_name, [])]
        except TargetError:  # no kernel at this width
            return None
        known = [time for time in times if time is not None]
        return sum(known) if len(known) == len(times) else None

    def _node(self, node: OpNode, group: str, bits: int) -> float | None:
        """Time of `node` with `group` at `bits`; None where a tensor that it reads stays float."""
        inputs = tuple(self._bits(name, group, bits) for name in node.inputs if name)
        weight = self._bits(node.weight, group, bits) if node.weight else None
        if None in inputs or (node.weight and weight is None):
            return None
        output = self._bits(node.output, group, bits) or 8
        return self.cost_model.microseconds(node, weight, tuple(width for width in inputs if width is not None), output)

    def _bits(self, name: str, group: str, bits: int) -> int | None:
        site = self.table.by_name.get(name)
        return bits if site is not None and site.group_name == group else self.plan.bits(name)


def _sites_of(node: OpNode) -> tuple[str, ...]:
    return tuple(name for name in (node.weight, *node.inputs, node.output) if name)
