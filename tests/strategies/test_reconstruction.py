"""Blocks of a graph, learned rounding, and that reconstruction brings a block's output nearer than rounding to nearest."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from mpqc.data.batches import open_data
from mpqc.numerics.integer import dequantize, quantize
from mpqc.numerics.interpreter import Interpreter
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.export import export_qdq
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.replay import run
from mpqc.quantize.rounding import round_weights
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.task import find_task
from mpqc.strategies.blocks import BlockRunner, blocks_of
from mpqc.strategies.reconstruction import Effort, Keep, Reconstruction, reconstruct
from mpqc.training.processes import Group
from mpqc.training.quantizers.rounding import RoundingState, sharpness
from mpqc.training.trainable import make_trainable
from mpqc.values.plan import uniform_plan
from mpqc.values.qtype import QParams, QType
from tests.quant_models import images, residual_network, weights


def test_soft_rounding_starts_at_the_weights_and_ends_on_the_grid() -> None:
    state = RoundingState()
    state.set(QParams(QType(4, 0), np.array([0.1, 0.2], np.float32), np.zeros(2, np.int32)))
    weight = torch.linspace(-0.6, 0.6, 12).reshape(2, 6)
    state.begin(weight)
    torch.testing.assert_close(state.train()(weight), weight, atol=2e-4, rtol=0)
    used, found = state.eval()(weight).detach().numpy(), state.qparams()
    np.testing.assert_array_equal(dequantize(quantize(used, found), found), used)
    assert np.abs(used - weight.numpy()).max() <= 0.1 + 1e-6


def test_undecided_falls_to_nothing_when_all_is_rounded() -> None:
    state = RoundingState()
    state.choice.data = torch.tensor([9.0, -9.0, 0.0])
    assert state.undecided(2.0).item() == 1.0
    assert (sharpness(0.1), sharpness(1.0)) == (20.0, 2.0)


def test_blocks_hold_residual_paths_together_and_chain_to_the_same_output() -> None:
    network = residual_network()
    table = find_sites(network)
    batches = open_data(images(8), network.inputs, limit=8)
    task = find_task(network, batches)
    trainable = make_trainable(network, table, calibrate(network, table, batches), task, batch_norm=False, group=Group())
    blocks = blocks_of(trainable.root, frozenset(("w0", "w1", "w2", "w3", "w4")))
    assert [block.weights for block in blocks] == [("w0",), ("w1", "w2"), ("w3",), ("w4",)]
    value = torch.from_numpy(images(4))
    runner = BlockRunner(trainable.root)
    with torch.no_grad():
        whole = trainable.root(value)[0]
        for block in blocks:
            value = runner.run_block(block, value)
    assert torch.equal(value, whole)


def test_reconstruction_beats_rounding_to_nearest_and_exports() -> None:
    network = residual_network()
    table = find_sites(network)
    samples = images(64)
    batches = open_data(samples, network.inputs, limit=64)
    calibration = calibrate(network, table, batches)
    task = find_task(network, batches)
    plan = uniform_plan(table, "abstract", 2, 8)
    losses = []
    floats = np.concatenate([run(network, {"x": image[None]})["y"].numpy() for image in samples])
    for steps in (0, 150):
        made = reconstruct(network, table, plan, calibration, task, torch.from_numpy(samples), Effort(steps)).parameters
        program = read_qdq(export_qdq(network, table, plan, made, weights=made.weights))
        found = Interpreter(program).run({"x": samples})["y"]
        losses.append(float(np.square(found.reshape(floats.shape) - floats).mean()))
    assert losses[1] < 0.2 * losses[0]


def test_few_steps_take_larger_ones() -> None:
    assert [Effort(steps).rate for steps in (20_000, 400, 50)] == [1e-3, 0.05, 0.1]


def test_a_stopped_reconstruction_goes_on_to_the_same_result() -> None:
    network = residual_network()
    table = find_sites(network)
    samples = images(16)
    batches = open_data(samples, network.inputs, limit=16)
    calibration, task, plan = calibrate(network, table, batches), find_task(network, batches), uniform_plan(table, "abstract", 3, 4)
    kept: list[dict[str, Any]] = []

    def run_from(start: dict[str, Any] | None) -> Reconstruction:
        keep = Keep(lambda: start, lambda state: kept.append(copy.deepcopy(dict(state))))
        return reconstruct(network, table, plan, calibration, task, torch.from_numpy(samples), Effort(20), keep=keep)

    whole = run_from(None)
    assert [state["done"] for state in kept] == [1, 2, 3, 4]
    for stopped in (kept[1], kept[3]):
        again = run_from(stopped)
        assert again.after == whole.after
        assert again.parameters.grids["r1"].scale == whole.parameters.grids["r1"].scale
        assert all(np.array_equal(value, whole.parameters.weights[name]) for name, value in again.parameters.weights.items())


def test_steps_of_activations_and_biases_are_learned_too() -> None:
    network = residual_network()
    table = find_sites(network)
    samples = images(16)
    batches = open_data(samples, network.inputs, limit=16)
    calibration, task, plan = calibrate(network, table, batches), find_task(network, batches), uniform_plan(table, "abstract", 8, 3)
    made = reconstruct(network, table, plan, calibration, task, torch.from_numpy(samples), Effort(30)).parameters
    assert made.grids["r0"].scale != calibration.qparams("r0", 3).scale
    assert not np.array_equal(made.weights["b0"], weights(8, seed=1) * 0.1)


def test_it_starts_from_weights_that_were_rounded_together_and_teaches_what_the_file_has() -> None:
    """Without a step the rounded weights and biases come out, and the float network that is compared with is the given one."""
    network = residual_network()
    table = find_sites(network)
    batches = open_data(images(16), network.inputs, limit=16)
    calibration, task, plan = calibrate(network, table, batches), find_task(network, batches), uniform_plan(table, "abstract", 3, 8)
    rounded = round_weights(network, table, plan, calibration, batches, samples=16)
    constants = {**rounded.weights, **rounded.biases}
    samples = torch.from_numpy(images(16))
    started = reconstruct(network, table, plan, calibration, task, samples, Effort(0), constants=constants)
    for name, value in constants.items():
        np.testing.assert_array_equal(started.parameters.weights[name], value, err_msg=name)
    nearest = reconstruct(network, table, plan, calibration, task, samples, Effort(0))
    assert started.before == started.after < 0.5 * nearest.before


def test_a_weight_near_its_code_rounds_to_it_and_may_learn_the_next_one() -> None:
    state = RoundingState()
    state.set(QParams(QType(4, 0), np.array([0.5], np.float32), np.zeros(1, np.int32)))
    weight, rounded = torch.tensor([[0.9, -0.3, 0.74, 0.1]]), torch.tensor([[0.5, -0.5, 0.5, 0.0]])
    near = state.near(weight, rounded)
    assert near.tolist() == [pytest.approx([0.725, -0.3, 0.725, 0.1])]
    state.begin(near)
    assert torch.equal(state.eval()(near), rounded)


def test_learning_ends_when_its_time_is_over() -> None:
    network = residual_network()
    table = find_sites(network)
    batches = open_data(images(16), network.inputs, limit=16)
    parts = (network, table, uniform_plan(table, "abstract", 3, 8), calibrate(network, table, batches), find_task(network, batches))
    kept: list[int] = []
    keep = Keep(lambda: None, lambda state: kept.append(state["done"]))
    made = reconstruct(*parts, torch.from_numpy(images(16)), Effort(3, seconds=0.0), keep=keep)
    assert (made.learned, made.blocks, kept) == (0, 4, [])
    assert made.before == made.after
    assert reconstruct(*parts, torch.from_numpy(images(16)), Effort(3)).learned == 4
