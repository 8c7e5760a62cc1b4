"""What a strategy sees of a training phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from mpqc.values.budget import Budget
from mpqc.values.plan import Plan
from mpqc.values.recipe import Recipe
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import SiteTable

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel
    from mpqc.numerics.fake_quant import FakeQuantize
    from mpqc.quantize.calibration import Calibration
    from mpqc.training.quantizers.base import TrainedState
    from mpqc.values.network import Network
    from mpqc.values.qtype import QParams


@dataclass(eq=False)
class Position:
    """Where in the schedule the phase is. The loop moves it; strategies read it."""

    steps: int
    """Steps in all"""
    step: int = 0
    """Steps done"""
    frozen: bool = False
    """Whether Strategy.freeze has been called"""

    @property
    def fraction(self) -> float:
        """0 at the start, 1 at the end."""
        return self.step / max(self.steps, 1)


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Samples of one step, on the training device; on several processes the part of this one."""

    inputs: tuple[Tensor, ...]
    """In the order of the graph's placeholders"""
    labels: Tensor | None = None
    """int64 [samples]"""


class TrainableModule(Protocol):
    """The network while it is trained: its graph with a FakeQuantize at every site and BatchNorm behind convolutions (trainable.py).

    A weight is trained and quantized as it stands before its BatchNorm, where its output channels have one norm (which makes learning rates
    mean the same everywhere); folding multiplies output channel c with factor[c] > 0, and the step with it, so codes stay what they are.
    """

    def calibrated(self, site: str, bits: int) -> QParams:
        """What a state starts from: Calibration.qparams(site, bits), for weights with the scale divided by factor(site)."""

    def allows_half(self, site: str, bits: int) -> bool:
        """Whether a weight may lie on the half-integer grid at this width."""

    @property
    def quantizers(self) -> Mapping[str, FakeQuantize]:
        """By site. In evaluation (module.eval()) and for export, what state(x) gives in float32 must lie exactly on state.qparams()."""

    @property
    def root(self) -> nn.Module:
        """The torch module; its parameters are the trained ones (the states' parameters among them once installed)."""

    def install(self, states: Mapping[str, TrainedState]) -> None:
        """Give sites their states; all sites of a sharing group (table.groups) get the same object. Sites that are left out stay float."""

    def weight(self, site: str) -> nn.Parameter:
        """The latent float32 weight of a weight site."""

    def factor(self, site: str) -> Tensor:
        """float32 [n] along the site's axis (or []): gamma / sqrt(running variance + eps) of the BatchNorm behind, 1 where there is none."""

    def floating(self) -> AbstractContextManager[None]:
        """Within the block nothing is quantized: latent weights, float activations. Forward pre-hooks on a quantizer still see its input."""


class Allocate(Protocol):
    """The exact allocator with network, target, budgets and fixed bits bound."""

    def __call__(self, sensitivities: Sensitivities, *, seconds: float | None = None) -> Plan:
        """The plan of least summed sensitivity inside all budgets. `values` needs every site at the widths that it may get.

        Raises BudgetInfeasibleError where no plan fits.
        """


@dataclass(frozen=True, eq=False)
class Session:
    """Everything about one phase: facts, and the module that is trained."""

    network: Network
    table: SiteTable
    calibration: Calibration
    sensitivities: Sensitivities | None
    """Those measured before training (method fit, distance or roundoff); None where a plan was given"""
    cost_model: CostModel
    """Bound to the network (CostModel.for_network)"""
    budgets: tuple[Budget, ...]
    fixed: Mapping[str, int | None]
    """Sites whose bits the user decided"""
    plan: Plan
    """The plan to start with, inside the budgets: the best by `sensitivities`, or the user's own"""
    recipe: Recipe
    module: TrainableModule
    """What is trained"""
    allocate: Allocate
    check: Callable[[Plan], Plan]
    """A plan with its uses counted and its groups checked. Raises BudgetInfeasibleError where it breaks a budget"""
    loss: Callable[[TrainingBatch], Tensor]
    """Training loss of `module` (in its present mode, with present quantizers) on a batch: the mean over its samples, with gradients"""
    mean: Callable[[Tensor], Tensor]
    """The mean of a tensor over all processes (the tensor itself where there is one): what every process must agree on goes through here"""
    generator: torch.Generator
    """Seeded, the same on every process; its state is part of the checkpoint"""
    position: Position
    batch: Callable[[], TrainingBatch]
    """The batch of the step that is under way"""
    batch_of: Callable[[int], TrainingBatch]
    """The batch of any step"""
    largest: Callable[[Tensor], Tensor] = lambda value: value
    """The elementwise maximum of a tensor over all processes"""
    in_nats: bool = False
    """Whether the loss is that of classes alone, so that a number of it means the same for every network"""
    resumes: bool = False
    """Whether a checkpoint is about to be loaded: what `prepare` would measure and decide is in there"""
    notes: list[str] = field(default_factory=list)
    """Lines for the report"""
