"""What strategies share: states for all groups, plans from bits, the allocator with a session bound, and LSQ under given bits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mpqc.errors import BudgetInfeasibleError
from mpqc.training.quantizers import LsqState, TrainedState
from mpqc.training.strategy import Finished, Strategy
from mpqc.values.plan import Plan, Proof
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import Site, SiteKind, SiteTable

if TYPE_CHECKING:
    from mpqc.training.session import Session
    from mpqc.values.sensitivities import Pair

Bits = Mapping[str, int | None]
WIDEST = 8
"""Widths beyond are not tried while training."""
SOLVER_SECONDS = 10.0


def make_states(session: Session, make: Callable[[Site], TrainedState]) -> dict[str, TrainedState]:
    """Group name -> a state that starts at the plan's bits, for every group that the session's plan quantizes; installed in its module."""
    states: dict[str, TrainedState] = {}
    for name, sites in session.table.groups.items():
        bits = session.plan.bits(sites[0].name)
        if bits is None:
            continue
        states[name] = make(sites[0])
        states[name].set(session.module.calibrated(sites[0].name, bits))
    session.module.install({site.name: states[site.group_name] for site in session.table.sites if site.group_name in states})
    return states


def bits_of(plan: Plan) -> dict[str, int | None]:
    """Site -> bits."""
    return {choice.site: choice.bits for choice in plan.choices}


def with_bits(plan: Plan, bits: Bits, strategy: str, reason: str) -> Plan:
    """`plan` with other bits; a reason for those that changed, and no proof: that of a solver does not hold any more."""
    choices = tuple(
        choice if bits[choice.site] == choice.bits else replace(choice, bits=bits[choice.site], reason=reason, sensitivity=None)
        for choice in plan.choices
    )
    return replace(plan, choices=choices, proof=Proof("given"), strategy=strategy)


def by_site(table: SiteTable, bits: Mapping[str, int | None]) -> dict[str, int | None]:
    """Group -> bits as site -> bits; groups that are missing stay float."""
    return {site.name: bits.get(site.group_name) for site in table.sites}


def widths_of(session: Session, site: Site) -> tuple[int, ...]:
    """Widths that `site` may be given while training."""
    return tuple(bits for bits in session.cost_model.choices(site) if bits <= WIDEST)


def best_plan(session: Session, sensitivities: Sensitivities, strategy: str, *, hint: Plan | None = None, pairs: Sequence[Pair] = ()) -> Plan:
    """The best plan inside the session's budgets. One-bit types are tried only where the budgets cannot be met without.

    Raises BudgetInfeasibleError where no plan fits.
    """
    try:
        return _solved(session, sensitivities, strategy, hint, pairs, least=2)
    except BudgetInfeasibleError:
        return _solved(session, sensitivities, strategy, hint, pairs, least=1)


def _solved(session: Session, sensitivities: Sensitivities, strategy: str, hint: Plan | None, pairs: Sequence[Pair], *, least: int) -> Plan:
    from mpqc.allocator import allocate

    candidates = {site.name: [bits for bits in widths_of(session, site) if bits >= least] for site in session.table.sites}
    floats = {name: None for name, bits in bits_of(session.plan).items() if bits is None}
    plan = allocate(
        session.table,
        sensitivities,
        session.cost_model,
        session.budgets,
        seconds=SOLVER_SECONDS,
        seed=session.recipe.seed,
        fixed={**floats, **session.fixed},
        candidates=candidates,
        hint=None if hint is None else bits_of(hint),
        pairs=pairs,
    )
    return replace(plan, strategy=strategy)


def allowed(session: Session, plan: Plan) -> Plan | None:
    """`plan` with its uses, or None where it breaks a budget or names widths that the target lacks."""
    choices = {site.name: session.cost_model.choices(site) for site in session.table.sites}
    if any(choice.bits is not None and choice.bits not in choices[choice.site] for choice in plan.choices):
        return None
    try:
        return session.check(plan)
    except BudgetInfeasibleError:
        return None


class Inside:
    """Remembers the last answer of `allowed`: the loop asks for the plan after every step, and bits change rarely."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.known: tuple[dict[str, int | None], Plan | None] | None = None

    def __call__(self, plan: Plan) -> Plan | None:
        """`plan` with its uses, or None where it breaks a budget."""
        bits = bits_of(plan)
        if self.known is None or self.known[0] != bits:
            self.known = (bits, allowed(self.session, plan))
        return self.known[1]


@contextmanager
def kept_buffers(root: nn.Module) -> Iterator[None]:
    """Within the block `root` may run in training mode; its buffers (the statistics of BatchNorm) are as before afterwards."""
    before = {name: value.clone() for name, value in root.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in root.named_buffers():
                if name in before and before[name].shape == value.shape:
                    value.copy_(before[name])


@dataclass(eq=False)
class Stopwatch:
    """Adds up the time spent in its `with` blocks."""

    seconds: float = 0.0

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *details: object) -> None:
        self.seconds += time.perf_counter() - self._start


class LsqStrategy(Strategy):
    """LSQ quantizers under the bits of the session's plan: what strategies with bits from outside build on. Alone: QAT of a fixed plan."""

    name = "fixed"

    def prepare(self, session: Session) -> None:
        """One learned step an output channel of weights, one for the tensor of activations."""
        self.session = session
        self.current = session.plan
        self.states = make_states(session, lambda site: LsqState(per_sample=site.kind is SiteKind.ACTIVATION))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All steps in one group."""
        steps = [parameter for state in self.states.values() for parameter in state.parameters()]
        return [{"params": steps, "lr": self.session.recipe.step_learning_rate, "weight_decay": 0.0}]

    def after_step(self, step: int) -> None:
        """Steps stay positive."""
        for state in self.states.values():
            state.constrain()

    def adopt(self, plan: Plan) -> None:
        """Go on with the bits of `plan`, each range kept."""
        for name, state in self.states.items():
            bits = plan.bits(self.session.table.groups[name][0].name)
            if bits is not None:
                self.change(name, state, bits)
        self.current = plan

    def change(self, group: str, state: TrainedState, bits: int) -> None:
        """Give the state of `group` another width."""
        state.set_bits(bits)

    def plan(self) -> Plan | None:
        """The plan that is followed."""
        return self.current

    def finish(self) -> Finished:
        """The plan that is followed."""
        return Finished(self.current)

    def state_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        return {"plan": self.current.to_json()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Follow the saved plan."""
        self.adopt(plan_from(str(state["plan"])))


def plan_from(text: str) -> Plan:
    """The inverse of Plan.to_json."""
    from mpqc.values.plan import parse_plan

    return parse_plan(text, "checkpoint")
