"""Boxes of other pictures: where they come from, what becomes of labels, which networks get them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mpqc.sensitivity.task import Task, Term
from mpqc.training.loss import NO_LABEL, Objective
from mpqc.training.mixing import mixed
from mpqc.training.samples import augmented
from mpqc.training.session import TrainingBatch
from mpqc.values.recipe import Recipe
from tests.training.phases import RECIPE, data, prepared, run

PICTURES = 40


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def numbered(count: int = PICTURES, size: int = 16) -> TrainingBatch:
    """Picture i has the value i everywhere."""
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 3, size, size)
    return TrainingBatch((images.contiguous(memory_format=torch.channels_last),), torch.arange(count))


def test_half_of_the_pictures_hold_one_box_of_one_other() -> None:
    before = numbered()
    after = mixed(before, 0.5, generator())
    images, labels = after.inputs[0], after.labels
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels is not None
    shares = []
    for index, picture in enumerate(images):
        assert bool((picture == picture[0]).all())  # all channels alike
        if index % 2 == 0:
            assert bool((picture == index).all())
            assert int(labels[index]) == index
            continue
        assert int(labels[index]) == NO_LABEL
        box = picture[0] != index
        assert len(picture.unique()) <= 2
        rows, columns = box.any(1), box.any(0)
        assert int(box.sum()) == int(rows.sum()) * int(columns.sum())  # a rectangle
        shares.append(float(box.float().mean()))
    assert 0.1 < np.mean(shares) < 0.6
    assert max(shares) > 0.5 > min(shares)


@pytest.mark.parametrize(("fraction", "chosen"), [(0.0, 0), (0.25, 10), (1.0, 40)])
def test_as_many_pictures_are_mixed_as_asked(fraction: float, chosen: int) -> None:
    labels = mixed(numbered(), fraction, generator()).labels
    assert labels is not None
    assert int((labels == NO_LABEL).sum()) == chosen


def test_each_of_two_processes_has_its_part_of_the_mixed_pictures() -> None:
    labels = mixed(numbered(), 0.5, generator()).labels
    assert labels is not None
    assert [int((part == NO_LABEL).sum()) for part in labels.chunk(2)] == [10, 10]


def test_inputs_that_are_no_pictures_are_left_alone() -> None:
    batch = TrainingBatch((torch.ones(4, 3, 8, 8), torch.ones(4, 5)), None)
    assert mixed(batch, 1.0, generator()) is batch


def test_what_is_mixed_is_a_function_of_seed_and_step() -> None:
    recipe = Recipe(augment="flip_crop_mix", seed=4)
    first, again, other = (augmented(numbered(), recipe, step) for step in (1, 1, 2))
    assert torch.equal(first.inputs[0], again.inputs[0])
    assert not torch.equal(first.inputs[0], other.inputs[0])
    plain = augmented(numbered(), replace(recipe, augment="flip_crop"), 1)
    assert torch.equal(first.inputs[0][::2], plain.inputs[0][::2])
    assert torch.equal(first.labels == NO_LABEL, torch.arange(PICTURES) % 2 == 1)
    assert torch.equal(plain.labels, torch.arange(PICTURES))


def test_pictures_without_a_label_are_taught_by_the_float_network_alone() -> None:
    objective = Objective(Task((Term("logits", 1, 1.0),)), Recipe(), labelled=True)
    student, teacher = (torch.randn(6, 10, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    labels = torch.arange(6)
    distance = 0.7 * Objective(objective.task, Recipe(), labelled=False)([student], [teacher], None)
    half = labels.clone()
    half[::2] = NO_LABEL
    expected = distance + 0.3 * torch.nn.functional.cross_entropy(student[1::2], labels[1::2])
    torch.testing.assert_close(objective([student], [teacher], half), expected)
    torch.testing.assert_close(objective([student], [teacher], torch.full_like(labels, NO_LABEL)), distance)


def test_a_phase_learns_from_mixed_pictures(tmp_path: Path) -> None:
    recipe = replace(RECIPE, augment="flip_crop_mix")
    loop = run(prepared(recipe, samples=data(recipe, labels=np.arange(96) % 4)), tmp_path)
    labels = loop.batch_of(0).labels
    assert labels is not None
    assert int((labels == NO_LABEL).sum()) == len(labels) // 2
    assert all(np.isfinite(loop.history.losses))
