"""The plan: which qtype every site gets, why, and the proof that it is the best one inside the budgets.

`plan.json` is editable: `mpqc compile --plan plan.json` obeys it. Unknown keys and sites are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mpqc.errors import PlanError
from mpqc.values.budget import Resource
from mpqc.values.json_file import Record, parse_record, read_record
from mpqc.values.qtype import LEAST_BITS, MOST_BITS
from mpqc.values.site import PrunedChannels, SiteKind, SiteTable

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Choice(Record):
    """The qtype of one site and the reason for it, readable by the user."""

    site: str
    kind: SiteKind
    bits: int | None
    """None: the site stays float."""
    reason: str = ""
    sensitivity: float | None = None
    """Expected loss increase of this choice, in the unit of the sensitivities used."""


@dataclass(frozen=True)
class Proof(Record):
    """What the solver proved. `gap` is (objective - bound) / objective, 0 when optimal."""

    status: str
    """optimal | feasible | given (plan made by hand) | uniform"""
    objective: float = 0.0
    bound: float = 0.0
    gap: float = 0.0
    seconds: float = field(default=0.0, compare=False)
    """Not in plan.json"""
    seed: int = 0
    modelled_us: float | None = None
    """Modelled time of the built program, by a pricing tool; None: not priced"""
    rounds: int = 0
    """Plans that were built and priced, or counted, until one was inside the budgets; 0 where the first was and nothing was priced"""


@dataclass(frozen=True)
class Use(Record):
    """How much of one resource the plan uses; `limit` None where no budget bounds it."""

    resource: Resource
    used: float
    limit: float | None = None
    unpriced: tuple[str, ...] = ()
    """Names of the nodes that `used` leaves out, as they run in float, which nothing prices"""
    error_percent: int = 0
    """By which `used` may be off, where the target's prices were not compared with the chip; 0: they were"""
    built: float | None = None
    """What the built program takes, where it was counted in it: constants as stored, memory as allocated, time as priced"""


@dataclass(frozen=True)
class Plan(Record):
    """site -> qtype with its proof. Sites that are missing stay float."""

    target: str
    choices: tuple[Choice, ...]
    proof: Proof
    uses: tuple[Use, ...] = ()
    strategy: str = ""
    notes: tuple[str, ...] = field(default=())
    pruned: tuple[PrunedChannels, ...] = ()
    """Channels that go before the bits apply; a compile that is given the plan removes them"""

    @property
    def content(self) -> tuple[object, ...]:
        """What stands for all of it in a digest: everything but the time that the solver took."""
        proof = replace(self.proof, seconds=0.0)
        return self.target, self.choices, proof, self.uses, self.strategy, self.notes, self.pruned

    def bits(self, site: str) -> int | None:
        """Bits of `site`, or None where it stays float."""
        return self._bits.get(site)

    def use(self, resource: Resource) -> Use | None:
        """What it uses of `resource`; None where the target has no price for it."""
        return next((use for use in self.uses if use.resource is resource), None)

    def used(self, resource: Resource) -> float | None:
        """How much it uses of `resource`; None where the target has no price for it."""
        use = self.use(resource)
        return None if use is None else use.used

    @property
    def _bits(self) -> Mapping[str, int | None]:
        return {choice.site: choice.bits for choice in self.choices}

    def to_json(self) -> str:
        """The text of plan.json: the same for the same plan, so without the time that the solver took."""
        facts = asdict(self)
        del facts["proof"]["seconds"]
        return json.dumps({"schema_version": SCHEMA_VERSION, **facts}, indent=1) + "\n"


def group_bits(table: SiteTable, bits: Mapping[str, int | None]) -> dict[str, int | None]:
    """`bits` (of sites) by sharing group, for the groups that have any. Raises PlanError for an unknown site and for members of a group that
    differ, by name."""
    found: dict[str, tuple[str, int | None]] = {}
    for name, width in bits.items():
        site = table.by_name.get(name)
        if site is None:
            raise PlanError("no such site", where=name, hint="see sites.json or `mpqc analyze` for the names")
        first, other = found.setdefault(site.group_name, (name, width))
        if other != width:
            fault = f"sites that share qparams have different bits: {first} {_width(other)}, {name} {_width(width)}"
            raise PlanError(fault, where=site.group_name, hint="give them the same bits")
    return {group: width for group, (_, width) in found.items()}


def _width(bits: int | None) -> str:
    return "float" if bits is None else str(bits)


def bits_by_group(table: SiteTable, plan: Plan) -> dict[str, int | None]:
    """The bits of every sharing group; sites that the plan leaves out stay float. Raises as group_bits does."""
    return group_bits(table, {**dict.fromkeys(table.by_name), **{choice.site: choice.bits for choice in plan.choices}})


def uniform_plan(table: SiteTable, target: str, weight_bits: int, activation_bits: int) -> Plan:
    """The plan that gives every weight and every activation the same bits."""
    bits = {SiteKind.WEIGHT: weight_bits, SiteKind.ACTIVATION: activation_bits}
    reason = f"uniform w{weight_bits}a{activation_bits}"
    choices = tuple(Choice(site.name, site.kind, bits[site.kind], reason) for site in table.sites)
    return Plan(target, choices, Proof("uniform"), strategy="uniform", pruned=table.pruned)


def predicted(plan: Plan) -> float:
    """Predicted microseconds of `plan`; 0 where its target has no latency."""
    return plan.used(Resource.LATENCY) or 0.0


def same_bits(one: Plan, other: Plan) -> bool:
    """Whether two plans of one network make the same program."""
    return all(other.bits(choice.site) == choice.bits for choice in one.choices)


def read_plan(path: str | Path) -> Plan:
    """The plan in `path`. Raises PlanError naming file, key and fault for anything that is not a plan."""
    return _checked(read_record(Plan, Path(path), "plan", SCHEMA_VERSION, "make one with mpqc allocate"), str(path))


def parse_plan(text: str | bytes, where: str) -> Plan:
    """The plan that `text`, of Plan.to_json, means. Raises PlanError, naming `where`, for anything that is not one."""
    return _checked(parse_record(Plan, text, where, "plan", SCHEMA_VERSION), where)


def _checked(plan: Plan, where: str) -> Plan:
    seen: set[str] = set()
    for choice in plan.choices:
        if choice.site in seen:
            raise PlanError("the site has two choices", where=f"{where}: {choice.site}")
        if choice.bits is not None and not LEAST_BITS <= choice.bits <= MOST_BITS:
            raise PlanError(f"{choice.bits} bits is outside {LEAST_BITS}..{MOST_BITS}", where=f"{where}: {choice.site}")
        seen.add(choice.site)
    return replace(plan, pruned=tuple(_pruned(entry, where) for entry in plan.pruned))


def _pruned(entry: PrunedChannels, where: str) -> PrunedChannels:
    if min(entry.channels, default=0) < 0:
        raise PlanError(f"pruned channels {list(entry.channels)} are not numbers of channels", where=f"{where}: {entry.node}")
    return replace(entry, channels=tuple(sorted(set(entry.channels))))
