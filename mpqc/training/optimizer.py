"""The optimizer and its learning rates."""

from __future__ import annotations

import math
from typing import Any

import torch

from mpqc.training.session import Position
from mpqc.training.strategy import Strategy
from mpqc.training.trainable import Trainable
from mpqc.values.recipe import Recipe


def make_optimizer(trainable: Trainable, strategy: Strategy, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum: weights with decay, biases and BatchNorm without, and the strategy's own groups."""
    groups: list[dict[str, Any]] = [
        {"params": trainable.weights(), "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay},
        {"params": trainable.others(), "lr": recipe.learning_rate, "weight_decay": 0.0},
    ]
    groups += [{"lr": recipe.step_learning_rate, "weight_decay": 0.0, **group} for group in strategy.parameter_groups()]
    made = torch.optim.SGD(
        [group for group in groups if group["params"]], lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0
    )
    for group in made.param_groups:
        group["peak"] = group["lr"] * strategy.rate
    return made


def schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, position: Position) -> None:
    """Set every learning rate for the step that is about to be taken."""
    share = rate(position.step, position.steps, recipe.warm_up)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def rate(step: int, steps: int, warm_up: float) -> float:
    """Fraction of the peak at `step` of `steps`: a line up during `warm_up` of them, then half a cosine down (Loshchilov and Hutter, 2017)."""
    rising = int(steps * warm_up)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))
