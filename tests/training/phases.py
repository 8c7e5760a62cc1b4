"""Small training phases: a network whose convolutions have folded biases, its data, and a phase on it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from mpqc.cost.model import CostModel
from mpqc.data.batches import open_data
from mpqc.frontend import load_network
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.strategies import make_strategy
from mpqc.targets import load_target
from mpqc.training.loop import Loop
from mpqc.training.phase import Machine, Start, prepare_loop
from mpqc.training.samples import Samples, collect
from mpqc.values.plan import Plan, uniform_plan
from mpqc.values.recipe import Recipe
from mpqc.workspace.folder import open_workspace
from mpqc.workspace.progress import Progress
from tests.onnx_models import graph_model
from tests.quant_models import images, weights

RECIPE = Recipe(steps=12, batch=16, evaluations=3, autocast=False, held_out=0.2, oscillation="freeze")


def folded_model() -> onnx.ModelProto:
    """Conv+Relu, a depthwise Conv, a residual Conv with Add+Relu, MaxPool, global average, Gemm: every convolution with a bias, as folding leaves."""
    constants = {
        "w0": weights(8, 3, 3, 3, seed=0), "b0": weights(8, seed=1) * 0.1, "w1": weights(8, 1, 3, 3, seed=2), "b1": weights(8, seed=3) * 0.1,
        "w2": weights(8, 8, 1, 1, seed=4), "b2": weights(8, seed=5) * 0.1, "w3": weights(4, 8, seed=6), "b3": weights(4, seed=7) * 0.1,
    }  # fmt: skip
    same, node = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, helper.make_node
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["c0"], "conv0", **same), node("Relu", ["c0"], ["r0"], "relu0"),
        node("Conv", ["r0", "w1", "b1"], ["c1"], "conv1", group=8, **same), node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", kernel_shape=[1, 1]), node("Add", ["c2", "r0"], ["a0"], "add0"),
        node("Relu", ["a0"], ["r2"], "relu2"), node("MaxPool", ["r2"], ["p0"], "pool0", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["p0"], ["g0"], "mean0"), node("Reshape", ["g0", "shape"], ["f0"], "flat0"),
        node("Gemm", ["f0", "w3", "b3"], ["y"], "fc", transB=1),
    ]  # fmt: skip
    return graph_model(nodes, {"x": np.zeros((1, 3, 12, 12), np.float32)}, {**constants, "shape": np.array([1, 8], np.int64)}, ["y"])


@cache
def facts() -> Start:
    """The network on the abstract target, calibrated, at 4 bits for weights and 5 for activations."""
    network = load_network(folded_model())
    table = find_sites(network)
    calibration = calibrate(network, table, open_data(images(64), network.inputs, limit=64))
    cost_model = CostModel(load_target("abstract")).for_network(table)
    return Start(network, table, calibration, None, cost_model, (), {}, uniform_plan(table, "abstract", 4, 5))


def data(recipe: Recipe = RECIPE, count: int = 96, labels: np.ndarray | None = None) -> Samples:
    """Pictures, all that a phase may see."""
    return collect(open_data(images(count), facts().network.inputs, limit=count), labels, recipe)


def prepared(
    recipe: Recipe = RECIPE, *, strategy: str = "fixed", plan: Plan | None = None, samples: Samples | None = None, resumes: bool = False
) -> Loop:
    """A loop that is about to take its first step, or to be given its state."""
    start = facts() if plan is None else replace(facts(), plan=plan)
    return prepare_loop(start, make_strategy(strategy), recipe, samples or data(recipe), Machine(), resumes=resumes)


def run(loop: Loop, folder: Path) -> Loop:
    """The whole phase."""
    workspace = open_workspace(folder)
    loop.run(workspace, workspace.root / ".mpqc" / "training.pt", Progress(quiet=True))
    return loop
