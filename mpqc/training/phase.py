"""One training phase from start to end: a network, a plan to start with and a strategy give trained weights, learned grids and a final plan."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mpqc.errors import ModelError
from mpqc.sensitivity.task import Task, find_task
from mpqc.training.batch_free import batch_size
from mpqc.training.checkpoint import check_threads, read_checkpoint
from mpqc.training.faults import refuse_untrainable
from mpqc.training.folding import TrainedParameters, fold, overflowing
from mpqc.training.loop import Equipment, Loop
from mpqc.training.loss import Objective, classes
from mpqc.training.precision import arithmetic, chosen_device
from mpqc.training.processes import Group, join, leave
from mpqc.training.samples import Samples, check_classes
from mpqc.training.session import Position, Session
from mpqc.training.strategy import Finished, Strategy
from mpqc.training.targets import Targets
from mpqc.training.trainable import Trainable, make_teacher, make_trainable, start_batch_norm
from mpqc.values.budget import Budget
from mpqc.values.history import TrainingSummary
from mpqc.values.plan import Plan, parse_plan
from mpqc.values.recipe import Recipe
from mpqc.values.sensitivities import Sensitivities
from mpqc.workspace.job import Job

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel
    from mpqc.quantize.calibration import Calibration
    from mpqc.values.network import Network
    from mpqc.values.site import SiteTable

STATISTICS = 1024
"""Samples that BatchNorm starts from"""
TRIALS = 4
"""Steps that are timed where a phase is given a time"""
SOLVER_SECONDS = 10.0
ALLOCATIONS = 4
"""Of a phase that is too short for those of recipe.tau"""


@dataclass(frozen=True, eq=False)
class Start:
    """What a phase starts from."""

    network: Network
    table: SiteTable
    calibration: Calibration
    sensitivities: Sensitivities | None
    cost_model: CostModel
    budgets: tuple[Budget, ...]
    fixed: Mapping[str, int | None]
    plan: Plan
    """Inside the budgets"""
    original: Network | None = None
    """The network that teaches, where it is not `network` itself; its outputs have the same names"""

    @property
    def teacher(self) -> Network:
        """The float network that teaches."""
        return self.original or self.network


@dataclass(frozen=True, eq=False)
class Trained:
    """What a phase gives."""

    plan: Plan
    parameters: TrainedParameters
    summary: TrainingSummary


@dataclass(frozen=True, eq=False)
class Keeping:
    """Where a phase keeps what it has done so far; nothing in it changes a result."""

    job: Job
    path: Path
    """Of the checkpoint, in the job's workspace"""
    teacher_cache: Path | None = None
    """Folder that keeps the float network's outputs for phases on the same samples"""


@dataclass(frozen=True, eq=False)
class Machine:
    """What a phase runs on."""

    group: Group = field(default_factory=Group)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    teacher_cache: Path | None = None
    """See Keeping"""


def train(start: Start, strategy: Strategy, recipe: Recipe, samples: Samples, keeping: Keeping, group: Group) -> Trained:
    """Trains, from the checkpoint of `keeping` where there is one.

    Raises ModelError for networks that cannot be trained (named), DataError for labels outside the classes, TrainingError where values stop
    being finite, BudgetInfeasibleError from the strategy's allocations.
    """
    refuse_untrainable(start.network, start.table)
    recipe, progress = paced(recipe), keeping.job.progress
    machine = Machine(group, chosen_device(recipe, group), keeping.teacher_cache)
    join(group, machine.device)
    try:
        start = replace(start, plan=_of_the_first(start.plan, group))
        saved = read_checkpoint(keeping.path, group, machine.device)
        loop = prepare_loop(start, strategy, recipe, samples, machine, resumes=saved is not None)
        if saved is not None:
            loop.load_state_dict(saved)
            if not loop.finished() and machine.device.type == "cpu":
                check_threads(saved, keeping.path)
            progress.say(f"training goes on after step {loop.position.step} of {loop.position.steps}")
        elif recipe.seconds is not None:
            loop.position.steps = affordable_steps(loop, recipe.seconds)
        loop.run(keeping.job.workspace, keeping.path, progress)
        return finish_loop(loop, start)
    finally:
        leave()


