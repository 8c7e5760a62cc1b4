"""Operators that TVM has no loops for, written out: the same results in ONNX Runtime, in torch and in a built program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import check, noise, one_op

from mpqc.passes.lib.written_out import RULES
from mpqc.passes.write_out_operators import WriteOutOperators

WHOLE = np.random.default_rng(0).integers(0, 4, (3, 5, 7))
CODES = np.random.default_rng(1).integers(0, 256, (1, 20, 6, 6)).astype(np.uint8)
WEIGHTS = np.random.default_rng(2).integers(0, 256, (4, 20, 3, 3)).astype(np.uint8)
WINDOW = np.hanning(8).astype(np.float32)
ROI, CROP = np.float32([0, 0, 0.1, 0.1, 1, 1, 0.8, 1.2]), {"coordinate_transformation_mode": "tf_crop_and_resize"}
CASES: list[tuple[str, list[np.ndarray], dict[int, Any], dict[str, Any]]] = [
    ("CumSum", [noise(3, 6)], {1: np.array(1)}, {}),
    ("CumSum", [noise(5, 3)], {1: np.array([-2])}, {"exclusive": 1, "reverse": 1}),
    ("CumSum", [WHOLE], {1: np.array(0)}, {"exclusive": 1}),
    ("CumSum", [noise(1, 3)], {1: np.array(0)}, {"exclusive": 1}),
    ("TopK", [WHOLE.astype(np.float32)], {1: np.array([3])}, {"axis": 1}),
    ("TopK", [WHOLE.astype(np.float32)], {1: np.array([7])}, {"axis": -1, "largest": 0}),
    ("TopK", [WHOLE], {1: np.array([2])}, {"axis": 0}),
    ("DFT", [noise(2, 12, 1)], {1: None, 2: np.array(1)}, {}),
    ("DFT", [noise(2, 12, 1)], {1: None, 2: np.array(1)}, {"onesided": 1}),
    ("DFT", [noise(2, 5, 6, 2)], {1: np.array(8), 2: np.array(-2)}, {}),
    ("DFT", [noise(2, 9, 2)], {1: np.array(6), 2: np.array(1)}, {"inverse": 1}),
    ("STFT", [noise(2, 30, 1)], {1: np.array(4), 2: WINDOW, 3: np.array(8)}, {}),
    ("STFT", [noise(1, 30, 1)], {1: np.array(5), 2: WINDOW}, {"onesided": 0}),
    ("Compress", [noise(3, 4)], {1: np.array([True, False, True])}, {"axis": 1}),
    ("Compress", [noise(3, 4)], {1: np.array([True, False, True])}, {}),
    ("CenterCropPad", [noise(5, 4, 3)], {1: np.array([2, 7, 3])}, {}),
    ("CenterCropPad", [noise(4, 5)], {1: np.array([8])}, {"axes": [-1]}),
    ("Resize", [noise(1, 2, 6, 7)], {1: ROI, 2: None, 3: np.array([1, 2, 9, 4])}, {**CROP, "mode": "linear", "extrapolation_value": 2.0}),
    ("Resize", [noise(1, 2, 6, 7)], {1: ROI, 2: None, 3: np.array([1, 2, 9, 4])}, {**CROP, "mode": "nearest", "extrapolation_value": 2.0}),
    ("Resize", [noise(1, 2, 6, 7)], {1: np.float32([0.1, 0, 0.9, 1]), 2: np.float32([2, 1])}, {**CROP, "mode": "linear", "axes": [2, 3]}),
    (
        "Resize",
        [noise(1, 1, 6, 5)],
        {1: np.float32([0, 0, 0.2, 0.3, 1, 1, 0.9, 0.8]), 2: None, 3: np.array([1, 1, 1, 3])},
        {**CROP, "mode": "linear"},
    ),
    ("ReverseSequence", [noise(4, 3, 2)], {1: np.array([4, 1, 2])}, {"time_axis": 0, "batch_axis": 1}),
    ("ReverseSequence", [noise(3, 4)], {1: np.array([4, 3, 2])}, {"time_axis": 1, "batch_axis": 0}),
    ("ConvInteger", [CODES], {1: WEIGHTS, 2: np.uint8(117)}, {"pads": [1, 1, 1, 1]}),
    ("ConvInteger", [CODES[:, :1]], {1: WEIGHTS[:, :1]}, {}),
]


@pytest.mark.parametrize(("op_type", "inputs", "constants", "options"), CASES, ids=[f"{case[0]}{index}" for index, case in enumerate(CASES)])
def test_results_stay(op_type: str, inputs: list[np.ndarray], constants: dict[int, Any], options: dict[str, Any]) -> None:
    model, feeds = one_op(op_type, inputs, constants, outputs=2 if op_type == "TopK" else 1, **options)
    network = check(model, feeds, tolerance=1e-5)
    assert op_type not in {node.op_type for node in network.model.graph.node}


def test_every_rule_has_a_case() -> None:
    assert RULES.keys() == {case[0] for case in CASES}


def test_what_would_be_too_large_stays() -> None:
    model, _ = one_op("TopK", [np.zeros((1, 20000), np.float32)], {1: np.array([3])}, outputs=2)
    assert not WriteOutOperators().run(model).changed
