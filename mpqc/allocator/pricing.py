"""Costs of a network as problem terms: what each group's bits cost in each resource."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Protocol

import numpy as np

from mpqc.allocator.problem import Cost, Peak, Table, written
from mpqc.errors import TargetError
from mpqc.values.budget import Resource, amount_of, format_amount
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable

FLOAT_BITS = 32
SitePrice = Callable[[Site, int], float]
NodePrice = Callable[[OpNode, int | None, tuple[int, ...], int], float]
BIAS_BYTES = 4


class Pricer(Protocol):
    """What the allocator asks of a cost model. Bits are those of `Site` choices; a float tensor counts 32.

    Optional: `overhead_bytes(site)` (scale and bias of a weight), `has_kernel(node, weight_bits, input_bits)`,
    `nanojoules(node, weight_bits, input_bits)`, `require(resource)` (raises where the target does not know it).
    """

    def choices(self, site: Site) -> tuple[int, ...]:
        """Bits that the target allows for `site`."""

    def microseconds(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...], output_bits: int) -> float:
        """Time of one run of `node`."""

    def fixed_microseconds(self) -> float:
        """Time of a run that no choice changes."""

    def weight_bytes(self, site: Site, bits: int) -> int:
        """Bytes of a weight as stored."""

    def activation_bytes(self, site: Site, bits: int) -> int:
        """Bytes of an activation as stored."""

    def bit_operations(self, node: OpNode, weight_bits: int | None, input_bits: tuple[int, ...]) -> float:
        """MACs x weight bits x activation bits of `node`."""


@dataclass(frozen=True, eq=False)
class Pricing:
    """Prices of the groups of `table`: `candidates` gives each group's bits (None alone: it stays float)."""

    table: SiteTable
    model: Pricer
    candidates: Mapping[str, tuple[int | None, ...]]
    """group name -> bits that it may take, in the order of the problem's groups"""

    @cached_property
    def position(self) -> Mapping[str, int]:
        """Group name -> its index in the problem."""
        return {name: index for index, name in enumerate(self.candidates)}

    def bound(self, resource: Resource, limit: float | None) -> Cost | Peak:
        """The Cost or Peak of `resource`; averages are counted as sums (see `amount`)."""
        require = getattr(self.model, "require", None)
        if require is not None:
            require(resource)

        def show(total: float | Fraction, other: Fraction | None = None) -> str:
            return enough(resource, self.amount(resource, total), None if other is None else self.amount(resource, other))

        if resource is Resource.PEAK_MEMORY:
            return Peak(resource.value, tuple(self._moment(names) for names in self.table.live), limit, show)
        if resource is Resource.LARGEST_ACTIVATION:
            return Peak(resource.value, tuple(self._moment([site.name]) for site in self._sites(SiteKind.ACTIVATION)), limit, show)
        tables, constant = self._terms(resource)
        scaled = None if limit is None else written(limit) * self._steps(resource)
        return Cost(resource.value, tuple(tables), scaled, constant, show)

    def amount(self, resource: Resource, total: Fraction | float) -> Fraction:
        """The problem's sum in the resource's unit: average bits are summed over elements, times and energies in whole parts of STEPS."""
        return written(total) / self._steps(resource)

    def kernels(self) -> Cost:
        """A cost of nothing that forbids widths for which the target has no kernel. Raises TargetError for a node without any."""
        has_kernel = getattr(self.model, "has_kernel", None)
        if has_kernel is None:
            return Cost("kernels", ())
        tables = [self._kernel_table(node) for node in self.table.nodes if not self._is_float(node)]
        return Cost("kernels", tuple(table for table in tables if np.isinf(table.values).any()))

    def _terms(self, resource: Resource) -> tuple[list[Table], float]:
        if resource in _KINDS:
            return self._per_site(_KINDS[resource], lambda site, bits: site.elements * bits), 0.0
        if resource is Resource.SIZE:
            return self._per_site(SiteKind.WEIGHT, self._weight_bytes), self._bias_bytes()
        if resource is Resource.LATENCY:
            tables = [self._node_table(node, self._picoseconds, output=True) for node in self.table.nodes if not self._is_float(node)]
            return [part for table in tables for part in split(table)], _steps(self.model.fixed_microseconds())
        price = self._bit_operations if resource is Resource.BOPS else self._femtojoules
        nodes = [node for node in self.table.nodes if node.macs]
        return [part for node in nodes for part in split(self._node_table(node, price))], 0.0

    def _per_site(self, kind: SiteKind, price: SitePrice) -> list[Table]:
        tables: list[Table] = []
        done: set[str] = set()
        for site in self._sites(kind):
            if site.name not in done:
                done.add(site.name)
                tables.append(self._site_table(site, price))
        return tables

    def _site_table(self, site: Site, price: SitePrice) -> Table:
        bits = self.candidates[site.group_name]
        return Table((self.position[site.group_name],), np.array([float(price(site, width or FLOAT_BITS)) for width in bits]))

    def _moment(self, names: Iterable[str]) -> tuple[Table, ...]:
        sites = (self.table.by_name[name] for name in names if name in self.table.by_name)
        return tuple(self._site_table(site, self._activation_bytes) for site in sites)

    def _weight_bytes(self, site: Site, bits: int) -> int:
        return site.elements * FLOAT_BITS // 8 if bits == FLOAT_BITS else self.model.weight_bytes(site, bits)

    def _activation_bytes(self, site: Site, bits: int) -> int:
        return site.elements * FLOAT_BITS // 8 if bits == FLOAT_BITS else self.model.activation_bytes(site, bits)

    def _bias_bytes(self) -> float:
        overhead = getattr(self.model, "overhead_bytes", None)
        if overhead is not None:
            return float(sum(overhead(site) for site in self._sites(SiteKind.WEIGHT)))
        return float(sum(node.bias_elements * BIAS_BYTES for node in self.table.nodes))

    def _picoseconds(self, node: OpNode, weight: int | None, inputs: tuple[int, ...], output: int) -> float:
        return _steps(self.model.microseconds(node, weight, inputs, output))

    def _bit_operations(self, node: OpNode, weight: int | None, inputs: tuple[int, ...], output: int) -> float:
        return self.model.bit_operations(node, weight, inputs)

    def _femtojoules(self, node: OpNode, weight: int | None, inputs: tuple[int, ...], output: int) -> float:
        nanojoules = getattr(self.model, "nanojoules", None)
        if nanojoules is None:
            raise TargetError("energy cannot be bounded", why="the cost model has no energy table")
        return _steps(nanojoules(node, weight, inputs))

    def _kernel_table(self, node: OpNode) -> Table:
        table = self._node_table(node, lambda node, weight, inputs, output: 0.0)
        if np.isinf(table.values).all():
            hint = "keep its tensors float, or allow it other bits"
            raise TargetError(f"the target has no kernel for {node.op_type} at any allowed bits", where=node.name, hint=hint)
        return table

    def _node_table(self, node: OpNode, price: NodePrice, *, output: bool = False) -> Table:
        """`price` of `node` over the bits of the groups around it: weight, inputs, maybe output; +inf where there is no kernel."""
        around = (node.weight, *node.inputs, node.output) if output else (node.weight, *node.inputs)
        names = [name for name in around if name in self.table.by_name]
        groups = list(dict.fromkeys(self.table.by_name[name].group_name for name in names if name))
        values = np.empty([len(self.candidates[group]) for group in groups])
        for cell in itertools.product(*(range(size) for size in values.shape)):
            bits = {group: self.candidates[group][at] for group, at in zip(groups, cell, strict=True)}
            values[cell] = self._price(node, bits, price)
        return Table(tuple(self.position[group] for group in groups), values)

    def _price(self, node: OpNode, bits: Mapping[str, int | None], price: NodePrice) -> float:
        weight = self._bits(node.weight, bits) if node.weight else None
        inputs = tuple(self._bits(name, bits) for name in node.inputs if name in self.table.by_name)
        has_kernel = getattr(self.model, "has_kernel", None)
        if has_kernel is not None and not self._is_float(node) and not has_kernel(node, weight, inputs):
            return math.inf
        return float(price(node, weight, inputs, self._bits(node.output, bits)))

    def _bits(self, name: str, bits: Mapping[str, int | None]) -> int:
        site = self.table.by_name.get(name)
        return FLOAT_BITS if site is None else bits.get(site.group_name) or FLOAT_BITS

    def _is_float(self, node: OpNode) -> bool:
        """Whether a tensor that `node` multiplies or reads stays float, so that it runs in float and has no integer price."""
        names = [name for name in (node.weight, *node.inputs) if name and name in self.table.by_name]
        return any(self.candidates[self.table.by_name[name].group_name] == (None,) for name in names)

    def _sites(self, kind: SiteKind) -> Sequence[Site]:
        return [site for site in self.table.sites if site.kind is kind]

    def _steps(self, resource: Resource) -> int:
        """What the problem counts a unit of the resource as: whole numbers, so that sums are exact and a limit is met to the last one."""
        return self._elements(resource) if resource in _KINDS else STEPS if resource in _FINE else 1

    def _elements(self, resource: Resource) -> int:
        return max(sum(site.counted for site in self._sites(_KINDS[resource])), 1)


