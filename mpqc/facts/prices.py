"""The forms in which a resource has a price: what is summed over which sites or nodes, said without a solver and without a target.

The allocator makes its tables from these; a cost model (`Pricer`) says what one site or node costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mpqc.errors import TargetError
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable

FLOAT_BITS = 32
BIAS_BYTES = 4


class Pricer(Protocol):
    """What the allocator asks of a cost model. Bits are those of `Site` choices; a float tensor counts 32.

    Optional: `overhead_bytes(site)` (scale and bias of a weight), `beside_bytes(table)` (constants of kernels without weights),
    `float_ends(table)` (bytes of the float32 copies of sites that leave the network, by site), `has_kernel(node, weight_bits, input_bits)`,
    `nanojoules(node, weight_bits, input_bits)`, `require(resource)` (raises where the target does not know it),
    `form(node, weight_bits, input_bits)` (name of the special form that a convolution gets; empty for none), `long_choices(site)` (bits beyond
    those of `choices` that the user may ask for).
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


SitePrice = Callable[[Pricer, Site, int], float]
"""What a site costs at some bits"""
NodePrice = Callable[[Pricer, OpNode, int | None, tuple[int, ...], int], float]
"""What a node costs at the bits of its weight, its inputs and its output"""
Constant = Callable[[Pricer, SiteTable], float]
"""What no choice changes"""


def nothing(model: Pricer, table: SiteTable) -> float:
    """No constant part."""
    return 0.0


@dataclass(frozen=True)
class SiteSum:
    """Summed over the sites of a kind."""

    kind: SiteKind
    price: SitePrice
    constant: Constant = nothing


@dataclass(frozen=True)
class SiteMean:
    """The mean bits of the sites of a kind, each weighted by its elements; a pruned element counts 0 bits."""

    kind: SiteKind


@dataclass(frozen=True)
class NodeSum:
    """Summed over nodes: those that run on integers or, `products`, all that multiply and accumulate, float ones at 32 bits."""

    price: NodePrice
    products: bool
    output: bool = False
    """Whether the bits of the output change the price"""
    constant: Constant = nothing


@dataclass(frozen=True)
class Largest:
    """The largest of several sums: `moments` names the sites that count together. Results of the network in float32 count too (`float_ends`)."""

    price: SitePrice
    moments: Callable[[Pricer, SiteTable], Iterable[Sequence[str]]]
    beside: bool
    """Whether a result in float32 is there together with its codes, or counts by itself"""


Price = SiteSum | SiteMean | NodeSum | Largest


def weight_bytes(model: Pricer, site: Site, bits: int) -> float:
    """Bytes of a weight as stored, float32 where it stays float."""
    return site.elements * FLOAT_BITS // 8 if bits == FLOAT_BITS else model.weight_bytes(site, bits)


def activation_bytes(model: Pricer, site: Site, bits: int) -> float:
    """Bytes of an activation as stored, float32 where it stays float."""
    return site.elements * FLOAT_BITS // 8 if bits == FLOAT_BITS else model.activation_bytes(site, bits)


def bias_bytes(model: Pricer, table: SiteTable) -> float:
    """Bytes of scales, biases and the constants of kernels without weights, whatever the bits."""
    overhead = getattr(model, "overhead_bytes", None)
    if overhead is not None:
        beside = getattr(model, "beside_bytes", lambda table: 0)
        return float(sum(overhead(site) for site in table.sites if site.kind is SiteKind.WEIGHT) + beside(table))
    return float(sum(node.bias_elements * BIAS_BYTES for node in table.nodes))


def microseconds(model: Pricer, node: OpNode, weight: int | None, inputs: tuple[int, ...], output: int) -> float:
    """Time of one run of `node`."""
    return model.microseconds(node, weight, inputs, output)


def fixed_microseconds(model: Pricer, table: SiteTable) -> float:
    """Time of a run that no choice changes."""
    return float(model.fixed_microseconds())


def bit_operations(model: Pricer, node: OpNode, weight: int | None, inputs: tuple[int, ...], output: int) -> float:
    """MACs x weight bits x activation bits."""
    return model.bit_operations(node, weight, inputs)


def nanojoules(model: Pricer, node: OpNode, weight: int | None, inputs: tuple[int, ...], output: int) -> float:
    """Energy of one run of `node`. Raises TargetError where the cost model has none."""
    price = getattr(model, "nanojoules", None)
    if price is None:
        raise TargetError("energy cannot be bounded", why="the cost model has no energy table")
    return float(price(node, weight, inputs))


def live(model: Pricer, table: SiteTable) -> Iterable[Sequence[str]]:
    """The activations that are in memory together, step by step. While a convolution that adds at its end runs, the sum is written."""
    joined: Mapping[str, str] = getattr(model, "joined", {})
    return [tuple(dict.fromkeys((*names, *(joined[name] for name in names if name in joined)))) for names in table.live]


def each_activation(model: Pricer, table: SiteTable) -> Iterable[Sequence[str]]:
    """Every activation by itself."""
    return [(site.name,) for site in table.sites if site.kind is SiteKind.ACTIVATION]
