"""The plan: which qtype every site gets, why, and the proof that it is the best one inside the budgets.

`plan.json` is editable: `mpqc compile --plan plan.json` obeys it. Unknown keys and sites are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mpqc.errors import PlanError
from mpqc.values.budget import Resource
from mpqc.values.qtype import QType
from mpqc.values.site import PrunedChannels, SiteKind, SiteTable

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Choice:
    """The qtype of one site and the reason for it, readable by the user."""

    site: str
    kind: SiteKind
    bits: int | None
    """None: the site stays float."""
    reason: str = ""
    sensitivity: float | None = None
    """Expected loss increase of this choice, in the unit of the sensitivities used."""


@dataclass(frozen=True)
class Proof:
    """What the solver proved. `gap` is (objective - bound) / objective, 0 when optimal."""

    status: str
    """optimal | feasible | given (plan made by hand) | uniform"""
    objective: float = 0.0
    bound: float = 0.0
    gap: float = 0.0
    seconds: float = 0.0
    seed: int = 0
    modelled_us: float | None = None
    """Modelled time of the built program, by a pricing tool; None: not priced"""
    rounds: int = 0
    """Plans that were built and priced until one was inside the latency budget"""


@dataclass(frozen=True)
class Use:
    """How much of one resource the plan uses; `limit` None where no budget bounds it."""

    resource: str
    used: float
    limit: float | None = None


@dataclass(frozen=True)
class Plan:
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

    @property
    def _bits(self) -> Mapping[str, int | None]:
        return {choice.site: choice.bits for choice in self.choices}

    def to_json(self) -> str:
        """The text of plan.json."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=1) + "\n"


def uniform_plan(table: SiteTable, target: str, weight_bits: int, activation_bits: int) -> Plan:
    """The plan that gives every weight and every activation the same bits."""
    bits = {SiteKind.WEIGHT: weight_bits, SiteKind.ACTIVATION: activation_bits}
    reason = f"uniform w{weight_bits}a{activation_bits}"
    choices = tuple(Choice(site.name, site.kind, bits[site.kind], reason) for site in table.sites)
    return Plan(target, choices, Proof("uniform"), strategy="uniform", pruned=table.pruned)


def predicted(plan: Plan) -> float:
    """Predicted microseconds of `plan`; 0 where its target has no latency."""
    return next((use.used for use in plan.uses if use.resource == Resource.LATENCY.value), 0.0)


def same_bits(one: Plan, other: Plan) -> bool:
    """Whether two plans of one network make the same program."""
    return all(other.bits(choice.site) == choice.bits for choice in one.choices)


def read_plan(path: Path) -> Plan:
    """The plan in `path`. Raises PlanError naming the file and key for anything that is not a plan."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError("cannot read the plan", where=str(path), why=str(error)) from error
    return parse_plan(raw, str(path))


def parse_plan(raw: Any, where: str) -> Plan:
    """The plan that parsed JSON means. Raises PlanError, naming `where`, for anything that is not one."""
    if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
        raise PlanError(f"schema_version is not {SCHEMA_VERSION}", where=where)
    fields = {key: value for key, value in raw.items() if key != "schema_version"}
    try:
        fields["choices"] = tuple(_choice(entry, where) for entry in fields["choices"])
        _distinct(fields["choices"], where)
        fields["proof"] = Proof(**fields["proof"])
        fields["uses"] = tuple(Use(**use) for use in fields.get("uses", ()))
        fields["notes"] = tuple(fields.get("notes", ()))
        fields["pruned"] = tuple(_pruned(entry, where) for entry in fields.get("pruned", ()))
        return Plan(**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise PlanError("not a plan", where=where, why=f"{type(error).__name__}: {error}") from error


def _pruned(entry: dict[str, Any], where: str) -> PrunedChannels:
    found = PrunedChannels(**entry)
    channels = found.channels
    if not isinstance(channels, list) or any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in channels):
        raise PlanError(f"pruned channels {channels!r} are not numbers of channels", where=f"{where}: {found.node}")
    return replace(found, channels=tuple(sorted(set(channels))))


def _distinct(choices: tuple[Choice, ...], where: str) -> None:
    seen: set[str] = set()
    for choice in choices:
        if choice.site in seen:
            raise PlanError("the site has two choices", where=f"{where}: {choice.site}")
        seen.add(choice.site)


def _choice(entry: dict[str, Any], where: str) -> Choice:
    choice = Choice(**{**entry, "kind": _kind(entry, where)})
    if choice.bits is not None and (isinstance(choice.bits, bool) or not isinstance(choice.bits, int)):
        raise PlanError(f"bits {choice.bits!r} is not an integer", where=f"{where}: {choice.site}")
    if choice.bits is not None:
        QType(choice.bits)
    return choice


def _kind(entry: dict[str, Any], where: str) -> SiteKind:
    try:
        return SiteKind(entry["kind"])
    except ValueError:
        raise PlanError(f"kind {entry['kind']!r} is neither weight nor activation", where=where) from None
