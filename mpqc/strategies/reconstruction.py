"""Block reconstruction without labels: the rounding of a block's weights is learned so that the block's output stays what it was.

After BRECQ (Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR 2021): AdaRound variables of all
weights of a block, squared output errors weighted by the squared gradient of the task loss (the Fisher diagonal), regulariser 0.01 with its
annealed exponent, inputs from the quantized blocks before. Different: steps of activations stay calibrated, and a block takes far fewer steps
than the 20,000 there, at a learning rate that is higher in proportion: with that of 20,000 steps, 0.001, hardly any weight would come to round
the other way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

from mpqc.strategies.blocks import Block, BlockRunner, blocks_of
from mpqc.training.quantizers.base import TrainedState
from mpqc.training.quantizers.rounding import RoundingState, sharpness
from mpqc.values.plan import Plan
from mpqc.values.site import SiteKind

if TYPE_CHECKING:
    from mpqc.quantize.calibration import Calibration
    from mpqc.sensitivity.task import Task
    from mpqc.training.folding import TrainedParameters
    from mpqc.training.trainable import Trainable
    from mpqc.values.network import Network
    from mpqc.values.site import SiteTable

BATCH = 32
TRAVEL = 20.0
"""Learning rate times steps, as published: how far Adam can move a rounding variable in all"""
FASTEST = 0.1
"""Learning rate of very few steps"""
ROUNDING = 0.01
"""Weight of `undecided`"""
WARM_UP = 0.2


@dataclass(frozen=True)
class Effort:
    """How long to reconstruct."""

    steps: int = 500
    """A block"""
    seed: int = 0

    @property
    def rate(self) -> float:
        """Of Adam: moves a variable by TRAVEL at most in all steps."""
        return min(TRAVEL / max(self.steps, 1), FASTEST)


class _GivenState(TrainedState):
    """A calibrated grid that is not trained."""


def reconstruct(
    network: Network, table: SiteTable, plan: Plan, calibration: Calibration, task: Task, samples: Tensor, effort: Effort = Effort()
) -> TrainedParameters:
    """Weights rounded for `plan` on `samples` (float32 inputs of a network with one input): what export_qdq takes beside the plan.

    Weights of layers that lie in no block (several tensors alive all the way) round to nearest.
    """
    from mpqc.training.folding import fold
    from mpqc.training.processes import Group
    from mpqc.training.trainable import make_trainable

    trainable = make_trainable(network, table, calibration, task, batch_norm=False, group=Group())
    states = _install(trainable, plan)
    trainable.root.eval().requires_grad_(False)
    weights = frozenset(site.name for site in table.sites if site.kind is SiteKind.WEIGHT and plan.bits(site.name) is not None)
    blocks = blocks_of(trainable.root, weights)
    work = _Work(trainable, blocks, task, samples, effort)
    for block in blocks:
        work.block(block, states)
    return fold(trainable, plan)


def _install(trainable: Trainable, plan: Plan) -> dict[str, RoundingState]:
    """Calibrated grids at every site; those of weights with rounding to be learned."""
    made: dict[str, TrainedState] = {}
    rounding: dict[str, RoundingState] = {}
    for name, sites in trainable.table.groups.items():
        bits = plan.bits(sites[0].name)
        if bits is None:
            continue
        state: TrainedState = RoundingState() if sites[0].kind is SiteKind.WEIGHT else _GivenState()
        state.set(trainable.calibrated(sites[0].name, bits))
        if isinstance(state, RoundingState):
            state.begin(trainable.weight(sites[0].name))
            rounding[sites[0].name] = state
        made[name] = state
    trainable.install({site.name: made[site.group_name] for site in trainable.table.sites if site.group_name in made})
    return rounding


class _Work:
    """The samples as they are at the block under way: from the float network and from the quantized one."""

    def __init__(self, trainable: Trainable, blocks: tuple[Block, ...], task: Task, samples: Tensor, effort: Effort) -> None:
        self.trainable, self.effort = trainable, effort
        self.runner = BlockRunner(trainable.root)
        self.generator = torch.Generator().manual_seed(effort.seed)
        self.fisher = self._fisher(blocks, task, samples)
        source = frozenset(block.source for block in blocks[:1])
        self.floats = [self._entering(part, source, floating=True) for part in samples.split(BATCH)] if blocks else []
        self.quantized = [self._entering(part, source, floating=False) for part in samples.split(BATCH)] if blocks else []

    def _entering(self, part: Tensor, source: frozenset[fx.Node], *, floating: bool) -> Tensor:
        with torch.no_grad():
            if floating:
                with self.trainable.floating():
                    return next(iter(self.runner.values_at(source, (part,))[1].values()))
            return next(iter(self.runner.values_at(source, (part,))[1].values()))

    def _fisher(self, blocks: tuple[Block, ...], task: Task, samples: Tensor) -> dict[fx.Node, list[Tensor]]:
        """For the end of each block the squared gradients of the loss of every sample, their mean 1."""
        ends = frozenset(block.end for block in blocks)
        found: dict[fx.Node, list[Tensor]] = {end: [] for end in ends}
        for part in samples.split(BATCH):
            with self.trainable.floating(), torch.enable_grad():
                results, seen = self.runner.values_at(ends, (part.clone().requires_grad_(),))
                observed = {term.tensor: value for term, value in zip(task.terms, results, strict=True)}
                probes = task.probes(observed, self.generator)
                gradients = torch.autograd.grad(list(results), list(seen.values()), probes, allow_unused=True)
            for end, gradient in zip(seen, gradients, strict=True):
                found[end].append(torch.ones_like(seen[end].detach()) if gradient is None else gradient.square())
        return {end: _scaled(parts) for end, parts in found.items()}

    def block(self, block: Block, states: dict[str, RoundingState]) -> None:
        """Learn the rounding of a block, then move all samples behind it."""
        with torch.no_grad(), self.trainable.floating():
            targets = [self.runner.run_block(block, value) for value in self.floats]
        self._learn(block, [states[name] for name in block.weights], targets)
        with torch.no_grad():
            self.quantized = [self.runner.run_block(block, value) for value in self.quantized]
        self.floats = targets

    def _learn(self, block: Block, states: list[RoundingState], targets: list[Tensor]) -> None:
        for state in states:
            state.choice.requires_grad_(True)
            state.train()
        optimizer = torch.optim.Adam([state.choice for state in states], lr=self.effort.rate)
        for step in range(self.effort.steps):
            part = int(torch.randint(len(targets), (1,), generator=self.generator))
            error = self.runner.run_block(block, self.quantized[part]) - targets[part]
            loss = (error.square() * self.fisher[block.end][part]).flatten(1).sum(1).mean() / max(error[0, 0].numel(), 1)
            if step >= WARM_UP * self.effort.steps:
                beta = sharpness(step / self.effort.steps, WARM_UP)
                loss = loss + ROUNDING * torch.stack([state.undecided(beta) for state in states]).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        for state in states:
            state.choice.requires_grad_(False)
            state.eval()


def _scaled(parts: list[Tensor]) -> list[Tensor]:
    mean = torch.stack([part.mean() for part in parts]).mean().clamp(min=1e-30)
    return [part / mean for part in parts]
