"""The training phase as a stage of a compile. It keeps its own checkpoint while it runs, in a file that all of its inputs name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.cost.model import CostModel
from mpqc.strategies import FIXED, make_strategy
from mpqc.training.phase import Keeping, Start, Trained, train
from mpqc.training.processes import Group
from mpqc.training.samples import Samples
from mpqc.values.budget import Budget
from mpqc.values.plan import Plan
from mpqc.values.recipe import Recipe
from mpqc.values.request import TRAINED
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import SiteTable
from mpqc.workspace.job import Job
from mpqc.workspace.launch import launched
from mpqc.workspace.phase import checkpoint_path

if TYPE_CHECKING:
    from mpqc.quantize.calibration import Calibration
    from mpqc.targets import Target
    from mpqc.values.network import Network


@dataclass(frozen=True, eq=False)
class TrainingInputs:
    """What trained weights and bits depend on."""

    network: Network
    table: SiteTable
    calibration: Calibration
    sensitivities: Sensitivities | None
    target: Target
    budgets: tuple[Budget, ...]
    fixed: Mapping[str, int | None]
    plan: Plan
    """Inside the budgets"""
    original: Network | None
    """The network that teaches, where it is another"""
    strategy: str
    """Of the request; FIXED where it is none that trains"""
    recipe: Recipe
    samples: Samples


def training_strategy(asked: str) -> str:
    """The strategy of the phase for the one of a request: plans that were chosen before stay what they are."""
    return asked if asked in TRAINED else FIXED


def train_from(inputs: TrainingInputs, teacher_cache: Path | None, job: Job) -> Trained:
    """Trains from the plan: at its bits, or with a strategy that changes them inside the budgets. See phase.train."""
    path = checkpoint_path(job.workspace, "training", inputs, ".pt")
    strategy, group = make_strategy(inputs.strategy), Group(**vars(launched()))
    return train(_start(inputs), strategy, inputs.recipe, inputs.samples, Keeping(job, path, teacher_cache), group)


def _start(inputs: TrainingInputs) -> Start:
    return Start(
        network=inputs.network,
        table=inputs.table,
        calibration=inputs.calibration,
        sensitivities=inputs.sensitivities,
        cost_model=CostModel(inputs.target).for_network(inputs.table),
        budgets=inputs.budgets,
        fixed=inputs.fixed,
        plan=inputs.plan,
        original=inputs.original,
    )
