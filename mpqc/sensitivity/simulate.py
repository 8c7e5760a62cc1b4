"""What a network with a plan's bits answers, before any program of it is built: its quantizers run in float, on the grids of the program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mpqc.passes.apply_plan import ApplyPlan
from mpqc.passes.prepare_quantizers import with_quantizers
from mpqc.quantize.replay import run
from mpqc.values.network import Network
from mpqc.values.plan import Plan
from mpqc.values.qtype import Calibrated
from mpqc.values.site import SiteTable
from mpqc.workspace.progress import steps


class Simulator:
    """One network with quantizers, whose bits are those of the plan asked for last."""

    def __init__(self, network: Network, table: SiteTable, calibration: Calibrated) -> None:
        self._network, self._table, self._calibration = with_quantizers(network, table), table, calibration

    def outputs(self, plan: Plan, batches: Sequence[Mapping[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        """The outputs of every batch, by name. They are those of the program but for the rounding of float sums and of biases."""
        ApplyPlan().run(self._network, self._table, plan, self._calibration)
        for batch in steps(batches, len(batches)):
            yield {name: tensor.numpy() for name, tensor in run(self._network, batch).items()}


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Outputs of batches one behind the other [samples, ...]; those without a first dimension are stacked."""
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    same = arrays[0].ndim and len({array.shape[1:] for array in arrays}) == 1
    return np.concatenate(arrays) if same else np.stack(arrays)
