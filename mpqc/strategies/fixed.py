"""Training at a plan that is given: LSQ quantizers whose bits never change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from mpqc.plan import Plan
from mpqc.site import SiteKind
from mpqc.strategies.base import Finished, Strategy
from mpqc.training.quantizers import LsqState

if TYPE_CHECKING:
    from mpqc.training.session import Session


class FixedPlan(Strategy):
    """One learned step an output channel of weights and one a sharing group of activations, at the bits of the session's plan."""

    name: ClassVar[str] = "fixed"

    def prepare(self, session: Session) -> None:
        """Install the states."""
        self.session = session
        self.states: dict[str, LsqState] = {}
        for group, sites in session.table.groups.items():
            bits = session.plan.bits(sites[0].name)
            if bits is not None:
                self.states[group] = LsqState(per_sample=sites[0].kind is SiteKind.ACTIVATION)
                self.states[group].set(session.module.calibrated(sites[0].name, bits))
        session.module.install({site.name: self.states[site.group_name] for site in session.table.sites if site.group_name in self.states})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All steps."""
        return [{"params": [state.scale for state in self.states.values()], "lr": self.session.recipe.step_learning_rate, "weight_decay": 0.0}]

    def after_step(self, step: int) -> None:
        """Steps stay positive."""
        for state in self.states.values():
            state.constrain()

    def plan(self) -> Plan:
        """The plan given."""
        return self.session.plan

    def finish(self) -> Finished:
        """The plan given."""
        return Finished(self.session.plan)
