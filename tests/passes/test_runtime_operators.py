"""ONNX Runtime's fused operators, written as what they were made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import check, graph_model, noise

from mpqc.passes.lib.runtime_operators import DOMAIN, RUNTIME_RULES

X, IMAGE = noise(2, 3, 8), noise(1, 3, 6, 6)
CONV = {"w": noise(4, 3, 3, 3, seed=1), "b": noise(4, seed=2)}
NORM = {"skip": noise(2, 3, 8, seed=3), "gamma": noise(8, seed=4), "beta": noise(8, seed=5), "bias": noise(8, seed=6)}
CODES = np.random.default_rng(0).integers(0, 256, (5, 2, 8)).astype(np.uint8)
SCALES, ZEROS = noise(5, 2, low=0.01, high=0.02), np.random.default_rng(1).integers(0, 256, (5, 1)).astype(np.uint8)
BLOCKS = {"K": 30, "N": 5, "bits": 4, "block_size": 16}
CASES: list[tuple[str, np.ndarray, str, dict[str, np.ndarray], dict[str, Any]]] = [
    ("BiasGelu", X, "x b", {"b": noise(8)}, {}),
    ("FastGelu", X, "x b", {"b": noise(8)}, {}),
    ("FusedConv", IMAGE, "x w b", CONV, {"activation": "Relu", "pads": [1] * 4}),
    ("FusedConv", IMAGE, "x w b z", {**CONV, "z": noise(1, 4, 6, 6)}, {"activation": "Relu", "pads": [1] * 4}),
    ("FusedConv", IMAGE, "x w", CONV, {"activation": "Clip", "activation_params": [-0.5, 0.7]}),
    ("FusedGemm", X[0], "x w b", {"w": noise(8, 4), "b": noise(4)}, {"activation": "LeakyRelu", "activation_alpha": 0.3, "alpha": 0.5}),
    ("FusedMatMul", X, "x w", {"w": noise(2, 4, 8)}, {"transB": 1, "alpha": 0.25}),
    ("FusedMatMul", X, "x w", {"w": noise(2, 3, 4)}, {"transA": 1}),
    ("Gelu", X, "x", {}, {}),
    ("MatMulNBits", noise(3, 30), "x q s", {"q": CODES, "s": SCALES}, BLOCKS),
    ("MatMulNBits", noise(3, 30), "x q s z", {"q": CODES, "s": SCALES, "z": ZEROS}, BLOCKS),
    ("QuickGelu", X, "x", {}, {"alpha": 1.5}),
    ("SkipLayerNormalization", X, "x skip gamma beta", NORM, {"epsilon": 1e-5}),
    ("SkipLayerNormalization", X, "x skip gamma beta bias", NORM, {}),
]


@pytest.mark.parametrize(("op_type", "x", "inputs", "constants", "options"), CASES, ids=[f"{case[0]}{index}" for index, case in enumerate(CASES)])
def test_results_stay(op_type: str, x: np.ndarray, inputs: str, constants: dict[str, np.ndarray], options: dict[str, Any]) -> None:
    names = inputs.split()
    node = helper.make_node(op_type, names, ["y"], "node", domain=DOMAIN, **options)
    model = graph_model([node], {"x": x}, {name: constants[name] for name in names[1:]}, ["y"], opset=17)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="y"))
    network = check(model, {"x": x}, tolerance=2e-5)
    assert DOMAIN not in {each.domain for each in network.model.graph.node}


def test_every_rule_has_a_case() -> None:
    assert RUNTIME_RULES.keys() == {case[0] for case in CASES}
