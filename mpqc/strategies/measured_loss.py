"""What a network loses with the bits of a plan, before any training at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mpqc.plan import Plan
from mpqc.strategies.common import kept_buffers

if TYPE_CHECKING:
    from mpqc.training.quantizers import TrainedState
    from mpqc.training.session import Session

COMPARED = 4
"""Batches that plans are compared on."""


class MeasuredLoss:
    """The training loss at calibrated grids, BatchNorm on each batch's own statistics: what it normalises away, training repairs at once.

    Single moves of bits that lower it on a batch or two do not on others (ResNet-20, batches of 128): it tells whole plans apart, not moves.
    """

    def __init__(self, session: Session, states: Mapping[str, TrainedState]) -> None:
        self.session, self.states = session, states

    def best_of(self, plans: Sequence[Plan]) -> Plan:
        """The plan of the least mean loss. The states are left at its bits."""
        best = min(plans, key=self.mean)
        self.set(best)
        return best

    def mean(self, plan: Plan) -> float:
        """The loss of a plan over the batches of COMPARED steps from the present one on."""
        return sum(self.on(plan, self.session.position.step + ahead) for ahead in range(COMPARED)) / COMPARED

    def added(self, plan: Plan) -> float:
        """How much of it is there because of the quantizers."""
        with self.session.module.floating():
            floating = self.mean(plan)
        return self.mean(plan) - floating

    def on(self, plan: Plan, step: int) -> float:
        """The loss of a plan on the batch of `step`; the same on every process."""
        self.set(plan)
        session = self.session
        batch = session.batch() if step == session.position.step else session.batch_of(step)
        with torch.no_grad(), kept_buffers(session.module.root):
            return float(session.mean(session.loss(batch).detach()))

    def set(self, plan: Plan) -> None:
        """Every state at the calibrated grid of its bits."""
        for name, state in self.states.items():
            site = self.session.table.groups[name][0].name
            bits = plan.bits(site)
            if bits is not None and (state.qtype is None or state.qtype.bits != bits):
                state.set(self.session.module.calibrated(site, bits))
