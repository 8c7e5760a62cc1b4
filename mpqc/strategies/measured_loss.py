"""What a network loses with the bits of a plan, before any training at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mpqc.strategies.common import kept_buffers
from mpqc.values.plan import Plan

if TYPE_CHECKING:
    from mpqc.training.quantizers import TrainedState
    from mpqc.training.session import Session, TrainingBatch

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
        losses = self.means(plans)
        best = plans[losses.index(min(losses))]
        self.set(best)
        return best

    def means(self, plans: Sequence[Plan]) -> list[float]:
        """The loss of each plan over the batches of COMPARED steps from the present one on. The float network runs once on each batch."""
        totals = [0.0] * len(plans)
        for ahead in range(COMPARED):
            batch = self.session.batch_of(self.session.position.step + ahead)
            totals = [total + self.on(plan, batch) for total, plan in zip(totals, plans, strict=True)]
        return [total / COMPARED for total in totals]

    def added(self, plan: Plan) -> float:
        """How much of it is there because of the quantizers."""
        with self.session.module.floating():
            (floating,) = self.means([plan])
        (quantized,) = self.means([plan])
        return quantized - floating

    def on(self, plan: Plan, batch: TrainingBatch) -> float:
        """The loss of a plan on a batch; the same on every process."""
        self.set(plan)
        with torch.no_grad(), kept_buffers(self.session.module.root):
            return float(self.session.mean(self.session.loss(batch).detach()))

    def set(self, plan: Plan) -> None:
        """Every state at the calibrated grid of its bits."""
        for name, state in self.states.items():
            site = self.session.table.groups[name][0].name
            bits = plan.bits(site)
            if bits is not None and (state.qtype is None or state.qtype.bits != bits):
                state.set(self.session.module.calibrated(site, bits))
