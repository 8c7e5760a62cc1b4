"""What makes a chosen plan better without training: ranges that suit the output, corrected biases, reconstruction. Each is kept only where it lowers
the loss on calibration data that it was not made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.errors import ModelError
from mpqc.values.plan import Plan
from mpqc.values.request import AUTO, ON, Repairing
from mpqc.values.site import SiteTable
from mpqc.workspace.job import Job
from mpqc.workspace.phase import checkpoint_path

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.quantize.calibration import Calibration
    from mpqc.strategies.reconstruction import Reconstruction
    from mpqc.training.folding import TrainedParameters
    from mpqc.values.network import Network

SAMPLES = 32
"""Samples that ranges and biases are made from"""
JUDGED = 16
"""Other samples that they are judged on"""


@dataclass(frozen=True, eq=False)
class RepairInputs:
    """What repairs depend on."""

    network: Network
    table: SiteTable
    calibration: Calibration
    batches: Batches
    plan: Plan
    asked: Repairing


@dataclass(frozen=True, eq=False)
class Repaired:
    """What the plan is exported with."""

    calibration: Calibration
    biases: Mapping[str, np.ndarray]
    """By initializer; empty: those of the file"""
    parameters: TrainedParameters | None = None
    """Of a reconstruction"""
    notes: tuple[str, ...] = ()

    def is_idle(self, calibration: Calibration) -> bool:
        """Whether nothing is other than it was with `calibration`."""
        return self.calibration is calibration and not self.biases and self.parameters is None and not self.notes


def repair(inputs: RepairInputs, job: Job) -> Repaired:
    """The repairs of `inputs.plan` that were asked for and that help; a reconstruction that was stopped goes on. Without data, none."""
    if inputs.batches.origin == "noise":
        return Repaired(inputs.calibration, {})
    calibration, biases, notes = _cheap(inputs)
    made = Repaired(calibration, biases, None, notes)
    return _reconstructed(inputs, made, job) if inputs.asked.steps else made


def _cheap(inputs: RepairInputs) -> tuple[Calibration, Mapping[str, np.ndarray], tuple[str, ...]]:
    """Ranges and biases."""
    from mpqc.quantize.bias_correction import correct_biases
    from mpqc.sensitivity.plan_loss import Trial, trial_losses

    network, table, asked, plan = inputs.network, inputs.table, inputs.asked, inputs.plan
    losses = partial(trial_losses, network, table, _held_out(inputs.batches))
    calibration, notes = inputs.calibration, []
    chosen = _chosen_ranges(inputs)
    if chosen:
        other = calibration.with_methods(chosen)
        own, found = losses([Trial(plan, calibration), Trial(plan, other)])
        calibration = other if found < own else calibration
        notes += [f"ranges of {len(chosen)} tensors suit the output: loss {own:.3g} -> {found:.3g}"] if found < own else []
    if asked.bias_correction not in (AUTO, ON):
        return calibration, {}, tuple(notes)
    biases = correct_biases(network, table, plan, calibration, _first(inputs.batches), samples=SAMPLES)
    if asked.bias_correction == AUTO and biases:
        own, found = losses([Trial(plan, calibration), Trial(plan, calibration, biases)])
        biases = biases if found < own else {}
    return calibration, biases, tuple(notes)


def _chosen_ranges(inputs: RepairInputs) -> dict[str, str]:
    from mpqc.sensitivity.range_choice import choose_ranges

    if not inputs.asked.chooses_ranges:
        return {}
    return choose_ranges(inputs.network, inputs.table, inputs.calibration, _first(inputs.batches), inputs.plan, seed=inputs.asked.seed)


def _first(batches: Batches) -> Batches:
    return replace(batches, limit=min(batches.limit, SAMPLES))


def _held_out(batches: Batches) -> Batches:
    """JUDGED others than the first SAMPLES, as far as there are any."""
    from mpqc.data.batches import skipping

    return skipping(batches, SAMPLES, JUDGED)


def _reconstructed(inputs: RepairInputs, made: Repaired, job: Job) -> Repaired:
    try:
        found = _reconstruction(inputs, made, job)
    except ModelError as error:
        job.progress.warn(f"no reconstruction: {error}")
        return replace(made, notes=(*made.notes, f"no reconstruction: {error}"))
    if found.after >= found.before:
        return replace(made, notes=(*made.notes, f"reconstruction does not help: loss {found.before:.3g} -> {found.after:.3g}"))
    note = f"{found.blocks} blocks reconstructed in {inputs.asked.steps} steps each: loss {found.before:.3g} -> {found.after:.3g}"
    return replace(made, parameters=found.parameters, notes=(*made.notes, note))


def _reconstruction(inputs: RepairInputs, made: Repaired, job: Job) -> Reconstruction:
    import torch

    from mpqc.sensitivity.task import find_task
    from mpqc.strategies.reconstruction import Effort, Keep, reconstruct

    path = checkpoint_path(job.workspace, "reconstruction", replace(inputs, calibration=made.calibration), ".pt")
    keep = Keep(lambda: _load(path), lambda state: _save(job, path, state))
    samples = torch.from_numpy(_samples(inputs.network, inputs.batches))
    task = find_task(inputs.network, _first(inputs.batches))
    effort = Effort(inputs.asked.steps, inputs.asked.seed)
    return reconstruct(
        inputs.network, inputs.table, inputs.plan, made.calibration, task, samples, effort, biases=made.biases, keep=keep, tell=job.progress.say
    )


def _samples(network: Network, batches: Batches) -> np.ndarray:
    """All samples in one array. Raises ModelError for a network that does not have one float input with a batch dimension."""
    if len(network.inputs) != 1 or network.inputs[0].dtype != "float32" or batches.batch_size is None:
        raise ModelError("takes networks with one float input that has a batch dimension", where=network.name)
    return np.concatenate([next(iter(batch.values())) for batch in batches])


def _load(path: Path) -> Mapping[str, Any] | None:
    import torch

    from mpqc.training.checkpoint import read_checkpoint
    from mpqc.training.processes import Group

    return read_checkpoint(path, Group(), torch.device("cpu"))


def _save(job: Job, path: Path, state: Mapping[str, Any]) -> None:
    from mpqc.training.checkpoint import write_checkpoint

    write_checkpoint(job.workspace, path, state)
