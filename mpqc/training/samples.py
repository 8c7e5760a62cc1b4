"""The samples of a training phase in memory, split into those that are trained on and those held out; the batch of every step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mpqc.data.batches import Batches
from mpqc.errors import DataError, UsageError
from mpqc.training.mixing import mixed
from mpqc.training.processes import Group
from mpqc.training.session import TrainingBatch
from mpqc.values.recipe import Recipe
from mpqc.workspace.digest import digest

MOST_HELD_OUT = 5000
LEAST = 2
"""Samples that statistics of a batch need"""
EVALUATION_BATCH = 250
PICTURE_RANK = 4
LEAST_SIDE = 8
"""Of a picture to augment: crops move by an eighth of a side; a shorter last one is that of channels in most cases"""
MIXED = 0.5
"""Of the pictures of a step"""


@dataclass(frozen=True, eq=False)
class Samples:
    """All samples as the source gives them (uint8 pictures stay uint8), and which are trained on."""

    arrays: Mapping[str, np.ndarray]
    """Input name -> [n, ...]"""
    labels: np.ndarray | None
    batches: Batches
    trained: np.ndarray
    """Indices"""
    held_out: np.ndarray
    """Indices; all samples where there are too few to hold any out"""

    @cached_property
    def content(self) -> str:
        """Digest of the samples as the source gives them, their labels, which are trained on, and what is made of them for the network."""
        return digest((self.arrays, self.labels, self.trained, self.held_out, self.batches.inputs, self.batches.preprocessing))

    def batch(self, indices: np.ndarray, device: torch.device) -> TrainingBatch:
        """The samples at `indices`, as the network takes them."""
        inputs = tuple(_tensor(self.batches.prepared(spec.name, self.arrays[spec.name][indices]), device) for spec in self.batches.inputs)
        labels = None if self.labels is None else torch.from_numpy(self.labels[indices]).to(device)
        return TrainingBatch(inputs, labels)

    def evaluation(self, device: torch.device, group: Group) -> Iterator[TrainingBatch]:
        """This process's share of the held-out samples."""
        for part in _parts(self.held_out[group.rank :: group.size]):
            yield self.batch(part, device)

    def statistics(self, device: torch.device, group: Group, samples: int) -> Iterator[TrainingBatch]:
        """Batches of the first `samples` that are trained on, the same on every process."""
        for part in _parts(self.trained[:samples]):
            yield self.batch(part, device)


def collect(batches: Batches, labels: np.ndarray | None, recipe: Recipe) -> Samples:
    """Reads all of `batches`. `labels` (class indices, one a sample) win over those of the source.

    Raises DataError: no data but noise, fewer than two samples, labels that are not one whole number a sample. UsageError: pictures are to be
    augmented and there are none.
    """
    _check_pictures(batches, recipe)
    if batches.origin == "noise":
        raise DataError("training needs data", where="--qat-steps", hint="add --data, with all samples that may be trained on")
    items = list(batches.raw())
    arrays = {spec.name: _joined([item.arrays[spec.name] for item in items]) for spec in batches.inputs}
    count = len(next(iter(arrays.values())))
    if count < LEAST:
        raise DataError(f"{count} sample is too few to train on", where="data", hint="a few hundred are a start")
    found = [item.labels for item in items]
    own = None if any(item is None for item in found) else np.concatenate([item for item in found if item is not None])
    known = _checked(labels if labels is not None else own, count)
    return Samples(arrays, known, batches, *_split(count, recipe))


def _check_pictures(batches: Batches, recipe: Recipe) -> None:
    alone = recipe.augment == "flip_crop_mix"
    enough = all if alone else any
    if recipe.augment == "none" or enough(_is_picture(spec.shape) for spec in batches.inputs):
        return
    needed = "inputs that are pictures [n, channels, height, width]" + (" alone" if alone else "")
    found = ", ".join(f"{spec.name} {list(spec.shape)}" for spec in batches.inputs)
    raise UsageError(f"{recipe.augment} needs {needed}; the network has {found}", where="--augment", hint="leave it out; augment the data itself")


