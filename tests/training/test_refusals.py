"""What cannot be trained, or trained on, is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from mpqc.data.batches import open_data
from mpqc.errors import DataError, ModelError, UsageError
from mpqc.frontend import load_network
from mpqc.quantize.sites import find_sites
from mpqc.training.faults import refuse_untrainable
from mpqc.training.processes import Group
from mpqc.training.samples import augmented, collect, share, step_indices
from mpqc.values.network import TensorSpec
from mpqc.values.notation import read_seconds
from mpqc.values.recipe import Recipe
from mpqc.values.request import Options
from tests.onnx_models import graph_model
from tests.quant_models import images, weights
from tests.training.phases import RECIPE, data, facts, prepared


def test_noise_and_single_samples_are_no_training_data() -> None:
    inputs = facts().network.inputs
    with pytest.raises(DataError, match="training needs data"):
        collect(open_data(None, inputs, limit=8), None, RECIPE)
    with pytest.raises(DataError, match="1 sample is too few"):
        collect(open_data(images(1), inputs, limit=8), None, RECIPE)
    with pytest.raises(DataError, match="no sample"):
        collect(open_data([], inputs, limit=8), None, RECIPE)


@pytest.mark.parametrize(
    ("labels", "message"), [(np.zeros(3, np.int64), "3 labels for 96 samples"), (np.zeros(96), "float64"), (np.arange(96), "label 4 is outside")]
)
def test_labels_that_do_not_fit_are_named(labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepared(samples=data(labels=labels))


@pytest.mark.parametrize("shape", [(1, 8), (1, 32, 32, 3), (1, 4, 4, 16)])
@pytest.mark.parametrize("augment", ["flip_crop", "flip_crop_mix"])
def test_augmentation_without_pictures_is_refused_by_name(shape: tuple[int, ...], augment: str) -> None:
    inputs = (TensorSpec("features", shape, "float32"),)
    source = np.zeros((8, *shape[1:]), np.float32)
    with pytest.raises(UsageError, match=rf"{augment} needs .*features \["):
        collect(open_data(source, inputs, limit=8), None, replace(RECIPE, augment=augment))
    assert len(collect(open_data(source, inputs, limit=8), None, RECIPE).trained) == 8


def test_boxes_of_others_need_pictures_in_every_input() -> None:
    inputs = (TensorSpec("picture", (1, 3, 8, 8), "float32"), TensorSpec("speed", (1, 2), "float32"))
    source = [{"picture": np.zeros((1, 3, 8, 8), np.float32), "speed": np.zeros((1, 2), np.float32)}] * 4
    assert len(collect(open_data(source, inputs, limit=4), None, replace(RECIPE, augment="flip_crop")).trained) == 4
    with pytest.raises(UsageError, match=r"flip_crop_mix needs .* alone"):
        collect(open_data(source, inputs, limit=4), None, replace(RECIPE, augment="flip_crop_mix"))


def test_a_stretch_without_gradients_between_weights_is_refused_by_name() -> None:
    same, node = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], "conv0", **same), node("GlobalLpPool", ["c0"], ["d0"], "strange"),
        node("Conv", ["d0", "w1"], ["y"], "conv1", **same),
    ]  # fmt: skip
    constants = {"w0": weights(4, 3, 3, 3, seed=0), "w1": weights(4, 4, 3, 3, seed=1)}
    network = load_network(graph_model(nodes, {"x": np.zeros((1, 3, 8, 8), np.float32)}, constants, ["y"]))
    with pytest.raises(ModelError, match="strange"):
        refuse_untrainable(network, find_sites(network))


def test_options_of_a_phase_that_is_not_there_are_refused() -> None:
    with pytest.raises(UsageError, match="--qat-rate: there is no training phase"):
        Recipe.asked({"learning_rate": 0.1})
    with pytest.raises(UsageError, match="--qat-steps, --qat-time: both bound"):
        Recipe.asked({"steps": 3, "seconds": 60.0})
    with pytest.raises(UsageError, match=r"--qat-time: .*not a time"):
        read_seconds("10", "--qat-time")
    with pytest.raises(UsageError, match="while training"):
        Options(strategy="qbitopt")
    with pytest.raises(UsageError, match="already decides"):
        Options(strategy="qbitopt", training=Recipe(), plan=facts().plan)
    with pytest.raises(UsageError, match="augment"):
        Recipe(augment="mixup")


def test_what_is_given_becomes_a_recipe() -> None:
    assert Recipe.asked({}) is None
    found = Recipe.asked({"seconds": read_seconds("1.5h", ""), "batch": 64, "augment": "flip_crop"})
    assert found == Recipe(seconds=5400.0, batch=64, augment="flip_crop")
    given = Recipe.asked({"steps": 10, "learning_rate": 0.02})
    assert given == Recipe(steps=10, learning_rate=0.02, adapt_rates=False)


def test_weights_that_learn_let_a_strategy_learn_bits_where_no_plan_says_them() -> None:
    plan, recipe = facts().plan, Recipe()
    assert Options.asked({}).strategy == "fit"
    assert Options.asked({"training": recipe}).strategy == "auto"
    assert Options.asked({"training": recipe, "plan": plan}).strategy == "fit"
    assert Options.asked({"training": recipe, "strategy": "dq"}).strategy == "dq"
    assert Options.asked({"training": recipe, "seed": 7}).training == Recipe(seed=7)


def test_every_sample_is_seen_once_an_epoch_and_processes_share_a_batch() -> None:
    samples = data()
    assert not set(samples.trained) & set(samples.held_out)
    seen = np.concatenate([step_indices(samples.trained, step, 11, seed=3) for step in range(7)])
    assert sorted(seen) == sorted(samples.trained)
    again = step_indices(samples.trained, 7, 11, seed=3)
    assert not np.array_equal(again, seen[:11])
    rows = [share(again, Group(rank, 3)) for rank in range(3)]
    assert np.array_equal(np.concatenate([again[row] for row in rows]), again)


def test_augmentation_shifts_and_mirrors_and_depends_on_the_step_alone() -> None:
    import torch

    recipe = replace(RECIPE, augment="flip_crop")
    batch = data().batch(np.arange(16), torch.device("cpu"))
    first, again, other = (augmented(batch, recipe, step).inputs[0] for step in (1, 1, 2))
    assert first.shape == batch.inputs[0].shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    unchanged = [bool((first[index] == batch.inputs[0][index]).all()) for index in range(16)]
    assert not all(unchanged)
