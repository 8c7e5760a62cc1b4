"""What whole plans lose, measured: one run of the quantized network for each, on the data that its ranges were found on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

from mpqc.passes.apply_plan import ApplyPlan
from mpqc.passes.lib.quantizer_graph import origin, producers, quantizer_of
from mpqc.passes.prepare_quantizers import with_quantizers
from mpqc.quantize.replay import arguments
from mpqc.sensitivity.task import Task, find_task
from mpqc.values.network import Network
from mpqc.values.plan import Plan
from mpqc.values.qtype import Calibrated
from mpqc.values.site import SiteTable
from mpqc.workspace.progress import steps

if TYPE_CHECKING:
    from mpqc.data.batches import Batches


@dataclass(frozen=True, eq=False)
class Trial:
    """A quantized network: bits, grids, and constants (biases, weights on their grids) that are others than the file's."""

    plan: Plan
    calibration: Calibrated
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By initializer"""


def plan_losses(network: Network, table: SiteTable, calibration: Calibrated, batches: Batches, plans: Sequence[Plan]) -> list[float]:
    """The mean loss (task.py) of each of `plans` against the float network. Memory: the compared tensors of all batches."""
    return trial_losses(network, table, batches, [Trial(plan, calibration) for plan in plans])


def trial_losses(network: Network, table: SiteTable, batches: Batches, trials: Sequence[Trial]) -> list[float]:
    """The mean loss (task.py) of each of `trials` against the float network. Memory: the compared tensors of all batches."""
    task = find_task(network, batches)
    runner = Observer(with_quantizers(network, table), table, task)
    teacher = [runner.observe(batch) for batch in steps(batches, batches.expected)]
    losses: list[float] = []
    for trial in trials:
        runner.apply(trial)
        found = [task.loss(floats, runner.observe(batch)) for floats, batch in steps(zip(teacher, batches, strict=True), len(teacher))]
        losses.append(float(torch.stack(found).mean()))
    return losses


def blank_loss(network: Network, table: SiteTable, batches: Batches) -> float:
    """The mean loss (task.py) of a network that answers the mean of the float network's answers, whatever the sample: what knows nothing loses."""
    task = find_task(network, batches)
    runner = Observer(with_quantizers(network, table), table, task)
    teacher = [runner.observe(batch) for batch in batches]
    blank = {name: torch.stack([seen[name] for seen in teacher]).mean(dim=0) for name in task.tensors}
    return float(torch.stack([task.loss(floats, blank) for floats in teacher]).mean())


class Observer(fx.Interpreter):
    """Runs a network with quantizers and keeps the tensors that a task compares, as their readers see them."""

    def __init__(self, network: Network, table: SiteTable, task: Task) -> None:
        super().__init__(network.module)
        self.network, self.table = network, table
        values = producers(network.module)
        quantized = {item.site: node for node in network.module.graph.nodes if (item := quantizer_of(network.module, node))}
        self.observed = {quantized.get(name, values[name]): name for name in task.tensors}
        self.seen: dict[str, Tensor] = {}
        self.constants: dict[str, Tensor] = {}

    def apply(self, trial: Trial) -> None:
        """From now on the network is that of `trial`."""
        ApplyPlan().run(self.network, self.table, trial.plan, trial.calibration)
        self.constants = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in trial.constants.items()}

    def observe(self, batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """The compared tensors for one batch."""
        self.seen = {}
        with torch.no_grad():
            self.run(*arguments(self.network.module, batch))
        return self.seen

    def run_node(self, n: fx.Node) -> Any:
        source = origin(n) if n.op == "get_attr" else None
        value = self.constants[source.tensor] if source is not None and source.tensor in self.constants else super().run_node(n)
        if n in self.observed:
            self.seen[self.observed[n]] = value
        return value
