"""Resources: what a budget can bound. One record each says all that the rest of mpqc needs to know of it.

A new kind of budget is a member of `Resource` and a record here: its option, its class, its units, its price and its names in
reports and messages follow. Only a price that no cost model knows yet needs more (a function in `prices`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mpqc.errors import UsageError
from mpqc.facts import prices
from mpqc.facts.prices import Largest, NodeSum, Price, SiteMean, SiteSum
from mpqc.values.budget import Resource
from mpqc.values.site import SiteKind

TIME = {"us": 1, "ms": 10**3, "s": 10**6}
BYTES = {"B": 1, "kB": 1024, "KB": 1024, "KiB": 1024, "MB": 1024**2, "MiB": 1024**2}
BIT_OPERATIONS = {"BOPs": 1, "MBOPs": 10**6, "GBOPs": 10**9, "TBOPs": 10**12}
BITS = {"bits": 1, "": 1}
JOULES = {"nJ": 1, "uJ": 10**3, "mJ": 10**6}
FINE = 10**6
"""Picoseconds of a microsecond, femtojoules of a nanojoule"""


class Chip(Protocol):
    """What a target may have that gives a resource a price."""

    @property
    def rows(self) -> tuple[object, ...]:
        """Cost rows."""

    @property
    def analytic(self) -> object | None:
        """An analytic model of latency."""

    @property
    def energy(self) -> object | None:
        """A table of energies."""


@dataclass(frozen=True)
class Need:
    """What a target must have before the resource has a price on it."""

    what: str
    key: str
    """The key of the target's TOML file that gives it"""
    met: Callable[[Chip], bool]


@dataclass(frozen=True)
class Flag:
    """How a budget is asked for. Resources that share one take their amounts from one text, `4/4`; `-` leaves one free."""

    name: str
    """After `--budget-`"""
    bound: str
    """Class of the Python interface, as in `mpqc.Latency("20ms")`"""
    example: str
    help: str

    @property
    def option(self) -> str:
        """As on the command line."""
        return f"--budget-{self.name}"

    @property
    def parameter(self) -> str:
        """As an argument of a Python function."""
        return self.option.removeprefix("--").replace("-", "_")


@dataclass(frozen=True)
class ResourceFacts:
    """All that is known of one resource."""

    flag: Flag
    units: Mapping[str, int]
    """Spelling -> how many of the unit that amounts are counted in. An amount is printed in the first spelling of its unit; "" lets a
    bare number stand for the unit that counts 1"""
    price: Price
    label: str
    """In reports"""
    steps: int = 1
    """Parts of a unit that the allocator rounds prices to, so that sums of them are exact; 1: prices are whole already"""
    need: Need | None = None
    """None: every target has a price for it"""


_ROWS = Need("cost rows", "cost_rows", lambda chip: bool(chip.rows or chip.analytic))
_ENERGIES = Need("energy table", "energy", lambda chip: chip.energy is not None)

LATENCY = Flag("latency", "Latency", "20ms", "predicted time of one run on one core")
SIZE = Flag("size", "Size", "1.5MB", "all constants that the built program stores, or the file where there is none (1 MB = 1024^2 bytes)")
BOPS = Flag("bops", "Bops", "3GBOPs", "MACs x weight bits x activation bits")
AVERAGE_BITS = Flag("avg-bits", "AverageBits", "4/4", "average bits of weights/activations, each weighted by its elements (3/- bounds one side)")
ACTIVATION_MEMORY = Flag("activation-memory", "ActivationMemory", "8KB", "memory that the built program takes for activations and scratch")
LARGEST_ACTIVATION = Flag("largest-activation", "LargestActivation", "8KB", "largest single activation")
ENERGY = Flag("energy", "Energy", "2mJ", "energy of one run, where the target has a table")

RESOURCES: Mapping[Resource, ResourceFacts] = {
    Resource.LATENCY: ResourceFacts(
        LATENCY, TIME, NodeSum(prices.microseconds, products=False, output=True, constant=prices.fixed_microseconds), "latency", FINE, _ROWS
    ),
    Resource.SIZE: ResourceFacts(SIZE, BYTES, SiteSum(SiteKind.WEIGHT, prices.weight_bytes, prices.bias_bytes), "size"),
    Resource.BOPS: ResourceFacts(BOPS, BIT_OPERATIONS, NodeSum(prices.bit_operations, products=True), "bops"),
    Resource.WEIGHT_BITS: ResourceFacts(AVERAGE_BITS, BITS, SiteMean(SiteKind.WEIGHT), "weight bits"),
    Resource.ACTIVATION_BITS: ResourceFacts(AVERAGE_BITS, BITS, SiteMean(SiteKind.ACTIVATION), "activation bits"),
    Resource.PEAK_MEMORY: ResourceFacts(ACTIVATION_MEMORY, BYTES, Largest(prices.activation_bytes, prices.live, beside=True), "peak memory"),
    Resource.LARGEST_ACTIVATION: ResourceFacts(
        LARGEST_ACTIVATION, BYTES, Largest(prices.activation_bytes, prices.each_activation, beside=False), "largest activation"
    ),
    Resource.ENERGY: ResourceFacts(ENERGY, JOULES, NodeSum(prices.nanojoules, products=True), "energy", FINE, _ENERGIES),
}
"""In the order in which reports show them"""


def flags() -> tuple[Flag, ...]:
    """Every way to ask for a budget, once."""
    return tuple(dict.fromkeys(facts.flag for facts in RESOURCES.values()))


def resources_of(flag: Flag) -> tuple[Resource, ...]:
    """What `flag` bounds, in the order of its amounts."""
    return tuple(resource for resource, facts in RESOURCES.items() if facts.flag == flag)


def over_names() -> tuple[str, ...]:
    """What `pareto --over` takes: the names that plan.json has."""
    return tuple(resource.value for resource in RESOURCES)


def resource_named(name: str) -> Resource:
    """The resource that `pareto --over` calls `name`; the name of a flag that bounds it alone is as good. Raises UsageError."""
    aliases = {flag.name: bounded[0] for flag in flags() if len(bounded := resources_of(flag)) == 1}
    known = {**aliases, **{resource.value: resource for resource in RESOURCES}}
    if name not in known:
        raise UsageError(f"{name!r} is not a resource", where="--over", hint=f"use one of {', '.join(over_names())}")
    return known[name]


def priced_everywhere() -> tuple[str, ...]:
    """Names of the flags whose resources every target has prices for."""
    return tuple(dict.fromkeys(facts.flag.name for facts in RESOURCES.values() if facts.need is None))
