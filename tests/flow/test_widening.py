"""Plans whose activations lose too much at 8 bits: which get 16 or stay float, and that others stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import TensorProto, helper

from mpqc.allocator import allocate
from mpqc.cost.model import CostModel
from mpqc.data.batches import open_data
from mpqc.errors import PlanError
from mpqc.flow.export import Exporting, export_program
from mpqc.flow.results import Analysis
from mpqc.flow.widening import GOAL, widened_plan
from mpqc.frontend import load_network
from mpqc.numerics.metrics import in_decibel
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.plan_noise import NoiseMeter
from mpqc.targets import load_target
from mpqc.values.budget import Budget, Resource
from mpqc.values.plan import Plan, uniform_plan
from mpqc.values.program import Float
from mpqc.values.sensitivities import Sensitivities
from tests.onnx_models import graph_model
from tests.quant_models import images, residual_network

FEATURES = 16


def subject(loud: float, target: str = "cortex-a76") -> tuple[Analysis, CostModel, Plan]:
    """Two layers, of which the first does not listen to its first input, `loud` times as large as the others; a plan of 8 bits."""
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((FEATURES, FEATURES)).astype(np.float32) for _ in range(2))
    first[0] = 0
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Relu", ["h"], ["r"]), helper.make_node("MatMul", ["r", "b"], ["y"])]
    network = load_network(graph_model(nodes, {"x": first[:1]}, {"a": first, "b": second}, ["y"]))
    samples = rng.standard_normal((8, FEATURES)).astype(np.float32)
    samples[:, 0] *= loud
    table, batches = find_sites(network), open_data(samples, network.inputs, limit=8)
    model = CostModel(load_target(target)).for_network(table)
    analysis = Analysis(network, table, batches, calibrate(network, table, batches, "minmax"), None)
    return analysis, model, uniform_plan(table, target, 8, 8)


def kept(analysis: Analysis, plan: Plan) -> float:
    return in_decibel(NoiseMeter(analysis.network, analysis.table, analysis.calibration, analysis.batches).noise(plan))


def widened(loud: float, budgets: Sequence[Budget] = (), fixed: dict[str, int | None] | None = None) -> tuple[Analysis, Plan, Plan]:
    analysis, model, plan = subject(loud)
    return analysis, plan, widened_plan(plan, analysis, model, budgets, fixed or {})


def test_a_plan_that_keeps_its_outputs_stays_as_it_is() -> None:
    analysis, plan, found = widened(1.0)
    assert kept(analysis, plan) > 20
    assert found is plan


@pytest.mark.parametrize(("loud", "bits"), [(300.0, 16), (1e6, None)])
def test_what_eight_bits_lose_gets_sixteen_or_stays_float(loud: float, bits: int | None) -> None:
    analysis, plan, found = widened(loud)
    assert kept(analysis, plan) < 10
    assert kept(analysis, found) > GOAL
    assert {choice.site: choice.bits for choice in found.choices if choice.bits != 8} == {"x": bits}
    reason = next(choice.reason for choice in found.choices if choice.site == "x")
    assert reason.startswith("float: alone at 16 bits" if bits is None else "16 bits: alone at 8 bits it leaves")
    assert "of the outputs on the calibration data" in found.notes[-1]


def test_budgets_and_the_user_are_obeyed() -> None:
    analysis, model, plan = subject(300.0)
    tight = Budget(Resource.BOPS, model_bops(analysis, model))
    assert widened_plan(plan, analysis, model, (tight,), {}) is plan
    assert widened_plan(plan, analysis, model, (), {"x": 8}).bits("x") == 8


def model_bops(analysis: Analysis, model: CostModel) -> float:
    """Of all at 8 bits."""
    return float(sum(model.bit_operations(node, 8, (8,)) for node in analysis.table.nodes))


def test_targets_without_long_codes_keep_their_plan() -> None:
    analysis, model, plan = subject(300.0, "ethos-u55-256")
    assert widened_plan(plan, analysis, model, (), {}) is plan


def test_sites_file_and_program_agree_at_sixteen_bits() -> None:
    """What the sites call integer is so in the file and in the program, and none of it is float but what was before."""
    network = residual_network()
    table, batches = find_sites(network), open_data(images(4), network.inputs, limit=4)
    exporting = Exporting(network, table, calibrate(network, table, batches), batches)
    model, program = export_program(exporting, uniform_plan(table, "cortex-a76", 8, 16))
    floats = {op_type for op in program.ops if isinstance(op, Float) for op_type in op.op_types}
    assert floats <= {node.op_type for node in table.floats}
    assert {tensor.dtype for tensor in program.tensors.values() if tensor.qparams is not None} == {"int16"}
    zeros = {tensor.name: tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith("zero_point")}
    assert set(zeros.values()) == {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32}  # of weights, activations, biases


def test_the_user_may_ask_for_sixteen_bits() -> None:
    analysis, model, _ = subject(1.0)
    scored = Sensitivities("none", "none", {site.name: {8: 0.0} for site in analysis.table.sites})
    assert allocate(analysis.table, scored, model, (), fixed={"x": 16}).bits("x") == 16
    with pytest.raises(PlanError, match="9 bits, which the target does not have"):
        allocate(analysis.table, scored, model, (), fixed={"x": 9})
