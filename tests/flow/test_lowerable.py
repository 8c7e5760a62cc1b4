"""What cannot be in a program is known before calibration, by name; `mpqc check` says it of every operator."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import mpqc
from mpqc.errors import LoweringError
from mpqc.flow.checking import FLOAT, INTEGER, REFUSED, check_network
from mpqc.flow.lowerable import refusals
from mpqc.frontend import load_network
from mpqc.lowering.float_region import import_float
from mpqc.quantize.sites import find_sites
from mpqc.values.program import Float
from tests.onnx_models import graph_model, noise


def network(*tail: str) -> onnx.ModelProto:
    """Gemm, then square matrices through the ops of `tail`; Det is what TVM has no loops for."""
    nodes = [helper.make_node("Gemm", ["x", "w"], ["t0"], "gemm")]
    nodes += [helper.make_node(op, [f"t{index}"], [f"t{index + 1}"], f"{op.lower()}{index}") for index, op in enumerate(tail)]
    return graph_model(nodes, {"x": noise(4, 4)}, {"w": noise(4, 4, seed=1)}, [f"t{len(tail)}"])


def test_nodes_that_tvm_has_no_loops_for_are_named() -> None:
    imported = load_network(network("Softmax", "Det"))
    found = refusals(imported, find_sites(imported))
    assert [node.name for node, _ in found] == ["det1"]
    assert not refusals(load_network(network("Softmax")), find_sites(load_network(network("Softmax"))))


def test_a_compile_stops_before_it_calibrates(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LoweringError, match=r"^Det 'det0': cannot be in the program: .*Det \(cut the model"):
        mpqc.compile(network("Det"), target="host", output=tmp_path)
    assert not (tmp_path / "sites.json").exists()
    assert capfd.readouterr().out == "", "what TVM prints is not for standard output"


@pytest.mark.parametrize(
    ("attributes", "fault"), [({"mode": "n"}, "Unknown resize method"), ({"mode": "cubic", "axes": [2, 3], "antialias": 1}, "out of bounds")]
)
def test_what_tvm_warns_is_not_for_standard_error(capfd: pytest.CaptureFixture[str], attributes: dict[str, object], fault: str) -> None:
    """The first is refused by a pass, the second by the frontend, whose builder is left with an open block."""
    node = helper.make_node("Resize", ["x", "", "factors"], ["y"], "grown", **attributes)
    factors = np.ones(2 if "axes" in attributes else 4, np.float32)
    model = graph_model([node], {"x": noise(1, 2, 4, 4)}, {"factors": factors}, ["y"])
    with pytest.raises(LoweringError, match=fault):
        import_float(Float("grown", ("x",), ("y",), model.SerializeToString(), ("Resize",), "mode n"))
    gc.collect()
    assert "Warning" not in capfd.readouterr().err


def test_check_says_what_becomes_of_every_operator(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(network("Relu", "Softmax", "Det"), path)
    checked = check_network(path, "cortex-a76", shapes={}, values={})
    assert [(fate.op_type, fate.fate) for fate in checked.fates] == [("Gemm", INTEGER), ("Relu", INTEGER), ("Softmax", FLOAT), ("Det", REFUSED)]
    assert not checked.is_buildable
    gemm = checked.fates[0]
    assert gemm.microseconds is not None
    assert gemm.microseconds > 0
    assert np.isfinite(gemm.microseconds)


def test_targets_without_code_refuse_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(network("Det"), path)
    assert check_network(path, "abstract", shapes={}, values={}).is_buildable
