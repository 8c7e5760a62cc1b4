"""How much of what a network says is left by whole plans, or by single sites: relative squared errors of what a task compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import inf, isfinite
from typing import TYPE_CHECKING

from mpqc.passes.prepare_quantizers import with_quantizers
from mpqc.sensitivity.plan_loss import Observer, Trial
from mpqc.sensitivity.task import find_task
from mpqc.values.network import Network
from mpqc.values.plan import Plan
from mpqc.values.qtype import Calibrated
from mpqc.values.site import SiteTable

if TYPE_CHECKING:
    from torch import Tensor

    from mpqc.data.batches import Batches


class NoiseMeter:
    """Runs plans of one network on some samples, against the float network."""

    def __init__(self, network: Network, table: SiteTable, calibration: Calibrated, batches: Batches) -> None:
        self.task = find_task(network, batches)
        self.calibration, self.batches = calibration, list(batches)
        self.runner = Observer(with_quantizers(network, table), table, self.task)

    @cached_property
    def teacher(self) -> list[Mapping[str, Tensor]]:
        """What the float network gives. Taken before any plan is applied."""
        return [self.runner.observe(batch) for batch in self.batches]

    def noise(self, plan: Plan, most: int | None = None) -> float:
        """Squared error over squared norm of the compared tensor that keeps least, over all samples or the first `most` batches; infinite where
        it is no number."""
        wanted = self.teacher[:most]
        self.runner.apply(Trial(plan, self.calibration))
        found = [self.runner.observe(batch) for batch in self.batches[:most]]
        return max((_relative(name, wanted, found) for name in self.task.tensors), default=0.0)


def _relative(name: str, wanted: Sequence[Mapping[str, Tensor]], found: Sequence[Mapping[str, Tensor]]) -> float:
    error = sum(float((own[name].double() - other[name].double()).square().sum()) for own, other in zip(found, wanted, strict=True))
    power = sum(float(other[name].double().square().sum()) for other in wanted)
    if not isfinite(error):
        return inf
    return error / power if power > 0 else 0.0