def _is_picture(shape: Sequence[int]) -> bool:
    return len(shape) == PICTURE_RANK and min(shape[2:]) >= LEAST_SIDE


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _checked(labels: np.ndarray | None, count: int) -> np.ndarray | None:
    if labels is None:
        return None
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"expected class indices of shape [n], found {labels.dtype} {list(labels.shape)}", where="labels")
    if len(labels) != count:
        raise DataError(f"{len(labels)} labels for {count} samples", where="labels", hint="one for each sample, in the order of the data")
    return labels.astype(np.int64)


def check_classes(labels: np.ndarray | None, classes: int) -> None:
    """Raises DataError for labels outside 0..classes - 1, with the first such sample."""
    if labels is None:
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        where = f"labels, sample {wrong[0]}"
        raise DataError(f"label {labels[wrong[0]]} is outside 0..{classes - 1}", where=where, hint="labels are class indices of the network's logits")


def _split(count: int, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and to hold out, at random; where fewer than two would be held out, all samples serve for both."""
    order = np.random.default_rng(recipe.seed).permutation(count)
    kept = min(int(count * recipe.held_out), MOST_HELD_OUT)
    if kept < LEAST or count - kept < LEAST:
        return order, order[:MOST_HELD_OUT]
    return order[kept:], order[:kept]


def step_indices(trained: np.ndarray, step: int, batch: int, seed: int) -> np.ndarray:
    """The samples of step `step`: epochs in random orders one after the other, a pure function of its arguments."""
    size = min(batch, len(trained))
    a_epoch = len(trained) // size
    epoch, place = divmod(step, a_epoch)
    return trained[_order(len(trained), epoch, seed)[place * size : (place + 1) * size]]


@lru_cache(maxsize=2)
def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def share(indices: np.ndarray, group: Group) -> slice:
    """The rows of a step that this process computes."""
    ends = [len(indices) * rank // group.size for rank in (group.rank, group.rank + 1)]
    return slice(*ends)


def augmented(batch: TrainingBatch, recipe: Recipe, step: int) -> TrainingBatch:
    """The batch with its pictures mirrored at random and cropped from zero-padded ones, where asked for with boxes of others: a pure function of its
    arguments.

    Only inputs that are pictures [n, c, h, w] change. To be called with the batch of all processes, so that each sees its part of one draw.
    """
    if recipe.augment == "none":
        return batch
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    moved = TrainingBatch(tuple(_flip_crop(value, generator) if _is_picture(value.shape) else value for value in batch.inputs), batch.labels)
    return mixed(moved, MIXED, generator) if recipe.augment == "flip_crop_mix" else moved


def _flip_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    flips = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    mirrored = torch.where(flips[:, None, None, None], images.flip(3), images)
    pads = height // 8, width // 8
    padded = F.pad(mirrored, (pads[1], pads[1], pads[0], pads[0]))
    rows, columns = (_windows(count, size, pad, generator).to(images.device) for size, pad in zip((height, width), pads, strict=True))
    chosen = padded[torch.arange(count, device=images.device)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return chosen.permute(0, 3, 1, 2)  # indexing put the channels last, which is the memory format that training wants


def _windows(count: int, size: int, pad: int, generator: torch.Generator) -> Tensor:
    """int64 [count, size]: the rows (or columns) of a window of `size` at a random place of a side padded by `pad`."""
    return torch.randint(2 * pad + 1, (count, 1), generator=generator) + torch.arange(size)


def _parts(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[start : start + EVALUATION_BATCH] for start in range(0, len(indices), EVALUATION_BATCH)]


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    made = torch.from_numpy(np.ascontiguousarray(array)).to(device)
    return made.contiguous(memory_format=torch.channels_last) if made.ndim == PICTURE_RANK else made
