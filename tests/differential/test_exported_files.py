"""From a float network through sites, calibration and random mixed plans to a file: interpreter and ONNX Runtime agree."""

from __future__ import annotations

import numpy as np
import pytest
from qdq_nets import assert_within, session, worst_steps

from mpqc.data.batches import open_data
from mpqc.numerics.interpreter import Interpreter
from mpqc.passes.apply_plan import ApplyPlan
from mpqc.passes.prepare_quantizers import with_quantizers
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.export import export_qdq, widen
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.replay import run
from mpqc.quantize.sites import find_sites
from mpqc.values.plan import Choice, Plan, Proof, uniform_plan
from mpqc.values.program import Float
from mpqc.values.site import SiteTable
from tests.quant_models import images, residual_network


def mixed_plan(table: SiteTable, seed: int) -> Plan:
    rng = np.random.default_rng(seed)
    bits = {name: int(rng.integers(2, 9)) for name in table.groups}
    return Plan("test", tuple(Choice(site.name, site.kind, bits[site.group_name]) for site in table.sites), Proof("given"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("opset", [None, 14])
def test_a_mixed_plan_means_the_same_to_the_interpreter_and_to_onnx_runtime(seed: int, opset: int | None) -> None:
    network = residual_network(softmax=True)
    table = find_sites(network)
    calibration = calibrate(network, table, open_data(images(8), network.inputs, limit=8), "mse")
    model = export_qdq(network, table, mixed_plan(table, seed), calibration, opset=opset)
    program = read_qdq(model)
    assert [op.op_types for op in program.ops if isinstance(op, Float)] == [("Softmax",)]
    assert_within(worst_steps(widen(model), program, {"x": images(1, seed=9)}))


def test_eight_bits_are_close_to_the_float_network() -> None:
    network = residual_network()
    table = find_sites(network)
    calibration = calibrate(network, table, open_data(images(32), network.inputs, limit=32), "minmax")
    program = read_qdq(export_qdq(network, table, uniform_plan(table, "test", 8, 8), calibration))
    pictures = images(32)
    mine = Interpreter(program).run({"x": pictures})["y"]
    float_session = session(network.model)
    expected = np.concatenate([float_session.run(None, {"x": pictures[i : i + 1]})[0] for i in range(32)])
    noise = ((mine - expected) ** 2).mean() / expected.var()
    assert noise < 0.01  # 20 dB: eight bits through a dozen layers


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 8), (4, 4), (2, 8)])
def test_fake_quantization_in_torch_is_the_integer_program(weight_bits: int, activation_bits: int) -> None:
    """Torch sums float32 products of dequantized values: rounding below 2^-18 of a sum can only turn a tie into the next code,
    which no value of this network does; one step of the output is allowed for other builds of torch."""
    network = residual_network()
    table = find_sites(network)
    calibration = calibrate(network, table, open_data(images(16), network.inputs, limit=16), "mse")
    plan = uniform_plan(table, "test", weight_bits, activation_bits)
    quantized = with_quantizers(network, table)
    ApplyPlan().run(quantized, table, plan, calibration)
    program = read_qdq(export_qdq(network, table, plan, calibration))
    pictures = images(16, seed=4)
    mine = Interpreter(program).run({"x": pictures})["y"]
    theirs = np.concatenate([run(quantized, {"x": pictures[i : i + 1]})["y"].numpy() for i in range(16)])
    step = float(program.tensors[program.ops[-1].inputs[0]].qparams.scale)
    assert np.abs(mine - theirs).max() <= 1.001 * step
    assert (np.abs(mine - theirs) < 0.5 * step).mean() >= 0.99
