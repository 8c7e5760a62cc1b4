"""Block reconstruction without labels: the rounding of a block's weights, its biases and the steps of its activations are learned so that the block's
output stays what it was.

After BRECQ (Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR 2021): AdaRound variables of all
weights of a block, squared output errors weighted by the squared gradient of the task loss (the Fisher diagonal), regulariser 0.01 with its
annealed exponent, inputs from the quantized blocks before. After QDrop (Wei et al., "QDrop: Randomly Dropping Quantization for Extremely
Low-bit Post-Training Quantization", ICLR 2022): steps of activations are learned too, and while a block learns, half of the values that enter
it or lie in it at random stay float. Different: biases are learned, and a block takes far fewer steps than the 20,000 there, at learning rates
that are higher in proportion: with that of 20,000 steps, 0.001, hardly any weight would come to round the other way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

from mpqc.numerics.fake_quant import FakeQuantize
from mpqc.passes.lib.quantizer_graph import quantizer_of
from mpqc.strategies.blocks import Block, BlockRunner, blocks_of
from mpqc.strategies.stopped import Keep, Moment
from mpqc.strategies.student import Student, check_batch, like
from mpqc.training.fusion import Fused
from mpqc.training.quantizers.base import TrainedState
from mpqc.training.quantizers.lsq import LsqState
from mpqc.training.quantizers.rounding import RoundingState, sharpness
from mpqc.training.quantizers.steps import OnePass
from mpqc.values.plan import Plan
from mpqc.values.site import SiteKind
from mpqc.workspace.progress import steps

if TYPE_CHECKING:
    from mpqc.quantize.calibration import Calibration
    from mpqc.sensitivity.task import Task
    from mpqc.training.folding import TrainedParameters
    from mpqc.training.trainable import Layer, Trainable
    from mpqc.values.network import Network
    from mpqc.values.site import SiteTable

BATCH = 32
STEP_VALUES = 1 << 20
"""Values that enter and leave a block in one step, about"""
FEWEST = 4
"""Samples of a step at least"""
TRAVEL = 20.0
"""Learning rate times steps, as published: how far Adam can move a rounding variable in all"""
FASTEST = 0.1
"""Learning rate of very few steps"""
STEP_TRAVEL = 0.1
"""How far Adam can move the step of an activation, and a bias, in all: a part of what they are"""
FEW_BITS = 6
"""Up to which the steps of activations are learned, and values dropped: with more, both only disturb the rounding of weights"""
ROUNDING = 0.01
"""Weight of `undecided`"""
WARM_UP = 0.2
HELD_OUT = 8
"""One sample in so many is not learned from"""


@dataclass(frozen=True)
class Effort:
    """How long to reconstruct."""

    steps: int = 500
    """A block"""
    seed: int = 0
    seconds: float = math.inf
    """Wall clock that learning may take; a block that is begun is finished"""
    drop: float = 0.5
    """Share of activations of at most FEW_BITS that stay float while a block learns, and of what enters it"""

    @property
    def rate(self) -> float:
        """Of Adam: moves a variable by TRAVEL at most in all steps."""
        return min(TRAVEL / max(self.steps, 1), FASTEST)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What was learned, and the loss on samples that were not learned from."""

    parameters: TrainedParameters
    blocks: int
    learned: int
    """Of `blocks`; the others, for which the time did not suffice, stay as they started"""
    before: float
    """With the constants that were started from"""
    after: float


class _GivenState(TrainedState):
    """A calibrated grid that is not learned."""


