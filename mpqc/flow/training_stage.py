"""The training phase as a stage of a compile: from an analysis and its plan, with a checkpoint in the output folder."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from mpqc.strategies import TRAINED
from mpqc.training.phase import Start, Trained, train
from mpqc.training.processes import Group
from mpqc.training.samples import Samples
from mpqc.values.plan import Plan
from mpqc.workspace.folder import Workspace
from mpqc.workspace.launch import launched
from mpqc.workspace.progress import Progress

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel
    from mpqc.flow.pipeline import Analysis, Options


def train_analysis(analysis: Analysis, plan: Plan, options: Options, cost_model: CostModel, workspace: Workspace, progress: Progress) -> Trained:
    """Trains from `plan`: at its bits, or with a strategy of strategies.TRAINED that changes them inside the budgets. See phase.train."""
    assert options.training is not None
    assert analysis.samples is not None
    strategy = options.strategy if options.strategy in TRAINED else "fixed"
    samples = _digest(analysis.samples)
    start = Start(
        network=analysis.network,
        table=analysis.table,
        calibration=analysis.calibration,
        sensitivities=analysis.sensitivities,
        cost_model=cost_model,
        budgets=options.budgets,
        fixed=options.fixed,
        plan=plan,
        teacher_cache=options.teacher_cache,
        samples_key=(samples, repr((options.mean, options.std))),
        original=analysis.original,
    )
    path = workspace.checkpoint("training", samples, *_inputs(analysis, plan, options, strategy)).with_suffix(".pt")
    return train(start, strategy, options.training, analysis.samples, workspace, path, progress, Group(**vars(launched())))


def _inputs(analysis: Analysis, plan: Plan, options: Options, strategy: str) -> tuple[str, ...]:
    """What the result depends on, for the checkpoint's name."""
    bits = json.dumps([[choice.site, choice.bits] for choice in plan.choices])
    budgets = ";".join(map(str, options.budgets))
    fixed = json.dumps(sorted(options.fixed.items()))
    grids = hashlib.sha256(repr((options.ranges, options.samples, options.mean, options.std)).encode()).hexdigest()
    teacher = () if analysis.original is None else (analysis.original.digest,)
    return (analysis.network.digest, *teacher, grids, strategy, bits, budgets, fixed, plan.target, repr(options.training))


def _digest(samples: Samples) -> str:
    digest = hashlib.sha256()
    for name in sorted(samples.arrays):
        digest.update(np.ascontiguousarray(samples.arrays[name]).data)
    if samples.labels is not None:
        digest.update(np.ascontiguousarray(samples.labels).data)
    return digest.hexdigest()
