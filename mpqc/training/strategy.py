"""What a strategy of the training phase is: who installs quantizers, and who decides bits while weights learn."""

# ruff: noqa: B027  (hooks that most strategies leave empty)

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from mpqc.training.session import Session
    from mpqc.values.plan import Plan


@dataclass(frozen=True)
class Finished:
    """How a phase ended."""

    plan: Plan
    """Inside the budgets: what is exported. Its bits are those of the installed quantizers."""
    raw: Plan | None = None
    """Bits that the method chose before the allocator projected them into the budgets, where it has bits of its own"""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    """Spent on choosing bits: measurements and solver"""


class Strategy(ABC):
    """One method. Order of calls in a phase:

        prepare · [load_state_dict] · per step: before_step, (forward) regularizer, (backward) after_backward, (optimizer) after_step
        · freeze, once, before the step at recipe.freeze · finish

    On several processes every one runs the same strategy on the same weights: decisions must be functions of values that are equal
    everywhere (parameters; gradients from after_backward on; what went through session.mean).
    """

    name: ClassVar[str]
    """As in --strategy and in Plan.strategy"""
    decides: ClassVar[bool] = True
    """Whether it changes bits: a plan is then called by its name"""
    rate: float = 1.0
    """What every learning rate of the recipe is multiplied with; final once `prepare` has run"""

    @abstractmethod
    def prepare(self, session: Session) -> None:
        """Make a TrainedState for every site or group that `session.plan` quantizes, set to session.module.calibrated at the
        plan's bits, `session.module.install` them, and keep the session. Deterministic."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimizer groups of the parameters of the installed quantizers: {"params": [...], "lr": peak rate, "weight_decay": ...}.

        Weights, biases and BatchNorm belong to the loop. Rates follow the schedule of the recipe. Called once, after prepare.
        """

    def before_step(self, step: int) -> None:
        """Before the forward pass of step `step` (0-based)."""

    def regularizer(self) -> Tensor | None:
        """A term that is added to the loss of this step, counted once over all processes; None for none."""
        return None

    def after_backward(self, step: int) -> None:
        """Gradients are in place, averaged over all processes, not yet applied: where they are clipped or read."""

    def after_step(self, step: int) -> None:
        """After the optimizer: clamps, moving averages, re-allocation every recipe.tau steps (not when position.frozen)."""

    def freeze(self) -> None:
        """From now on no bits change: harden fractional bits, project learned bits into the budgets. Called again only where the best state
        is one from before the first call; bits that are inside the budgets stay what they are."""

    @abstractmethod
    def plan(self) -> Plan | None:
        """The plan that the quantizers follow now, where it is inside the budgets; None otherwise. Never None after freeze."""

    @abstractmethod
    def finish(self) -> Finished:
        """The final plan. Called when training is over and the best state is loaded; freeze was called on that state."""

    def state_dict(self) -> dict[str, Any]:
        """What load_state_dict needs beside the parameters and buffers of the quantizers: bits, averages, plan. Tensors, numbers,
        text, lists and dicts alone (it is read back without unpickling)."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, after prepare: give the quantizers their bits. Their parameters are loaded afterwards by the loop."""