def _of_the_first(plan: Plan, group: Group) -> Plan:
    """The plan of the first process, on every one: a solver that time ended may have found others elsewhere."""
    text = group.shared_bytes(plan.to_json().encode() if group.leads else None)
    return plan if group.size == 1 or text is None else parse_plan(text, "the first process")


def paced(recipe: Recipe) -> Recipe:
    """`recipe` with at least ALLOCATIONS re-allocations before the freeze, however few its steps."""
    if recipe.seconds is not None:
        return recipe
    return replace(recipe, tau=min(recipe.tau, max(int(recipe.steps * recipe.freeze) // ALLOCATIONS, 1)))


def prepare_loop(start: Start, strategy: Strategy, recipe: Recipe, samples: Samples, machine: Machine, *, resumes: bool = False) -> Loop:
    """A loop that is about to take its first step; or, where it `resumes`, to be given its state. Raises what `train` does but for TrainingError."""
    group, device = machine.group, machine.device
    task = _task(start, samples, device)
    trainable = make_trainable(start.network, start.table, start.calibration, task, batch_norm=recipe.batch_norm, group=group)
    teacher = make_teacher(start.teacher, task)
    for module in (trainable.root, teacher):
        module.to(device)
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _check_batch(start.network, teacher, samples, device)
    if samples.labels is not None:
        check_classes(samples.labels, _classes(task, teacher, samples, device))
    start_batch_norm(trainable, (batch.inputs for batch in samples.statistics(device, group, STATISTICS)))
    targets = Targets(teacher, machine.teacher_cache, _targets_key(start.teacher, samples, recipe, machine))
    equipment = Equipment(trainable, teacher, targets, Objective(task, recipe, samples.labels is not None), samples, recipe, group, device)
    loop = Loop(equipment, Position(recipe.steps))
    loop.begin(strategy, replace(_session(start, recipe, trainable, loop, group), resumes=resumes))
    return loop


def _targets_key(teacher: Network, samples: Samples, recipe: Recipe, machine: Machine) -> tuple[str, ...]:
    device, group = machine.device, machine.group
    half = isinstance(arithmetic(recipe, device), torch.autocast)
    facts = (recipe.seed, recipe.batch, recipe.augment, recipe.held_out, half, device.type, group.rank, group.size)
    return (teacher.digest, samples.content, repr(facts))


def _session(start: Start, recipe: Recipe, trainable: Trainable, loop: Loop, group: Group) -> Session:
    from mpqc.allocator import allocate, evaluate

    def solve(sensitivities: Sensitivities, *, seconds: float | None = None) -> Plan:
        return allocate(
            start.table,
            sensitivities,
            start.cost_model,
            start.budgets,
            seconds=seconds or SOLVER_SECONDS,
            seed=recipe.seed,
            fixed=start.fixed,
        )

    return Session(
        network=start.network,
        table=start.table,
        calibration=start.calibration,
        sensitivities=start.sensitivities,
        cost_model=start.cost_model,
        budgets=start.budgets,
        fixed=start.fixed,
        plan=start.plan,
        recipe=recipe,
        module=trainable,
        allocate=solve,
        check=lambda plan: evaluate(start.table, plan, start.cost_model, start.budgets),
        loss=loop.loss,
        mean=group.mean,
        largest=group.largest,
        generator=torch.Generator().manual_seed(recipe.seed),
        position=loop.position,
        batch=loop.batch,
        batch_of=loop.batch_of,
        in_nats=all(term.axis is not None for term in loop.equipment.objective.task.terms),
    )


def _task(start: Start, samples: Samples, device: torch.device) -> Task:
    """Terms and variances, over a few of the samples in batches of the file's size."""
    size = batch_size(start.network)
    if size is None:
        raise ModelError("its inputs have no batch dimension in common", where=start.network.name, hint="leave --qat-steps out")
    few = samples.trained[: max(size, 64) // size * size]
    parts = [few[place : place + size] for place in range(0, len(few) - size + 1, size)] or [samples.trained[[0] * size]]
    names = [spec.name for spec in start.network.inputs]
    return find_task(
        start.teacher,
        [dict(zip(names, (item.cpu().numpy() for item in samples.batch(part, torch.device("cpu")).inputs), strict=True)) for part in parts],
    )


def _check_batch(network: Network, teacher: torch.fx.GraphModule, samples: Samples, device: torch.device) -> None:
    """Raises ModelError where the graph gives other results for several samples than for each alone."""
    indices = samples.trained[: min(4, len(samples.trained))]
    whole = samples.batch(indices, device).inputs
    size = 1 if batch_size(network) == 1 else len(indices)
    with torch.no_grad():
        try:
            together = teacher(*whole)
            alone = [teacher(*(item[row : row + size] for item in whole)) for row in range(0, len(indices), size)]
            same = all(torch.allclose(a, torch.cat(b), rtol=1e-2, atol=1e-3) for a, b in zip(together, zip(*alone, strict=True), strict=True))
        except (RuntimeError, ValueError) as error:
            raise _fixed_size(network, str(error).splitlines()[0]) from error
    if not same:
        raise _fixed_size(network, "results of one sample depend on the others")


def _fixed_size(network: Network, why: str) -> ModelError:
    hint = "export it with a batch dimension that is not fixed"
    return ModelError(f"runs with batches of {batch_size(network)} alone", where=network.name, why=why, hint=hint)


def _classes(task: Task, teacher: torch.fx.GraphModule, samples: Samples, device: torch.device) -> int:
    with torch.no_grad():
        return classes(task, teacher(*samples.batch(samples.trained[:1], device).inputs))


def affordable_steps(loop: Loop, seconds: float) -> int:
    """How many steps fit into `seconds` with the evaluations, by the time that a few take; every process gets the same number."""
    before = {name: value.clone() for name, value in loop.root.state_dict().items()}
    times = [loop.time_step() for _ in range(TRIALS)]
    begun = time.monotonic()
    loop.measured()
    evaluations = (time.monotonic() - begun) * (loop.recipe.evaluations + 3)
    loop.root.load_state_dict(before)
    loop.optimizer.zero_grad(set_to_none=True)
    found = loop.group.mean(torch.tensor([min(times[1:]), evaluations], device=loop.equipment.device)).tolist()
    return max(int((seconds - found[1]) / found[0]), 1)


def finish_loop(loop: Loop, start: Start) -> Trained:
    """The best state of a loop that has run, folded. The plan is called by its strategy, or by what it was called where no bits can change."""
    chosen, strategy = loop.settle(), loop.strategy
    finished = strategy.finish()
    plan = replace(loop.session.check(finished.plan), proof=finished.plan.proof, strategy=strategy.name if strategy.decides else start.plan.strategy)
    loop.root.eval()
    parameters = fold(loop.equipment.trainable, plan)
    floats = overflowing(loop.equipment.trainable, parameters)
    if floats:
        loop.session.notes.append(f"trained biases outside int32, so these nodes stay float: {', '.join(floats)}")
    return Trained(plan, parameters, _summary(loop, finished, strategy.name, chosen.step))


def _summary(loop: Loop, finished: Finished, strategy: str, best: int) -> TrainingSummary:
    equipment, recipe = loop.equipment, loop.recipe
    half = isinstance(arithmetic(recipe, equipment.device), torch.autocast)
    raw = {} if finished.raw is None else {choice.site: choice.bits for choice in finished.raw.choices}
    share = loop.oscillations.frozen_share()
    frozen = (f"{100 * share:.2f} % of the weights oscillated and were frozen",) if share else ()
    return TrainingSummary(
        strategy=strategy,
        steps=loop.position.step,
        seconds=loop.history.seconds,
        batch=min(recipe.batch, len(equipment.samples.trained)),
        samples=len(equipment.samples.trained),
        held_out=len(equipment.samples.held_out),
        processes=loop.group.size,
        arithmetic=f"{'bfloat16' if half else 'float32'} on {equipment.device.type}",
        labelled=equipment.samples.labels is not None,
        curve=loop.history.curve(),
        evaluations=tuple(loop.history.evaluations),
        changes=tuple(loop.history.changes),
        best_step=best,
        raw_bits=raw,
        notes=(*loop.session.notes, *finished.notes, *frozen),
        allocation_seconds=finished.seconds,
    )
