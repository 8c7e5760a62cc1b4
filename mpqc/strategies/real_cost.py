"""Costs at real-valued widths, with gradients: what DQ and FracBits penalize. The allocator's own prices are exact and decide in the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mpqc.facts.prices import bias_bytes
from mpqc.values.budget import Resource
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable

if TYPE_CHECKING:
    from mpqc.training.session import Session

FLOAT_BITS = 32.0


class RealCost:
    """Sums over the groups of a network, for a vector of widths in the order of `names`; groups that stay float count 32 bits."""

    def __init__(self, table: SiteTable, names: Sequence[str], overhead_bytes: float = 0.0, unstored: Collection[str] = ()) -> None:
        """unstored: activation sites that take no memory."""
        self.table, self.names, self.overhead, self.unstored = table, list(names), overhead_bytes, unstored
        self.at = {name: index for index, name in enumerate(self.names)}
        self.weights, self.float_weights = self._elements(SiteKind.WEIGHT)
        self.activations, self.float_activations = self._elements(SiteKind.ACTIVATION)
        self.largest = self._largest()
        self.products = [item for node in table.nodes if node.macs and (item := self._product(node))]

    def amount(self, resource: Resource, bits: Tensor) -> Tensor | None:
        """What `bits` use of a resource, in its unit; None for resources without such a formula (latency, energy, live memory)."""
        if resource is Resource.SIZE:
            return self._weight_bits(bits) / 8 + self.overhead
        if resource is Resource.WEIGHT_BITS:
            return self._weight_bits(bits) / max(self.total(SiteKind.WEIGHT), 1)
        if resource is Resource.ACTIVATION_BITS:
            return self._activation_bits(bits) / max(self.total(SiteKind.ACTIVATION), 1)
        if resource is Resource.LARGEST_ACTIVATION:
            return (self.largest * bits).max() / 8
        return self._bit_operations(bits) if resource is Resource.BOPS else None

    def total(self, kind: SiteKind) -> int:
        """Elements of all sites of a kind, those that were pruned among them."""
        return sum(site.counted for site in self.table.sites if site.kind is kind)

    def _weight_bits(self, bits: Tensor) -> Tensor:
        return (self.weights * bits).sum() + self.float_weights

    def _activation_bits(self, bits: Tensor) -> Tensor:
        return (self.activations * bits).sum() + self.float_activations

    def _bit_operations(self, bits: Tensor) -> Tensor:
        """Sum of MACs x weight bits x activation bits: the interpolation of FracBits' four neighbouring products is exactly this product."""
        padded = torch.cat([bits, torch.full((1,), FLOAT_BITS, dtype=bits.dtype, device=bits.device)])
        macs = torch.tensor([macs for macs, _, _ in self.products], dtype=bits.dtype, device=bits.device)
        left = padded[torch.tensor([left for _, left, _ in self.products], dtype=torch.long, device=bits.device)]
        right = padded[torch.tensor([right for _, _, right in self.products], dtype=torch.long, device=bits.device)]
        return (macs * left * right).sum()

    def _elements(self, kind: SiteKind) -> tuple[Tensor, float]:
        counts, floats = torch.zeros(len(self.names)), 0.0
        for site in self.table.sites:
            if site.kind is kind and site.group_name in self.at:
                counts[self.at[site.group_name]] += site.elements
            elif site.kind is kind:
                floats += site.elements * FLOAT_BITS
        return counts, floats

    def _largest(self) -> Tensor:
        sizes = torch.zeros(len(self.names))
        for site in self.table.sites:
            if site.kind is SiteKind.ACTIVATION and site.group_name in self.at and site.name not in self.unstored:
                sizes[self.at[site.group_name]] = max(float(sizes[self.at[site.group_name]]), float(site.elements))
        return sizes

    def _product(self, node: OpNode) -> tuple[float, int, int] | None:
        sites = [self._index(name) for name in ((node.weight,) if node.weight else ()) + node.inputs]
        return (float(node.macs), sites[0], sites[1]) if len(sites) > 1 else None

    def _index(self, name: str) -> int:
        site: Site | None = self.table.by_name.get(name)
        return self.at.get(site.group_name, len(self.names)) if site else len(self.names)


def real_cost(session: Session, names: Sequence[str]) -> RealCost:
    """The costs of a session's network over the groups `names`."""
    return RealCost(session.table, names, bias_bytes(session.cost_model, session.table), getattr(session.cost_model, "joined", ()))


def near(session: Session, learned: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """Losses by which the allocator stays near learned widths (by group): elements x 4^(learned - b).

    Under a budget on the bits of all elements, learning that minimises sum S_i 4^(-b_i) ends where elements_i is proportional to S_i 4^(-b_i): this
    is the noise that the learned widths say each site would have at others, up to one factor for all.
    """
    from mpqc.strategies.common import widths_of

    rows, most = {}, max((site.elements for site in session.table.sites), default=1)
    for site in session.table.sites:
        if site.group_name in learned:
            center = learned[site.group_name]
            rows[site.name] = {bits: site.elements / most * 4.0 ** (center - bits) for bits in widths_of(session, site)}
    return rows