STEPS = 10**6
"""Parts of a microsecond and of a nanojoule that prices are rounded to"""
_FINE = {Resource.LATENCY, Resource.ENERGY}
_KINDS = {Resource.WEIGHT_BITS: SiteKind.WEIGHT, Resource.ACTIVATION_BITS: SiteKind.ACTIVATION}


def _steps(amount: float) -> float:
    """Microseconds or nanojoules in whole parts of STEPS; infinity stays."""
    return float(np.rint(amount * STEPS))


def enough(resource: Resource, amount: Fraction | float, limit: Fraction | None = None) -> str:
    """`amount` in words, four digits, rounded up in the last: typed back as a budget, it is not below `amount`.

    Beside a `limit` that it exceeds, with digits enough to see by how much; the limit itself (an amount equal to it) in full.
    """
    exact = written(amount)
    texts = [format_amount(resource, exact, digits) for digits in range(4, 18)] if exact > 0 else []
    room = None if limit is None else abs(exact - limit) / 10
    return next((text for text in texts if room is None or amount_of(resource, text) - exact <= room), format_amount(resource, exact))


def split(table: Table) -> list[Table]:
    """`table` as terms of fewer groups where it is a sum of them (exactly), so that the problem has fewer edges.

    An axis along which nothing changes is dropped; an axis whose steps are the same everywhere becomes a term of its own.
    """
    values = table.values
    if values.ndim < 2 or not np.isfinite(values).all():
        return [table]
    for axis in sorted(range(values.ndim), key=lambda axis: bool(np.ptp(values, axis=axis).any())):
        rest = np.take(values, [0], axis=axis)
        steps = values - rest
        corner = steps[tuple(slice(None) if at == axis else slice(0, 1) for at in range(values.ndim))]
        if (steps == corner).all() and (rest + corner == values).all():
            groups = tuple(group for at, group in enumerate(table.groups) if at != axis)
            alone = Table((table.groups[axis],), corner.reshape(-1))
            others = split(Table(groups, rest.reshape([size for at, size in enumerate(values.shape) if at != axis])))
            return others if not corner.any() else [*others, alone]
    return [table]
