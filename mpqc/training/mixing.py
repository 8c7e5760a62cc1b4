"""Boxes of other pictures in the pictures of a step: CutMix (Yun et al., ICCV 2019), of which the float network alone says what they show.

A trained float network is sure of the pictures that it has learned, and teaches little there beyond their labels. Of pictures that it never saw it
says more, and any number of them can be made this way. benchmarks/results/mix.md: the trained network is nearer to it on pictures of another kind; on
test pictures of the same kind nothing was gained.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpqc.training.loss import NO_LABEL
from mpqc.training.session import TrainingBatch


def mixed(batch: TrainingBatch, fraction: float, generator: torch.Generator) -> TrainingBatch:
    """The batch with a box of another of its pictures in `fraction` of them, evenly spread; these have no label any more.

    Areas are uniform in 0..1 of the picture and centres uniform in it; what is outside is cut off. Only batches change whose inputs are all of
    shape [n, c, h, w]: inputs of one sample get the same box of the same other sample.
    """
    if fraction == 0 or any(value.ndim != 4 for value in batch.inputs):
        return batch
    count = len(batch.inputs[0])
    order = torch.randperm(count, generator=generator)
    side = torch.rand(count, generator=generator).sqrt()
    side[~_chosen(count, fraction)] = 0.0
    centres = torch.rand(2, count, generator=generator)
    device = batch.inputs[0].device
    inputs = tuple(torch.where(_boxes(value, side, centres).to(device), value[order.to(device)], value) for value in batch.inputs)
    labels = None if batch.labels is None else batch.labels.masked_fill((side > 0).to(device), NO_LABEL)
    return TrainingBatch(inputs, labels)


def _chosen(count: int, fraction: float) -> Tensor:
    """Boolean [count], evenly spread: every process gets its part of them."""
    ends = torch.floor(torch.arange(count + 1, dtype=torch.float64) * fraction)
    return ends[1:] > ends[:-1]


def _boxes(images: Tensor, side: Tensor, centres: Tensor) -> Tensor:
    """Boolean [n, 1, h, w]: inside boxes of `side` times the picture's sides."""
    rows, columns = (_interval(size, side, centre) for size, centre in zip(images.shape[2:], centres, strict=True))
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _interval(size: int, side: Tensor, centre: Tensor) -> Tensor:
    """Boolean [n, size]."""
    distance = (torch.arange(size) + 0.5) / size - centre[:, None]
    return distance.abs() < side[:, None] / 2
