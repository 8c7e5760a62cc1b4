"""The training loop: steps, evaluations, the best state so far, checkpoints."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from mpqc.training.checkpoint import write_checkpoint
from mpqc.training.faults import check_gradients, check_loss
from mpqc.training.interrupt import Interrupts
from mpqc.training.loss import Objective
from mpqc.training.optimizer import make_optimizer, schedule
from mpqc.training.oscillation import Oscillations
from mpqc.training.precision import arithmetic
from mpqc.training.processes import Group
from mpqc.training.samples import Samples, augmented, share, step_indices
from mpqc.training.session import Position, Session, TrainingBatch
from mpqc.training.strategy import Strategy
from mpqc.training.targets import Targets
from mpqc.training.trainable import Trainable
from mpqc.values.history import Evaluation, History
from mpqc.values.plan import Plan
from mpqc.values.recipe import Recipe
from mpqc.workspace.folder import Workspace
from mpqc.workspace.progress import Progress

STATISTICS = 4096
"""Samples over which the statistics of BatchNorm are measured again at the end"""
OVERRUN = 1.1
"""A phase given a time ends at this multiple of it, whatever the speed of the first steps promised"""


@dataclass(frozen=True, eq=False)
class Best:
    """The best state so far whose plan is inside the budgets."""

    evaluation: Evaluation
    root: Mapping[str, Tensor]
    strategy: Mapping[str, Any]
    frozen: bool


@dataclass(frozen=True, eq=False)
class Equipment:
    """What a loop works with."""

    trainable: Trainable
    teacher: fx.GraphModule
    targets: Targets
    objective: Objective
    samples: Samples
    recipe: Recipe
    group: Group
    device: torch.device


class Loop:
    """One phase. `session` is what the strategy sees; its position moves with the steps."""

    def __init__(self, equipment: Equipment, position: Position) -> None:
        self.equipment, self.position = equipment, position
        self.recipe, self.group, self.root = equipment.recipe, equipment.group, equipment.trainable.root
        self.history = History()
        self.best: Best | None = None
        self._batch: TrainingBatch | None = None
        self._taught: tuple[TrainingBatch, tuple[Tensor, ...]] | None = None

    def begin(self, strategy: Strategy, session: Session) -> None:
        """Install the strategy's quantizers; every process takes the values of the first."""
        self.strategy, self.session = strategy, session
        strategy.prepare(session)
        self.root.to(self.equipment.device).train()
        self.group.same([*self.root.parameters(), *self.root.buffers()])
        self.optimizer = make_optimizer(self.equipment.trainable, strategy, self.recipe)
        self.oscillations = Oscillations(self.equipment.trainable)
        self._plan: Plan | None = strategy.plan()

    # ---- one step

    def batch(self) -> TrainingBatch:
        """This process's part of the batch of the present step."""
        if self._batch is None:
            self._batch, self._weight = self._part(self.position.step)
        return self._batch

    def batch_of(self, step: int) -> TrainingBatch:
        """This process's part of the batch of another step."""
        return self._part(step)[0]

    def _part(self, step: int) -> tuple[TrainingBatch, float]:
        """This process's part of a batch, and what its mean loss weighs in the mean over the processes."""
        samples = self.equipment.samples
        indices = step_indices(samples.trained, step, self.recipe.batch, self.recipe.seed)
        whole = augmented(samples.batch(indices, self.equipment.device), self.recipe, step)
        rows = share(indices, self.group)
        part = TrainingBatch(tuple(value[rows] for value in whole.inputs), None if whole.labels is None else whole.labels[rows])
        return part, (rows.stop - rows.start) * self.group.size / len(indices)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """See Session.loss."""
        with arithmetic(self.recipe, self.equipment.device):
            if self._taught is None or self._taught[0] is not batch:
                with torch.no_grad():
                    self._taught = (batch, self._targets(batch))
            outputs = self.root(*batch.inputs)
        return self.equipment.objective(outputs, self._taught[1], batch.labels)

    def _targets(self, batch: TrainingBatch) -> tuple[Tensor, ...]:
        if batch is not self._batch:
            return self.equipment.teacher(*batch.inputs)  # type: ignore[no-any-return]
        return self.equipment.targets.of_step(self.position.step, batch)

    def step(self) -> None:
        """One optimizer step. Raises TrainingError where loss or gradients are not finite; weights are then as before it."""
        step, trainable = self.position.step, self.equipment.trainable
        self.strategy.before_step(step)
        loss = self.backward(step)
        self.strategy.after_backward(step)
        schedule(self.optimizer, self.recipe, self.position)
        self.optimizer.step()
        trainable.constrain()
        if self.recipe.oscillation == "freeze":
            self.oscillations.after_step(self.position)
        self.strategy.after_step(step)
        self._batch, self.position.step = None, step + 1
        self.history.losses.append(loss)
        self._note_plan()

    def backward(self, step: int) -> float:
        """Loss and gradients of the present batch, averaged over the processes."""
        batch = self.batch()
        loss = self.loss(batch)
        value = float(self.group.mean(loss.detach() * self._weight))
        check_loss(value, self.root, batch, step)
        extra = self.strategy.regularizer()
        total = loss * self._weight if extra is None else loss * self._weight + extra
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.group.average_gradients(self.parameters())
        check_gradients(self.root, step)
        return value

    def time_step(self) -> float:
        """Seconds of forward and backward pass of the present batch, with the float network's."""
        self._taught, begun = None, time.monotonic()
        self.backward(self.position.step)
        return time.monotonic() - begun

    def parameters(self) -> list[torch.nn.Parameter]:
        """Everything that the optimizer moves."""
        return [item for group in self.optimizer.param_groups for item in group["params"]]

    def freeze(self) -> None:
        """From now on bits stay."""
        self.position.frozen = True
        self.strategy.freeze()
        self._note_plan()

    def _note_plan(self) -> None:
        plan = self.strategy.plan()
        self.history.note_plan(self.position.step, self._plan, plan)
        self._plan = plan if plan is not None else self._plan

    # ---- the whole phase

    def run(self, workspace: Workspace, path: Path, progress: Progress) -> None:
        """Steps until the end of the schedule. Ctrl-C ends it between two steps, with a checkpoint."""
        self._started, self._before = time.monotonic(), self.history.seconds
        saver = _Saver(self, workspace, path)
        with Interrupts(active=True) as interrupts:
            while not self.finished():
                if not self.position.frozen and self.position.fraction >= self.recipe.freeze:
                    self.freeze()
                self.step()
                if self._evaluates():
                    self.evaluate()
                    progress.say(self._line())
                saver.after_step(interrupted=interrupts.pending is not None)
                interrupts.check()
        if not self.position.frozen:
            self.freeze()
        saver.save()

    def finished(self) -> bool:
        """Whether the steps, or the time that the phase may take, are used up."""
        late = self.recipe.seconds is not None and self._seconds() > OVERRUN * self.recipe.seconds
        return self.position.step >= self.position.steps or late

    def _seconds(self) -> float:
        self.history.seconds = self._before + time.monotonic() - self._started
        seconds = torch.tensor(self.history.seconds, device=self.equipment.device)
        return float(self.group.mean(seconds))

    def _evaluates(self) -> bool:
        """At even distances, and after the last step."""
        marks = max(self.recipe.evaluations, 1)
        before, now = ((step * marks) // self.position.steps for step in (self.position.step - 1, self.position.step))
        return now > before or self.position.step == self.position.steps

    def _line(self) -> str:
        evaluation = self.history.evaluations[-1]
        accuracy = "" if evaluation.accuracy is None else f", accuracy {evaluation.accuracy:.2f} %"
        done = f"step {self.position.step} of {self.position.steps}"
        return f"  {done}: loss {self.history.losses[-1]:.4g}, held out {evaluation.loss:.4g}{accuracy}, {self._seconds():.0f} s"

    # ---- evaluation

    def evaluate(self) -> Evaluation:
        """The held-out part in float32; keeps the state where it is the best inside the budgets."""
        found = self.measured()
        self.history.evaluations.append(found)
        if found.inside and (self.best is None or found.rank >= self.best.evaluation.rank):
            self.best = self._state(found)
        return found

    def _state(self, evaluation: Evaluation) -> Best:
        return Best(evaluation, _copied(self.root.state_dict()), copy.deepcopy(self.strategy.state_dict()), self.position.frozen)

    @torch.no_grad()
    def measured(self) -> Evaluation:
        """Loss and accuracy of the present state on the held-out part, over all processes."""
        self.root.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.equipment.device)
        for index, batch in enumerate(self.equipment.samples.evaluation(self.equipment.device, self.group)):
            outputs, count = self.root(*batch.inputs), len(batch.inputs[0])
            loss = self.equipment.objective(outputs, self.equipment.targets.of_held_out(index, batch), batch.labels)
            right = 0 if batch.labels is None else int((self.equipment.objective.logits(outputs).argmax(1) == batch.labels).sum())
            sums += torch.tensor([float(loss) * count, right, count], dtype=torch.float64, device=self.equipment.device)
        self.root.train()
        loss_sum, right, count = self.group.mean(sums).tolist()
        accuracy = 100 * right / count if self.equipment.samples.labels is not None else None
        return Evaluation(self.position.step, loss_sum / count, accuracy, self.strategy.plan() is not None)

    @torch.no_grad()
    def measure_statistics(self) -> None:
        """The statistics of BatchNorm anew, with the weights and grids as they are, on pictures that are augmented as the trained ones are.

        Weights of few bits have fitted the statistics of the pictures that were shown; those of plain ones are worse even for plain pictures.
        """
        norms = self.equipment.trainable.norms
        momenta = [norm.momentum for norm in norms]
        batches = self.equipment.samples.statistics(self.equipment.device, self.group, STATISTICS)
        for index, batch in enumerate(batches if norms else ()):
            for norm in norms:
                norm.momentum = 1 / (index + 1)
            self.root(*augmented(batch, self.recipe, self.position.steps + index).inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def settle(self) -> Evaluation:
        """Load the best state, with statistics measured anew where that is better; returns its evaluation.

        The last state counts as the best unless an earlier one is clearly better: chance moves the accuracies of late states by more than they
        differ, and learning rates end low for the sake of the last one.
        """
        if not self.history.evaluations or self.history.evaluations[-1].step != self.position.step:
            self.evaluate()
        if self.best is None:
            self.evaluate()
        assert self.best is not None, "a strategy without a plan after freeze"
        last = self.history.evaluations[-1]
        if last.inside and not self.best.evaluation.clearly_better(last, len(self.equipment.samples.held_out)):
            self.best = self._state(last)
        self._load(self.best)
        self.measure_statistics()
        again = self.measured()
        if again.rank < self.best.evaluation.rank:
            self._load(self.best)
            return self.best.evaluation
        return replace(again, step=self.best.evaluation.step)

    def _load(self, best: Best) -> None:
        self.strategy.load_state_dict(best.strategy)
        self.root.load_state_dict(best.root)
        if not best.frozen:
            self.strategy.freeze()

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        best = self.best
        return {
            "position": {"steps": self.position.steps, "step": self.position.step, "frozen": self.position.frozen},
            "root": self.root.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "strategy": self.strategy.state_dict(),
            "oscillations": self.oscillations.state_dict(),
            "generator": self.session.generator.get_state(),
            "history": self.history.state_dict(),
            "best": None if best is None else {**vars(best), "evaluation": vars(best.evaluation)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, after begin."""
        self._batch = self._taught = None  # what the strategy looked at: the batch of step 0
        for name, value in state["position"].items():
            setattr(self.position, name, value)
        self.strategy.load_state_dict(state["strategy"])
        self.root.load_state_dict(state["root"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.oscillations.load_state_dict(state["oscillations"])
        self.session.generator.set_state(state["generator"].cpu())
        self.history = History.of(state["history"])
        best = state["best"]
        self.best = None if best is None else Best(**{**best, "evaluation": Evaluation(**best["evaluation"])})
        self._plan = self.strategy.plan()


class _Saver:
    """Writes a checkpoint every so often; the first process alone."""

    def __init__(self, loop: Loop, workspace: Workspace, path: Path) -> None:
        self.loop, self.workspace, self.path = loop, workspace, path
        self.last = time.monotonic()

    def after_step(self, *, interrupted: bool) -> None:
        if interrupted or time.monotonic() - self.last >= self.loop.recipe.checkpoint_seconds:
            self.save()

    def save(self) -> None:
        self.loop._seconds()
        if self.loop.group.leads:
            write_checkpoint(self.workspace, self.path, self.loop.state_dict())
        self.last = time.monotonic()


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
