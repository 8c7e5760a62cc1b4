"""Fake quantization above the waist against the integer program below it: the same plan gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

from mpqc.data.batches import open_data
from mpqc.frontend import load_network
from mpqc.numerics.interpreter import interpret
from mpqc.passes.apply_plan import ApplyPlan
from mpqc.passes.prepare_quantizers import with_quantizers
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.export import export_qdq
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.replay import run
from mpqc.quantize.sites import find_sites
from mpqc.values.network import Network
from mpqc.values.plan import uniform_plan
from tests.onnx_models import graph_model
from tests.quant_models import images, residual_network, weights

WIDTHS = [(8, 8), (4, 8), (8, 4), (4, 4), (2, 2), (3, 6)]


def both(network: Network, samples: np.ndarray, widths: tuple[int, int]) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """Outputs of the fake-quantized FX graph and of the interpreted program, and the output's step."""
    table = find_sites(network)
    calibration = calibrate(network, table, open_data(samples, network.inputs, limit=8))
    plan = uniform_plan(table, "test", *widths)
    prepared = with_quantizers(network, table)
    ApplyPlan().run(prepared, table, plan, calibration)
    program = read_qdq(export_qdq(network, table, plan, calibration))
    source, result = network.inputs[0].name, network.outputs[0].name
    made = [run(prepared, {source: row[None]})[result].numpy() for row in samples]
    defined = [interpret(program, {source: row[None]})[result] for row in samples]
    return made, defined, float(calibration.qparams(result, widths[1]).scale)


@pytest.mark.parametrize("widths", WIDTHS)
def test_residual_network_gives_the_same_codes(widths: tuple[int, int]) -> None:
    made, defined, step = both(residual_network(), images(6), widths)
    for a, b in zip(made, defined, strict=True):
        # float32 sums of products differ from int32 ones by less than a rounding, which a tie can turn into one step
        assert np.abs(a - b).max() <= 1.01 * step
    assert np.mean([np.array_equal(a, b) for a, b in zip(made, defined, strict=True)]) >= 0.8


def test_constant_operands_are_quantized_as_in_the_file() -> None:
    constants = {"w": weights(4, 3, 3, 3, seed=0), "b": weights(4, seed=1), "k": weights(1, 4, 1, 10, seed=2), "v": weights(5, 4, 1, 1, seed=3)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], "conv"), helper.make_node("Add", ["a", "k"], ["m"], "add"),
        helper.make_node("Conv", ["m", "v"], ["y"], "last"),
    ]  # fmt: skip
    network = load_network(graph_model(nodes, {"x": np.zeros((1, 3, 12, 12), np.float32)}, constants, ["y"]))
    made, defined, step = both(network, images(4), (8, 8))
    for a, b in zip(made, defined, strict=True):
        assert np.abs(a - b).max() <= 1.01 * step
        assert np.mean(a == b) > 0.99


@pytest.mark.parametrize("widths", [(8, 8), (4, 4)])
def test_resnet20_gives_the_same_codes(shared: Callable[[str], Path], widths: tuple[int, int]) -> None:
    network = load_network(shared("onnx_derived/resnet20_cifar10.onnx"))
    samples = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).numpy()
    made, defined, step = both(network, samples, widths)
    assert all(np.abs(a - b).max() <= 2.01 * step for a, b in zip(made, defined, strict=True))
    assert np.mean([np.mean(a == b) for a, b in zip(made, defined, strict=True)]) > 0.7
