"""A plan that measures worse than the obvious one gives way to it, and says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import mpqc
from mpqc.cost.model import CostModel
from mpqc.data.batches import open_data
from mpqc.flow.plan_guard import WORTHLESS, guarded_plan, uniform_rivals, warn_of_worthless
from mpqc.flow.results import Analysis
from mpqc.frontend import load_network
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.measure import measure
from mpqc.sensitivity.plan_loss import plan_losses
from mpqc.sensitivity.roundoff import relative_errors
from mpqc.targets import load_target
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan, uniform_plan
from mpqc.workspace.progress import Progress
from tests.onnx_models import graph_model
from tests.quant_models import images, residual_network, weights


@pytest.fixture(scope="module")
def subject() -> tuple[Analysis, CostModel]:
    network = residual_network()
    table = find_sites(network)
    batches = open_data(images(8), network.inputs, limit=8)
    model = CostModel(load_target("cortex-a76")).for_network(table)
    return Analysis(network, table, batches, calibrate(network, table, batches), None), model


def plan(subject: tuple[Analysis, CostModel], weight_bits: int, activation_bits: int) -> Plan:
    return replace(uniform_plan(subject[0].table, "cortex-a76", weight_bits, activation_bits), strategy="fit")


def test_a_worse_plan_gives_way_to_eight_bits(subject: tuple[Analysis, CostModel]) -> None:
    taken = guarded_plan(plan(subject, 2, 2), *subject, (), {})
    assert {choice.bits for choice in taken.choices} == {8}
    assert "w8a8 everywhere" in taken.notes[-1]


def test_inside_a_budget_the_best_uniform_plan_inside_it_is_the_rival(subject: tuple[Analysis, CostModel]) -> None:
    budget = Budget(Resource.WEIGHT_BITS, 4)
    rivals = uniform_rivals(subject[0].table, subject[1], (budget,), {})
    assert set(rivals) == {(4, 8)}
    taken = guarded_plan(plan(subject, 2, 4), *subject, (budget,), {})
    assert (taken.choices, taken.uses) == (rivals[4, 8].choices, rivals[4, 8].uses)
    known = subject[0]
    losses = plan_losses(known.network, known.table, known.calibration, known.batches, (plan(subject, 2, 4), rivals[4, 8]))
    assert losses[1] < losses[0]


def test_a_plan_that_measures_better_stays(subject: tuple[Analysis, CostModel]) -> None:
    budget = Budget(Resource.WEIGHT_BITS, 4)
    better = plan(subject, 8, 8)  # as if the budget let it
    assert guarded_plan(better, *subject, (budget,), {}) is better


def test_the_best_of_worthless_plans_says_that_it_is_worthless(subject: tuple[Analysis, CostModel], capsys: pytest.CaptureFixture[str]) -> None:
    known, model = subject
    model = CostModel(load_target("packed")).for_network(known.table)
    budgets = (Budget(Resource.WEIGHT_BITS, 1), Budget(Resource.ACTIVATION_BITS, 1))
    taken = guarded_plan(plan(subject, 2, 1), known, model, budgets, {})
    assert taken.notes[-1].startswith(WORTHLESS)
    warn_of_worthless(taken, Progress(quiet=True))
    assert f"warning: {WORTHLESS}: the best one loses " in capsys.readouterr().err
    better = guarded_plan(plan(subject, 2, 2), *subject, (), {})
    warn_of_worthless(better, Progress(quiet=True))
    assert capsys.readouterr().err == ""


def test_where_no_uniform_plan_fits_there_is_no_rival(subject: tuple[Analysis, CostModel]) -> None:
    assert uniform_rivals(subject[0].table, subject[1], (Budget(Resource.WEIGHT_BITS, 1),), {}) == {}


def gate(kind: str, scale: float, seed: int) -> tuple[object, dict[str, np.ndarray]]:
    """A squeeze-and-excite gate whose function is saturated on the data."""
    generator = np.random.default_rng(seed)
    constants = {
        "w0": weights(8, 3, 3, 3, seed=seed), "w1": weights(4, 8, 1, 1, seed=seed + 1),
        "w2": (generator.standard_normal((8, 4, 1, 1)) * scale).astype(np.float32), "w3": weights(4, 8, 1, 1, seed=seed + 2),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], "conv0"), node("Relu", ["c0"], ["r0"], "relu0"), node("GlobalAveragePool", ["r0"], ["g0"], "mean"),
        node("Conv", ["g0", "w1"], ["c1"], "conv1"), node("Relu", ["c1"], ["r1"], "relu1"), node("Conv", ["r1", "w2"], ["c2"], "conv2"),
        node(kind, ["c2"], ["e0"], "gate"), node("Mul", ["r0", "e0"], ["m0"], "mul"), node("Conv", ["m0", "w3"], ["y"], "conv3"),
    ]  # fmt: skip
    data = generator.standard_normal((8, 3, 10, 10)).astype(np.float32)
    return graph_model(nodes, {"x": data[:1]}, constants, ["y"]), {"x": data}


@pytest.mark.parametrize(("kind", "scale"), [("HardSigmoid", 30.0), ("Sigmoid", 300.0), ("Round", 5.0), ("Relu", 0.0)])
def test_without_a_budget_flat_gradients_take_no_bits(tmp_path: Path, kind: str, scale: float) -> None:
    model, data = gate(kind, scale, seed=7)
    mpqc.compile(model, data=data, output=tmp_path / "out", allow_slower=True, target="cortex-a76")
    choices = json.loads((tmp_path / "out" / "plan.json").read_text())["choices"]
    assert {choice["site"]: choice["bits"] for choice in choices if choice["bits"] != 8} == {}
    assert not [choice["reason"] for choice in choices if "only width" in choice["reason"]]


def test_flat_sites_count_their_loss_or_their_round_off() -> None:
    model, data = gate("HardSigmoid", 30.0, seed=7)
    network = load_network(model)  # type: ignore[arg-type]
    table = find_sites(network)
    batches = open_data(data, network.inputs, limit=8)
    calibration = calibrate(network, table, batches)
    found = measure(network, table, calibration, batches, bits=(2, 4, 8))
    changed = {name for name, row in relative_errors(table, calibration, (2,)).items() if row[2] > 0}
    assert {"c2", "w2"} <= changed
    assert all(found.values[name][2] > found.values[name][8] for name in changed)
    assert any("sensitivity of 0" in note for note in found.notes)
