"""What training minimises: the distance to the float network's outputs and, where there are labels, the cross-entropy with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mpqc.errors import DataError
from mpqc.sensitivity.task import Task, Term
from mpqc.values.recipe import Recipe

NO_LABEL = -100
"""In place of the label of a sample that has none"""


@dataclass(frozen=True)
class Objective:
    """The loss of the task's tensors (in the order of its terms)."""

    task: Task
    recipe: Recipe
    labelled: bool

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """A float32 scalar, the mean over samples: T^2 KL at temperature T for logits (Hinton et al., 2015), squared error over variance for
        values; with labels both are weighed by the recipe, and samples without one have the float network's part alone."""
        pairs = zip(self.task.terms, student, teacher, strict=True)
        distance = torch.stack([_distance(term, ours.float(), theirs.float(), self.recipe.temperature) for term, ours, theirs in pairs]).sum()
        if labels is None:
            return distance
        return self.recipe.distillation_weight * distance + self.recipe.label_weight * self._cross_entropy(student, labels)

    def _cross_entropy(self, student: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The mean over samples with a label; 0 without any."""
        total = F.cross_entropy(self.logits(student), labels, ignore_index=NO_LABEL, reduction="sum")
        return total / (labels != NO_LABEL).sum().clamp(min=1)

    def logits(self, student: Sequence[Tensor]) -> Tensor:
        """float32 [n, classes]."""
        return _rows(student[_logits(self.task)].float())


def classes(task: Task, outputs: Sequence[Tensor]) -> int:
    """How many classes the logits have. Raises DataError for a network without [n, classes] logits."""
    if _logits(task) < 0:
        raise DataError("labels need a network that gives logits of classes", where="labels", hint="leave them out: the float network teaches")
    return _rows(outputs[_logits(task)]).shape[1]


def _logits(task: Task) -> int:
    """The first term that compares logits along axis 1; -1 where there is none."""
    return next((index for index, term in enumerate(task.terms) if term.axis in (1, -1)), -1)


def _rows(logits: Tensor) -> Tensor:
    return logits.reshape(logits.shape[0], -1)


def _distance(term: Term, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    if term.axis is None:
        return F.mse_loss(student, teacher) / term.variance
    ours, theirs = (torch.log_softmax(value / temperature, term.axis) for value in (student, teacher))
    positions = student.numel() / student.shape[term.axis]
    return F.kl_div(ours, theirs, reduction="sum", log_target=True) * (temperature**2 / positions)
