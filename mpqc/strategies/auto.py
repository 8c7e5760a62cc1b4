"""mpqc's own method: the start that measures best, then LSQ training with two early exact re-allocations, at rates that suit the damage.

From QBitOpt it takes that bits are re-allocated while training by an exact solver. Different are: the noise of a width (what grids of least squared
error really leave); the start (of the plans by that noise, by the sensitivities from before training, and by those with pairs of neighbours, the one
with which the network, run with its bits, loses least); new grids for sites that change (refitted to the weights as they are instead of the old
range); re-allocation early alone, so that most of the training is at the final bits; and, where the float network alone teaches, learning rates in
proportion to what quantization costs. (With labels, half the rates were no better: benchmarks/results/recipe.md.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mpqc.data.batches import open_data
from mpqc.numerics.ranges import weight_qparams
from mpqc.sensitivity.pairs import measure_pairs
from mpqc.sensitivity.subject import Subject
from mpqc.strategies.common import LsqStrategy, Stopwatch, best_plan, bits_of, widths_of
from mpqc.strategies.fit import MovingNoise
from mpqc.strategies.measured_loss import MeasuredLoss
from mpqc.strategies.qbitopt import sticky
from mpqc.training.quantizers import TrainedState
from mpqc.training.strategy import Finished
from mpqc.values.qtype import QParams, QType
from mpqc.values.site import SiteKind
from mpqc.workspace.log_file import LOG

if TYPE_CHECKING:
    from mpqc.training.session import Session
    from mpqc.values.plan import Plan
    from mpqc.values.sensitivities import Pair, Sensitivities

MOMENTS = (0.1, 0.2)
"""Parts of the phase after which bits are re-allocated"""
MEASUREMENTS = 8
"""Of sensitivities at the start and before each re-allocation"""
HYSTERESIS = 0.2
PAIR_SAMPLES = 64
"""That the losses of pairs are measured on"""
FULL_RATE_LOSS = 0.7
"""Nats that quantization adds before training from which the recipe's rates are used in full. A choice; benchmarks/recipe.py --rates compares what
comes of it with the full rates"""
LEAST_RATE = 0.2
"""Of the recipe's"""


