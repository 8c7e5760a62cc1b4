"""Costs of a network as problem terms: what each group's bits cost in each resource."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import ParamSpec, assert_never

import numpy as np

from mpqc.allocator.problem import Cost, Peak, Table, written
from mpqc.errors import TargetError
from mpqc.facts.amounts import amount_of, format_amount
from mpqc.facts.prices import FLOAT_BITS, Largest, NodeSum, Pricer, SiteMean, SitePrice, SiteSum
from mpqc.facts.resources import RESOURCES
from mpqc.values.budget import Resource
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable

P = ParamSpec("P")
NodeCost = Callable[[OpNode, int | None, tuple[int, ...], int], float]


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

        facts = RESOURCES[resource]
        scaled = None if limit is None else written(limit) * self._steps(resource)
        if isinstance(facts.price, Largest):
            price = _counted(facts.price.price, facts.steps)
            moments = [self._moment(names, price) for names in facts.price.moments(self.model, self.table)]
            ends = self._ends(price if facts.price.beside else _nothing)
            return Peak(resource.value, (*moments, *ends), scaled, show, facts.flag.option)
        tables, constant = self._terms(facts.price, facts.steps)
        return Cost(resource.value, tuple(tables), scaled, constant, show, facts.flag.option)

    def amount(self, resource: Resource, total: Fraction | float) -> Fraction:
        """The problem's sum in the resource's unit: average bits are summed over elements, times and energies in whole parts of a unit."""
        return written(total) / self._steps(resource)

    def kernels(self) -> Cost:
        """A cost of nothing that forbids widths for which the target has no kernel. Raises TargetError for a node without any."""
        has_kernel = getattr(self.model, "has_kernel", None)
        if has_kernel is None:
            return Cost("kernels", ())
        tables = [self._kernel_table(node) for node in self.table.nodes if not self._is_float(node)]
        return Cost("kernels", tuple(table for table in tables if np.isinf(table.values).any()))

    def _terms(self, price: SiteSum | SiteMean | NodeSum, steps: int) -> tuple[list[Table], float]:
        if isinstance(price, SiteMean):
            return self._per_site(price.kind, _bits), 0.0
        constant = _in_steps(price.constant(self.model, self.table), steps)
        if isinstance(price, SiteSum):
            return self._per_site(price.kind, _counted(price.price, steps)), constant
        if isinstance(price, NodeSum):
            nodes = [node for node in self.table.nodes if (node.macs if price.products else not self._is_float(node))]
            cost = partial(_counted(price.price, steps), self.model)
            return [part for node in nodes for part in split(self._node_table(node, cost, output=price.output))], constant
        assert_never(price)

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
        return Table((self.position[site.group_name],), np.array([float(price(self.model, site, width or FLOAT_BITS)) for width in bits]))

    def _moment(self, names: Iterable[str], price: SitePrice) -> tuple[Table, ...]:
        sites = (self.table.by_name[name] for name in names if name in self.table.by_name)
        return tuple(self._site_table(site, price) for site in sites)

    def _ends(self, price: SitePrice) -> Iterator[tuple[Table, ...]]:
        """A moment for each site that leaves the network as codes: `price` of them, and their float32 copy."""
        ends: Mapping[str, int] = getattr(self.model, "float_ends", lambda table: {})(self.table)
        for name, size in ends.items():
            site = self.table.by_name[name]
            bits = self.candidates[site.group_name]
            values = [price(self.model, site, FLOAT_BITS if width is None else width) + (0 if width is None else size) for width in bits]
            yield (Table((self.position[site.group_name],), np.array(values, dtype=float)),)

    def _kernel_table(self, node: OpNode) -> Table:
        table = self._node_table(node, lambda node, weight, inputs, output: 0.0)
        if np.isinf(table.values).all():
            hint = "keep its tensors float, or allow it other bits"
            raise TargetError(f"the target has no kernel for {node.op_type} at any allowed bits", where=node.name, hint=hint)
        return table

    def _node_table(self, node: OpNode, price: NodeCost, *, output: bool = False) -> Table:
        """`price` of `node` over the bits of the groups around it: weight, inputs, maybe output; +inf where there is no kernel."""
        around = (node.weight, *node.inputs, node.output) if output else (node.weight, *node.inputs)
        names = [name for name in around if name in self.table.by_name]
        groups = list(dict.fromkeys(self.table.by_name[name].group_name for name in names if name))
        values = np.empty([len(self.candidates[group]) for group in groups])
        for cell in itertools.product(*(range(size) for size in values.shape)):
            bits = {group: self.candidates[group][at] for group, at in zip(groups, cell, strict=True)}
            values[cell] = self._price(node, bits, price)
        return Table(tuple(self.position[group] for group in groups), values)

    def _price(self, node: OpNode, bits: Mapping[str, int | None], price: NodeCost) -> float:
        weight = self._bits(node.weight, bits) if node.weight else None
        inputs = tuple(self._bits(name, bits) for name in node.inputs if name in self.table.by_name)
        has_kernel = getattr(self.model, "has_kernel", None)
        if has_kernel is not None and not self._is_float(node) and not has_kernel(node, weight, inputs):
            return math.inf
        return float(price(node, weight, inputs, self._bits(node.output, bits)))

    def floats(self) -> tuple[str, ...]:
        """Names of the nodes that could run on integers and do not, as a tensor around them stays float."""
        return tuple(node.name for node in self.table.nodes if self._is_float(node))

    def form(self, node: OpNode, bits: Mapping[str, int | None]) -> str:
        """Name of the form in which the target computes `node` where groups have these bits; empty where it is the plain one, or is not said."""
        form = getattr(self.model, "form", None)
        if form is None or node.weight is None or self._is_float(node):
            return ""
        inputs = tuple(self._bits(name, bits) for name in node.inputs if name in self.table.by_name)
        return str(form(node, self._bits(node.weight, bits), inputs))

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
        facts = RESOURCES[resource]
        return self._elements(facts.price.kind) if isinstance(facts.price, SiteMean) else facts.steps

    def _elements(self, kind: SiteKind) -> int:
        return max(sum(site.counted for site in self._sites(kind)), 1)


def _nothing(model: Pricer, site: Site, bits: int) -> float:
    return 0.0


def _bits(model: Pricer, site: Site, bits: int) -> float:
    return site.elements * bits


def _counted(price: Callable[P, float], steps: int) -> Callable[P, float]:
    """`price` in whole steps."""

    def counted(*arguments: P.args, **named: P.kwargs) -> float:
        return _in_steps(price(*arguments, **named), steps)

    return counted


def _in_steps(amount: float, steps: int) -> float:
    """An amount in the whole steps of which a unit has `steps`; infinity stays. With one step a unit prices are whole already."""
    return float(amount) if steps == 1 else float(np.rint(amount * steps))


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
