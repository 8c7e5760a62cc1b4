"""Greedy polish of a plan on a measured loss: bits moved from one site to another where the network, run with them, says that it pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch

from mpqc.plan import Plan
from mpqc.strategies.common import allowed, bits_of, kept_buffers, widths_of, with_bits

if TYPE_CHECKING:
    from mpqc.sensitivity_table import Sensitivities
    from mpqc.training.quantizers import TrainedState
    from mpqc.training.session import Session

GAIN = 0.005
"""Of the loss: a move must lower it by more."""
CONSIDERED = 4
"""Moves looked at for each measurement: most are outside the budgets."""
COMPARED = 4
"""Batches that whole plans are compared on."""
Bits = dict[str, int | None]
"""By group"""


class Polish:
    """Tries moves on the batch of this step, BatchNorm on the batch's own statistics: what it normalises away, training repairs at once.

    A move that pays there must pay on the batch of the next step too: the best of many on one batch fits that batch.
    """

    def __init__(self, session: Session, states: Mapping[str, TrainedState], predicted: Sensitivities) -> None:
        self.session, self.states, self.predicted = session, states, predicted
        self.groups = {name: sites for name, sites in session.table.groups.items() if name in states}
        self.measured = 0

    def improve(self, plan: Plan, trials: int, strategy: str) -> Plan:
        """`plan`, or a better one after at most `trials` measurements and a confirmation of each that paid. The states are left at its bits."""
        step = self.session.position.step
        best, least, confirmed = plan, self.loss(plan, step), self.loss(plan, step + 1)
        for move in islice(self._moves(plan), CONSIDERED * trials):
            if self.measured > trials:
                break
            trial = self._moved(best, move, strategy)
            loss = self.loss(trial, step) if trial is not None else least
            if trial is None or loss >= least * (1 - GAIN):
                continue
            again = self.loss(trial, step + 1)
            if again < confirmed:
                best, least, confirmed = trial, loss, again
        self.set(best)
        return best

    def best_of(self, plans: Sequence[Plan]) -> Plan:
        """The plan of the least mean loss."""
        return min(plans, key=self.mean_loss)

    def mean_loss(self, plan: Plan) -> float:
        """The training loss of a plan over COMPARED steps."""
        return sum(self.loss(plan, self.session.position.step + ahead) for ahead in range(COMPARED)) / COMPARED

    def added_loss(self, plan: Plan) -> float:
        """How much of it is there because of the quantizers."""
        with self.session.module.floating():
            floating = self.mean_loss(plan)
        return self.mean_loss(plan) - floating

    def loss(self, plan: Plan, step: int) -> float:
        """The training loss at the calibrated grids of a plan on the batch of `step`; the same on every process."""
        self.set(plan)
        session = self.session
        present = step == session.position.step
        self.measured += present
        with torch.no_grad(), kept_buffers(session.module.root):
            return float(session.mean(session.loss(session.batch() if present else session.batch_of(step)).detach()))

    def set(self, plan: Plan) -> None:
        """Every state at the calibrated grid of its bits."""
        for name, state in self.states.items():
            site = self.groups[name][0].name
            bits = plan.bits(site)
            if bits is not None and (state.qtype is None or state.qtype.bits != bits):
                state.set(self.session.module.calibrated(site, bits))

    def _moves(self, plan: Plan) -> Iterator[tuple[str, str]]:
        """(narrower, wider) groups, the pairs first that the sensitivities call the best."""
        bits = bits_of(plan)
        change: Callable[[str, int], float] = lambda name, step: self._change(name, bits, step)  # noqa: E731
        free = [name for name in self.groups if not set(self.session.fixed) & {site.name for site in self.groups[name]}]
        pairs = [(change(down, -1) + change(up, +1), down, up) for down in free for up in free if down != up]
        yield from ((down, up) for value, down, up in sorted(pairs) if value < float("inf"))

    def _change(self, name: str, bits: Mapping[str, int | None], step: int) -> float:
        """The predicted change of the loss when a group moves one width along; inf where there is none."""
        site = self.groups[name][0]
        widths = [width for width in widths_of(self.session, site) if width in self.predicted.values[site.name]]
        now = bits[site.name]
        at = widths.index(now) + step if now in widths else -1
        if not 0 <= at < len(widths):
            return float("inf")
        rows = [self.predicted.values[item.name] for item in self.groups[name]]
        return sum(row[widths[at]] - row[now] for row in rows if now is not None)

    def _moved(self, plan: Plan, move: tuple[str, str], strategy: str) -> Plan | None:
        """`plan` with one group narrower and one wider, where that is inside the budgets."""
        bits = bits_of(plan)
        for name, step in zip(move, (-1, +1), strict=True):
            widths = widths_of(self.session, self.groups[name][0])
            now = bits[self.groups[name][0].name]
            at = widths.index(now) + step if now in widths else -1
            if not 0 <= at < len(widths):
                return None
            bits |= {site.name: widths[at] for site in self.groups[name]}
        return allowed(self.session, with_bits(plan, bits, strategy, "moved by the measured loss"))
