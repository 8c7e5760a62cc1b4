"""What makes a chosen plan better without training: ranges that suit the output, weights rounded together, corrected biases, reconstruction. Each is
kept only where it lowers the loss on calibration data that it was not made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpqc.errors import ModelError
from mpqc.flow.phases import ROUNDING, RoundingInputs
from mpqc.values.plan import Plan
from mpqc.values.request import AUTO, GPTQ, NEAREST, OFF, ON, Repairing
from mpqc.values.site import SiteTable
from mpqc.workspace.job import Job
from mpqc.workspace.phase import checkpoint_path

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.quantize.calibration import Calibration
    from mpqc.quantize.rounding import Rounded
    from mpqc.sensitivity.plan_loss import Trial
    from mpqc.strategies.reconstruction import Reconstruction
    from mpqc.training.folding import TrainedParameters
    from mpqc.values.network import Network

SAMPLES = 32
"""Samples that ranges and biases are made from"""
ROUNDED = 64
"""Samples that weights are rounded on"""
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
    constants: Mapping[str, np.ndarray]
    """Biases, and weights on their grids, by initializer; those that are missing are the file's"""
    parameters: TrainedParameters | None = None
    """Of a reconstruction"""
    notes: tuple[str, ...] = ()

    def is_idle(self, calibration: Calibration) -> bool:
        """Whether nothing is other than it was with `calibration`."""
        return self.calibration is calibration and not self.constants and self.parameters is None and not self.notes


def repair(inputs: RepairInputs, job: Job) -> Repaired:
    """The repairs of `inputs.plan` that were asked for and that help; a reconstruction that was stopped goes on. Without data, none."""
    if inputs.batches.origin == "noise":
        return Repaired(inputs.calibration, {})
    calibration, constants, notes = _cheap(inputs, job)
    made = Repaired(calibration, constants, None, notes)
    return _reconstructed(inputs, made, job) if inputs.asked.steps else made


def _cheap(inputs: RepairInputs, job: Job) -> tuple[Calibration, Mapping[str, np.ndarray], tuple[str, ...]]:
    """Ranges, and constants in the place of the file's."""
    from mpqc.sensitivity.plan_loss import Trial

    calibration, range_notes = _suitable_ranges(inputs)
    ways = _constants(inputs, calibration, job)
    if len(ways) == 1:
        return calibration, next(iter(ways.values())), range_notes
    losses = dict(zip(ways, _losses(inputs, [Trial(inputs.plan, calibration, constants) for constants in ways.values()]), strict=True))
    best = min(ways, key=losses.__getitem__)
    return calibration, ways[best], (*range_notes, *_notes(best, losses))


def _suitable_ranges(inputs: RepairInputs) -> tuple[Calibration, tuple[str, ...]]:
    from mpqc.sensitivity.plan_loss import Trial

    calibration, chosen = inputs.calibration, _chosen_ranges(inputs)
    if not chosen:
        return calibration, ()
    other = calibration.with_methods(chosen)
    own, found = _losses(inputs, [Trial(inputs.plan, calibration), Trial(inputs.plan, other)])
    return (other, (f"ranges of {len(chosen)} tensors suit the output: loss {own:.3g} -> {found:.3g}",)) if found < own else (calibration, ())


@dataclass(frozen=True)
class _Way:
    """How constants come about."""

    rounded: int = 0
    """Layers whose weights are rounded together"""
    corrected: bool = False
    """Whether biases are"""


def _notes(best: _Way, losses: Mapping[_Way, float]) -> tuple[str, ...]:
    if not best.rounded:
        return ()
    own = min((loss for way, loss in losses.items() if not way.rounded), default=None)
    return (f"weights of {best.rounded} layers rounded together: loss {'' if own is None else f'{own:.3g} -> '}{losses[best]:.3g}",)


