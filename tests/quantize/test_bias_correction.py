"""Bias correction: channel means return to those of the float network, and the program gains."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from mpqc.data.batches import Batches, open_data
from mpqc.frontend import load_network
from mpqc.numerics.interpreter import interpret
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.export import export_qdq
from mpqc.quantize.bias_correction import correct_biases
from mpqc.quantize.calibration import Calibration, calibrate
from mpqc.quantize.replay import run
from mpqc.quantize.sites import find_sites
from mpqc.values.network import Network
from mpqc.values.plan import Plan, uniform_plan
from mpqc.values.site import SiteTable
from tests.onnx_models import graph_model
from tests.quant_models import images, residual_network, weights


@pytest.fixture(scope="module")
def parts() -> tuple[Network, SiteTable, Calibration, Batches, Plan]:
    network = residual_network()
    table = find_sites(network)
    batches = open_data(images(32), network.inputs, limit=32)
    return network, table, calibrate(network, table, batches), batches, uniform_plan(table, "test", 3, 8)


def test_the_mean_of_each_channel_returns() -> None:
    """One convolution of 3 bits: what its weights lose on average, the bias gives back, in the integer program."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")
    constants = {"w": weights(4, 3, 3, 3, seed=0), "b": weights(4, seed=1)}
    network = load_network(graph_model([node], {"x": np.zeros((1, 3, 12, 12), np.float32)}, constants, ["y"]))
    table = find_sites(network)
    samples = images(32) + np.float32(0.5)
    batches = open_data(samples, network.inputs, limit=32)
    calibration, plan = calibrate(network, table, batches), uniform_plan(table, "test", 3, 8)
    biases = correct_biases(network, table, plan, calibration, batches)
    before, after = (np.abs(channel_errors(network, export_qdq(network, table, plan, calibration, weights=new), samples)) for new in ({}, biases))
    assert before.max() > 0.05
    assert after.max() < 0.05 * before.max()


def channel_errors(network: Network, model: onnx.ModelProto, samples: np.ndarray) -> np.ndarray:
    """Mean signed error of each channel of the integer program's output."""
    program = read_qdq(model)
    errors = [interpret(program, {"x": row[None]})["y"] - run(network, {"x": row[None]})["y"].numpy() for row in samples]
    return np.concatenate(errors).mean((0, 2, 3))


def test_only_biases_that_exist_change_and_keep_their_shape(parts: tuple[Network, SiteTable, Calibration, Batches, Plan]) -> None:
    network, table, calibration, batches, plan = parts
    state = {name: value.clone() for name, value in network.module.state_dict().items()}
    biases = correct_biases(network, table, plan, calibration, batches, samples=4)
    assert set(biases) == {"b0", "b4"}
    assert (biases["b0"].shape, biases["b4"].dtype) == ((8,), np.float32)
    assert all(torch.equal(value, state[name]) for name, value in network.module.state_dict().items())


def test_a_float_plan_changes_nothing(parts: tuple[Network, SiteTable, Calibration, Batches, Plan]) -> None:
    network, table, calibration, batches, _ = parts
    biases = correct_biases(network, table, Plan("test", (), uniform_plan(table, "test", 8, 8).proof), calibration, batches, samples=2)
    before = {name: network.module.state_dict()[network.attributes[name]].numpy() for name in biases}
    assert all(np.array_equal(biases[name], value) for name, value in before.items())