class Auto(LsqStrategy):
    """`moments`: parts of the phase after which bits are re-allocated; `pairs`: whether plans with pairs of sites may be the start."""

    name = "auto"

    def __init__(self, *, moments: tuple[float, ...] = MOMENTS, pairs: bool = True) -> None:
        self.moments, self.pairs = moments, pairs

    def prepare(self, session: Session) -> None:
        """The best of several plans by the measured loss; quantizers at its bits. A plan that was given stays as it is."""
        super().prepare(session)
        self.watch = Stopwatch()
        self.changes: list[int] = []
        self.added: float | None = None
        """Loss that quantization adds before training, where the rates follow it"""
        self.noise = MovingNoise(session, decay=1 - 1 / MEASUREMENTS)
        if session.sensitivities is not None and session.budgets and not session.resumes:
            with self.watch:
                self._start(session, session.sensitivities)

    def _start(self, session: Session, sensitivities: Sensitivities) -> None:
        for step in range(MEASUREMENTS):
            self.noise.measure(session.batch_of(step))
        measured = MeasuredLoss(session, self.states)
        self.current = measured.best_of(list(self._plans(session, sensitivities, self.noise.sensitivities())))
        self.changes.append(_differences(session.plan, self.current))
        if session.recipe.adapt_rates and session.in_nats and session.batch().labels is None:
            self.added = measured.added(self.current)
            self.rate = rate_for(self.added)

    def _plans(self, session: Session, sensitivities: Sensitivities, noise: Sensitivities) -> Iterator[Plan]:
        """What the start chooses from."""
        yield best_plan(session, noise, self.name)
        yield best_plan(session, sensitivities, self.name)
        if self.pairs and sensitivities.method == "fit" and (pairs := _pairs(session)):
            yield best_plan(session, sensitivities, self.name, pairs=pairs)

    def _marks(self) -> tuple[int, ...]:
        steps = self.session.position.steps
        return tuple(int(part * steps) for part in self.moments if int(part * steps) > 0)

    def before_step(self, step: int) -> None:
        """Sensitivities, in the stretch before the next re-allocation."""
        marks = [mark for mark in self._marks() if mark > step]
        if not marks or self.session.position.frozen:
            return
        every = max(self._marks()[0] // MEASUREMENTS, 1)
        if step % every == 0:
            with self.watch:
                self.noise.measure()

    def after_step(self, step: int) -> None:
        """Re-allocate at the moments."""
        super().after_step(step)
        if step + 1 in self._marks() and not self.session.position.frozen and self.noise.weight:
            with self.watch:
                self.reallocate()

    def reallocate(self) -> None:
        """The best plan by the averages, with what a site has now preferred."""
        sensitivities = sticky(self.noise.sensitivities(), self.current, HYSTERESIS)
        plan = best_plan(self.session, sensitivities, self.name, hint=self.current)
        self.changes.append(_differences(self.current, plan))
        self.adopt(plan)

    def change(self, group: str, state: TrainedState, bits: int) -> None:
        """A new width: weights get the grid of least squared error; activations keep theirs in the proportion of the calibrated grids."""
        now = state.qparams()
        if now is None or now.qtype.bits == bits:
            return
        site = self.session.table.groups[group][0]
        if site.kind is SiteKind.WEIGHT:
            weight = self.session.module.weight(site.name).detach().float().cpu().numpy()
            state.set(weight_qparams(weight, site.axis, bits, search=True, half=self.session.module.allows_half(site.name, bits)))
            return
        old, new = (self.session.module.calibrated(site.name, width) for width in (now.qtype.bits, bits))
        ratio = now.scale / np.maximum(old.scale, np.float32(1e-30))
        state.set(QParams(QType(bits), (new.scale * ratio).astype(np.float32), new.zero_point))

    def finish(self) -> Finished:
        """The last plan, and what choosing it took."""
        changes = ", ".join(map(str, self.changes)) or "none"
        what = "sites changed at the start and at each re-allocation"
        rates = () if self.added is None else (f"learning rates at {self.rate:.2f} of the recipe's: quantization added {self.added:.3g} nats",)
        LOG.info("choosing bits took %.2f s in all", self.watch.seconds)
        return Finished(self.current, notes=(f"{what}: {changes}", *rates), seconds=self.watch.seconds)

    def state_dict(self) -> dict[str, Any]:
        """Plan, averages, history."""
        own = {"noise": self.noise.state_dict(), "changes": list(self.changes), "start": (self.added, self.rate), "seconds": self.watch.seconds}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        super().load_state_dict(state)
        self.noise.load_state_dict(state["noise"])
        self.changes = [int(count) for count in state["changes"]]
        self.added, self.rate = state.get("start", (None, 1.0))  # older checkpoints have none
        self.watch.seconds = float(state["seconds"])


def rate_for(added: float) -> float:
    """Part of the recipe's learning rates for a network whose quantization adds `added` nats before training: in proportion, up to all of it at
    FULL_RATE_LOSS. Where little is to be repaired, fast steps lead further from the float network than the repair is worth."""
    return min(1.0, max(LEAST_RATE, added / FULL_RATE_LOSS))


def _pairs(session: Session) -> tuple[Pair, ...]:
    """Extra losses of neighbouring sites on samples of the first batch; the same on every process."""
    batch = session.batch().inputs
    names = [spec.name for spec in session.network.inputs]
    arrays = {name: value[:PAIR_SAMPLES].float().cpu().numpy() for name, value in zip(names, batch, strict=True)}
    samples = open_data(arrays, session.network.inputs, limit=PAIR_SAMPLES)
    bits = tuple(sorted({width for site in session.table.sites for width in widths_of(session, site)}))

    def mean(values: np.ndarray) -> np.ndarray:
        return session.mean(torch.from_numpy(values).to(batch[0].device)).cpu().numpy()  # type: ignore[no-any-return]

    subject = Subject(session.network, session.table, session.calibration, samples)
    return measure_pairs(subject, bits, seed=session.recipe.seed, mean=mean)


def _differences(one: Any, other: Any) -> int:
    old, new = bits_of(one), bits_of(other)
    return sum(old[site] != bits for site, bits in new.items())