def _constants(inputs: RepairInputs, calibration: Calibration, job: Job) -> dict[_Way, Mapping[str, np.ndarray]]:
    """The ways that were asked for, to be compared, with their constants by initializer: one at least."""
    biased = {ON: (True,), OFF: (False,), AUTO: (False, True)}[inputs.asked.bias_correction]
    together = _rounded(inputs, calibration, job)
    ways: dict[_Way, Mapping[str, np.ndarray]] = {}
    if together is not None and together.weights:
        ways = {_Way(len(together.weights), corrected): {**together.weights, **(together.biases if corrected else {})} for corrected in biased}
    if ways and inputs.asked.rounding == GPTQ:
        return ways
    return ways | {_Way(0, corrected): _corrected(inputs, calibration) if corrected else {} for corrected in biased}


def _corrected(inputs: RepairInputs, calibration: Calibration) -> Mapping[str, np.ndarray]:
    from mpqc.quantize.bias_correction import correct_biases

    return correct_biases(inputs.network, inputs.table, inputs.plan, calibration, _first(inputs.batches), samples=SAMPLES)


def _rounded(inputs: RepairInputs, calibration: Calibration, job: Job) -> Rounded | None:
    if inputs.asked.rounding == NEAREST:
        return None
    ahead = _held_out(inputs.batches).start - inputs.batches.start or inputs.batches.limit
    wanted = RoundingInputs(inputs.network, inputs.table, calibration, inputs.batches, inputs.plan, min(ahead, ROUNDED))
    return ROUNDING.run(job.workspace, wanted)


def _losses(inputs: RepairInputs, trials: Sequence[Trial]) -> list[float]:
    """On samples that nothing was made from, as far as there are any."""
    from mpqc.sensitivity.plan_loss import trial_losses

    return trial_losses(inputs.network, inputs.table, _held_out(inputs.batches), trials)


def _chosen_ranges(inputs: RepairInputs) -> dict[str, str]:
    from mpqc.sensitivity.range_choice import choose_ranges

    if not inputs.asked.chooses_ranges:
        return {}
    return choose_ranges(inputs.network, inputs.table, inputs.calibration, _first(inputs.batches), inputs.plan, seed=inputs.asked.seed)


def _first(batches: Batches) -> Batches:
    return replace(batches, limit=min(batches.limit, SAMPLES))


def _held_out(batches: Batches) -> Batches:
    """JUDGED others than the first ROUNDED, as far as there are any."""
    from mpqc.data.batches import skipping

    return skipping(batches, ROUNDED, JUDGED)


def _reconstructed(inputs: RepairInputs, made: Repaired, job: Job) -> Repaired:
    try:
        found = _reconstruction(inputs, made, job)
    except ModelError as error:
        job.progress.warn(f"no reconstruction: {error}")
        return replace(made, notes=(*made.notes, f"no reconstruction: {error}"))
    text = f"reconstruction: {inputs.asked.seconds:.0f} s did not suffice for {found.blocks - found.learned} of {found.blocks} blocks"
    late = (text,) if found.learned < found.blocks else ()
    for note in late:
        job.progress.warn(note)
    if found.after >= found.before:
        return replace(made, notes=(*made.notes, *late, f"reconstruction does not help: loss {found.before:.3g} -> {found.after:.3g}"))
    note = f"{found.learned} blocks reconstructed in {inputs.asked.steps} steps each: loss {found.before:.3g} -> {found.after:.3g}"
    return replace(made, parameters=found.parameters, notes=(*made.notes, note, *late))


def _reconstruction(inputs: RepairInputs, made: Repaired, job: Job) -> Reconstruction:
    import torch

    from mpqc.sensitivity.task import find_task
    from mpqc.strategies.reconstruction import Effort, Keep, reconstruct

    path = checkpoint_path(job.workspace, "reconstruction", replace(inputs, calibration=made.calibration), ".pt")
    keep = Keep(lambda: _load(path), lambda state: _save(job, path, state))
    samples = torch.from_numpy(_samples(inputs.network, inputs.batches))
    task = find_task(inputs.network, _first(inputs.batches))
    effort = Effort(inputs.asked.steps, inputs.asked.seed, inputs.asked.seconds)
    return reconstruct(
        inputs.network, inputs.table, inputs.plan, made.calibration, task, samples, effort, constants=made.constants, keep=keep, tell=job.progress.say
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
