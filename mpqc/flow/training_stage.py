"""The training phase as a stage of a compile, with a checkpoint in the output folder."""

from __future__ import annotations

import json
from pathlib import Path

from mpqc.strategies import FIXED, make_strategy
from mpqc.training.phase import Keeping, Start, Trained, train
from mpqc.training.processes import Group
from mpqc.training.samples import Samples
from mpqc.values.recipe import Recipe
from mpqc.values.request import TRAINED
from mpqc.workspace.job import Job
from mpqc.workspace.launch import launched


def train_from(start: Start, strategy: str, recipe: Recipe, samples: Samples, teacher_cache: Path | None, job: Job) -> Trained:
    """Trains from the plan of `start`: at its bits, or with a strategy of TRAINED that changes them inside the budgets. See phase.train."""
    name = strategy if strategy in TRAINED else FIXED
    path = job.workspace.checkpoint("training", samples.digest, *_inputs(start, name, recipe)).with_suffix(".pt")
    return train(start, make_strategy(name), recipe, samples, Keeping(job, path, teacher_cache), Group(**vars(launched())))


def _inputs(start: Start, strategy: str, recipe: Recipe) -> tuple[str, ...]:
    """What the result depends on, for the checkpoint's name."""
    bits = json.dumps([[choice.site, choice.bits] for choice in start.plan.choices])
    budgets = ";".join(map(str, start.budgets))
    fixed = json.dumps(sorted(start.fixed.items()))
    grids = repr((start.calibration.method, start.calibration.samples))
    return (start.network.digest, start.teacher.digest, grids, strategy, bits, budgets, fixed, start.plan.target, repr(recipe))
