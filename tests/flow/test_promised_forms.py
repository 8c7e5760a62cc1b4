"""Forms that a plan counts on are those that its convolutions get, whatever weights, biases and scales come out as."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import mpqc
from mpqc.cost.model import CostModel
from mpqc.lowering.product_forms import choose_forms
from mpqc.quantize.winograd import with_forms
from mpqc.targets import load_target
from mpqc.values.plan import uniform_plan
from tests.onnx_models import graph_model
from tests.quant_models import images, weights

CONVS = 4


def network(spread: float) -> onnx.ModelProto:
    """3x3 convolutions, some of whose channels are dead: tiny weights under a bias of usual size, zeros, one tap alone. spread: of the weights of
    an output channel, as powers of ten."""
    constants, nodes, x = {}, [], "x"
    for n in range(CONVS):
        w, b = weights(16, 3 if n == 0 else 16, 3, 3, seed=n), weights(16, seed=9 + n)
        w *= (10.0 ** np.random.default_rng(n).normal(0, spread, w.shape)).astype(np.float32)
        w[1], w[2] = w[1] * 1e-9, 0
        w[3].reshape(-1)[1:] = 0
        b[1:3] = (40, -3)
        constants |= {f"w{n}": w, f"b{n}": b}
        nodes.append(helper.make_node("Conv", [x, f"w{n}", f"b{n}"], [f"c{n}"], f"conv{n}", kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu" if n % 2 else "HardSwish", [f"c{n}"], [f"y{n}"], f"act{n}"))
        x = f"y{n}"
    return graph_model(nodes, {"x": np.zeros((1, 3, 12, 12), np.float32)}, constants, [x])


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("method", ["mse", "minmax"])
def test_what_is_promised_is_taken(spread: float, method: str) -> None:
    found = mpqc.load_network(network(spread))
    table = mpqc.find_sites(found)
    batches = mpqc.open_data(images(4), found.inputs, limit=4)
    calibration = mpqc.calibrate(found, table, batches, method=method)
    known, target = with_forms(table, calibration), load_target("cortex-a76")
    model, seen = CostModel(target).for_network(known), set()
    for weight_bits, input_bits in [(4, 6), (5, 6), (6, 6), (6, 7), (7, 7), (3, 5), (2, 2), (8, 8)]:
        plan = uniform_plan(known, target.name, weight_bits, input_bits)
        taken = choose_forms(mpqc.read_qdq(mpqc.export_qdq(found, table, plan, calibration)), target)
        promised = {node.name: model.form(node, weight_bits, (input_bits,)) for node in known.nodes if node.op_type == "Conv"}
        assert {name: form for name, form in promised.items() if form} == taken
        seen |= {(weight_bits, form) for form in taken.values()}
    assert {(4, "tile"), (6, "row")} <= seen