class _DroppedState(LsqState):
    """A learned step of an activation; while it is learned, some values at random stay what they are."""

    def __init__(self, generator: torch.Generator, drop: float) -> None:
        super().__init__(per_sample=True)
        self.generator, self.drop = generator, drop
        self.scale.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid, in training all but a share of it."""
        y = super().forward(x)
        if not self.training or not self.drop:
            return y
        return torch.where(torch.rand(x.shape, generator=self.generator) < self.drop, x, y)

    def one_pass(self, x: Tensor) -> OnePass | None:
        """None: values that stay float are drawn here."""
        return None


def reconstruct(
    network: Network,
    table: SiteTable,
    plan: Plan,
    calibration: Calibration,
    task: Task,
    samples: Tensor,
    effort: Effort = Effort(),
    *,
    constants: Mapping[str, np.ndarray] | None = None,
    keep: Keep | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Reconstruction:
    """Weights rounded for `plan` on `samples` (float32 inputs of a network with one input): what export_qdq takes beside the plan.

    `constants`: biases and rounded weights that are started from, by initializer. `tell`: is given a line where a stopped one goes on. Weights of
    layers that lie in no block (several tensors alive all the way) stay as they start. Raises ModelError for networks that cannot learn, by node.
    """
    from mpqc.training.faults import refuse_untrainable
    from mpqc.training.folding import fold
    from mpqc.training.processes import Group
    from mpqc.training.trainable import make_trainable

    refuse_untrainable(network, table)
    trainable = make_trainable(network, table, calibration, task, batch_norm=False, group=Group())
    generator = torch.Generator().manual_seed(effort.seed)
    student = Student(trainable, constants or {})
    states = _install(trainable, plan, effort, generator, constants or {})
    trainable.root.eval().requires_grad_(False)
    check_batch(student, samples)
    seen, unseen = _split(samples)
    before = _loss(student, task, unseen)
    weights = frozenset(site.name for site in table.sites if site.kind is SiteKind.WEIGHT and plan.bits(site.name) is not None)
    blocks = blocks_of(trainable.root, weights)
    moment = _resume(trainable, keep)
    if moment.done or moment.step:
        tell(f"reconstruction goes on after block {moment.done} of {len(blocks)}" + (f" and {moment.step} steps" if moment.step else ""))
    done = moment.done
    if done < len(blocks):
        done = _learn(_Work(student, blocks, task, seen, effort, keep, moment), blocks, states, generator)
    return Reconstruction(fold(trainable, plan), len(blocks), done, before, _loss(student, task, unseen))


def _learn(work: _Work, blocks: tuple[Block, ...], states: Mapping[str, TrainedState], generator: torch.Generator) -> int:
    """Learn the blocks that are not learned yet, in order, while there is time; how many are learned in all."""
    end, done = time.monotonic() + work.effort.seconds, work.moment.done
    for index, block in enumerate(steps(blocks, len(blocks))):
        if index >= done and time.monotonic() > end:
            return index
        generator.manual_seed(work.effort.seed + index + 1)
        work.block(block, states, generator if index >= done else None)
        if index >= done:
            work.finish(index + 1)
    return len(blocks)


def _split(samples: Tensor) -> tuple[Tensor, Tensor]:
    """What is learned from, and what is not: the same samples where there are too few."""
    out = torch.arange(len(samples)) % HELD_OUT == HELD_OUT - 1
    return (samples[~out], samples[out]) if out.any() else (samples, samples)


def _loss(student: Student, task: Task, samples: Tensor) -> float:
    """Of the quantized network against the float one."""
    total = 0.0
    with torch.no_grad():
        for part in samples.split(BATCH):
            with student.floating():
                teacher = student.root(part)
            pairs = (dict(zip((term.tensor for term in task.terms), values, strict=True)) for values in (teacher, student.root(part)))
            total += float(task.loss(*pairs)) * len(part)
    return total / len(samples)


def _resume(trainable: Trainable, keep: Keep | None) -> Moment:
    """Where it was stopped; parameters are loaded."""
    kept = None if keep is None else keep.load()
    if kept is None:
        return Moment()
    trainable.root.load_state_dict(kept["root"])
    return Moment(int(kept["done"]), int(kept.get("step", 0)), kept.get("inside"))


def _install(
    trainable: Trainable, plan: Plan, effort: Effort, generator: torch.Generator, constants: Mapping[str, np.ndarray]
) -> dict[str, TrainedState]:
    """Calibrated grids at every site, by site; those of weights with rounding to be learned, from what `constants` rounds them to."""
    made: dict[str, TrainedState] = {}
    for name, sites in trainable.table.groups.items():
        bits = plan.bits(sites[0].name)
        if bits is None:
            continue
        state = _state(sites[0].kind, bits, effort, generator)
        state.set(trainable.calibrated(sites[0].name, bits))
        if isinstance(state, RoundingState):
            weight = trainable.weight(sites[0].name)
            if sites[0].name in constants:
                weight.data = state.near(weight.detach(), like(constants[sites[0].name], weight))
            state.begin(weight)
        made[name] = state
    found = {site.name: made[site.group_name] for site in trainable.table.sites if site.group_name in made}
    trainable.install(found)
    return found


def _state(kind: SiteKind, bits: int, effort: Effort, generator: torch.Generator) -> TrainedState:
    if kind is SiteKind.WEIGHT:
        return RoundingState()
    return _DroppedState(generator, effort.drop) if bits <= FEW_BITS else _GivenState()


class _Work:
    """The samples as they are at the block under way: from the float network and from the quantized one."""

    def __init__(
        self, student: Student, blocks: tuple[Block, ...], task: Task, samples: Tensor, effort: Effort, keep: Keep | None, moment: Moment
    ) -> None:
        self.student, self.effort, self.keep, self.moment = student, effort, keep, moment
        self.saved = time.monotonic()
        self.runner = BlockRunner(student.root)
        self.learned: set[TrainedState] = set()
        self.drops = any(isinstance(item.state, _DroppedState) for item in student.trainable.quantizers.values())
        self.fisher = self._fisher(blocks, task, samples)
        source = frozenset(block.source for block in blocks[:1])
        self.floats = [self._entering(part, source, floating=True) for part in samples.split(BATCH)] if blocks else []
        self.quantized = [self._entering(part, source, floating=False) for part in samples.split(BATCH)] if blocks else []

    def _entering(self, part: Tensor, source: frozenset[fx.Node], *, floating: bool) -> Tensor:
        with torch.no_grad():
            if floating:
                with self.student.floating():
                    return next(iter(self.runner.values_at(source, (part,))[1].values()))
            return next(iter(self.runner.values_at(source, (part,))[1].values()))

    def _fisher(self, blocks: tuple[Block, ...], task: Task, samples: Tensor) -> dict[fx.Node, list[Tensor]]:
        """For the end of each block the squared gradients of the loss of every sample, their mean 1."""
        ends = frozenset(block.end for block in blocks)
        found: dict[fx.Node, list[Tensor]] = {end: [] for end in ends}
        generator = torch.Generator().manual_seed(self.effort.seed)
        for part in samples.split(BATCH):
            with self.student.floating(), torch.enable_grad():
                results, seen = self.runner.values_at(ends, (part.clone().requires_grad_(),))
                observed = {term.tensor: value for term, value in zip(task.terms, results, strict=True)}
                probes = task.probes(observed, generator)
                gradients = torch.autograd.grad(list(results), list(seen.values()), probes, allow_unused=True)
            for end, gradient in zip(seen, gradients, strict=True):
                found[end].append(torch.ones_like(seen[end].detach()) if gradient is None else gradient.square())
        return {end: _scaled(parts) for end, parts in found.items()}

    def block(self, block: Block, states: Mapping[str, TrainedState], generator: torch.Generator | None) -> None:
        """Learn a block with what `generator` draws, unless that is done (None), then move all samples behind it."""
        with torch.no_grad(), self.student.floating():
            targets = [self.runner.run_block(block, value) for value in self.floats]
        parts = _Parts.of(block, self.student.trainable, states, self.learned)
        self.learned |= set(parts.steps)
        if generator is not None:
            self._learn(block, parts, targets, generator)
        with torch.no_grad():
            self.quantized = [self.runner.run_block(block, value) for value in self.quantized]
        self.floats = targets

    def _learn(self, block: Block, parts: _Parts, targets: list[Tensor], generator: torch.Generator) -> None:
        parts.train(True)
        groups = parts.groups(self.effort)
        optimizer = torch.optim.Adam(groups)
        rates = [group["lr"] for group in groups]
        if (inside := self.moment.inside) is not None:
            optimizer.load_state_dict(inside["optimizer"])
            generator.set_state(inside["generator"])
            rates = [float(rate) for rate in inside["rates"]]
        for step in range(self.moment.step, self.effort.steps):
            at = int(torch.randint(len(targets), (1,), generator=generator))
            rows = self._rows(targets[at], at, generator)
            error = self.runner.run_block(block, self._mixed(at, rows, generator)) - targets[at][rows]
            loss = (error.square() * self.fisher[block.end][at][rows]).flatten(1).sum(1).mean() / max(error[0, 0].numel(), 1)
            optimizer.zero_grad()
            (loss + self._undecided(parts, step)).backward()  # type: ignore[no-untyped-call]
            for group, rate in zip(optimizer.param_groups[1:], rates[1:], strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / self.effort.steps))
            optimizer.step()
            for state in parts.steps:
                state.constrain()
            self._keep(step + 1, optimizer, rates, generator)
        self.moment.step, self.moment.inside = 0, None
        parts.train(False)

    def _keep(self, step: int, optimizer: torch.optim.Optimizer, rates: list[float], generator: torch.Generator) -> None:
        """Saves where the block is, from time to time."""
        if self.keep is None or time.monotonic() - self.saved < self.keep.every:
            return
        inside = {"optimizer": optimizer.state_dict(), "rates": rates, "generator": generator.get_state()}
        self.keep.save({"done": self.moment.done, "step": step, "inside": inside, "root": self.student.root.state_dict()})
        self.saved = time.monotonic()

    def finish(self, done: int) -> None:
        """So many blocks are learned."""
        self.moment.done, self.saved = done, time.monotonic()
        if self.keep is not None:
            self.keep.save({"done": done, "root": self.student.root.state_dict()})

    def _undecided(self, parts: _Parts, step: int) -> Tensor:
        if step < WARM_UP * self.effort.steps:
            return torch.zeros(())
        beta = sharpness(step / self.effort.steps, WARM_UP)
        return ROUNDING * torch.stack([state.undecided(beta) for state in parts.roundings]).sum()

    def _rows(self, targets: Tensor, at: int, generator: torch.Generator) -> slice:
        """Neighbours in part `at` that a step learns from: fewer where samples are large."""
        size = targets[0].numel() + self.quantized[at][0].numel()
        count = min(max(STEP_VALUES // size, FEWEST), len(targets))
        first = int(torch.randint(len(targets) - count + 1, (1,), generator=generator)) if count < len(targets) else 0
        return slice(first, first + count)

    def _mixed(self, at: int, rows: slice, generator: torch.Generator) -> Tensor:
        """What enters the block, with a share of it as in the float network."""
        quantized, floats = self.quantized[at][rows], self.floats[at][rows]
        if not self.effort.drop or not self.drops:
            return quantized
        return torch.where(torch.rand(quantized.shape, generator=generator) < self.effort.drop, floats, quantized)


@dataclass(frozen=True)
class _Parts:
    """What is learned in a block."""

    roundings: tuple[RoundingState, ...]
    steps: tuple[_DroppedState, ...]
    """Of activations that no block before has learned"""
    biases: tuple[torch.nn.Parameter, ...]

    @classmethod
    def of(cls, block: Block, trainable: Trainable, states: Mapping[str, TrainedState], known: set[TrainedState]) -> _Parts:
        roundings = [state for name in block.weights if isinstance(state := states[name], RoundingState)]
        sites = [quantizer.site for node in block.nodes if (quantizer := _quantizer_in(trainable.root, node)) is not None]
        steps = dict.fromkeys(found for site in sites if isinstance(found := states.get(site), _DroppedState) and found not in known)
        layers: list[Layer] = [trainable.by_weight[name] for name in block.weights]
        biases = dict.fromkeys(trainable.root.get_parameter(layer.bias_at) for layer in layers if layer.bias_at)
        return cls(tuple(roundings), tuple(steps), tuple(biases))

    def groups(self, effort: Effort) -> list[dict[str, Any]]:
        """Parameters with the rate of each: that of steps and biases is a part of what they are."""
        part = STEP_TRAVEL / max(effort.steps, 1)
        scales = [{"params": [state.scale], "lr": part * float(state.scale.detach())} for state in self.steps]
        biases = [{"params": [bias], "lr": part * max(float(bias.detach().abs().mean()), 1e-3)} for bias in self.biases]
        return [{"params": [state.choice for state in self.roundings], "lr": effort.rate}, *scales, *biases]

    def train(self, on: bool) -> None:
        """Whether gradients reach what is learned."""
        for state in (*self.roundings, *self.steps):
            state.train(on).requires_grad_(on)
        for bias in self.biases:
            bias.requires_grad_(on)


def _quantizer_in(root: fx.GraphModule, node: fx.Node) -> FakeQuantize | None:
    """The quantizer that `node` calls, alone or at the end of a chain."""
    called = root.get_submodule(str(node.target)) if node.op == "call_module" else None
    return called.parts[1] if isinstance(called, Fused) else quantizer_of(root, node)


def _scaled(parts: list[Tensor]) -> list[Tensor]:
    mean = torch.stack([part.mean() for part in parts]).mean().clamp(min=1e-30)
    return [part / mean for part in parts]
