"""What has no price is said to have none, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from mpqc.flow.checking import check_network
from mpqc.flow.pipeline import warn_of_unpriced
from mpqc.values.budget import Resource
from mpqc.values.plan import Plan, Proof, Use
from mpqc.workspace.progress import Progress
from tests.onnx_models import graph_model

USE = Use(Resource.LATENCY, 5.0, 10.0, ("softmax",))


def warned(capsys: pytest.CaptureFixture[str], use: Use) -> str:
    warn_of_unpriced(Plan("cortex-a76", (), Proof("optimal", 0.0, 0.0, 0.0), (use,)), Progress(quiet=True))
    return capsys.readouterr().err


def test_only_a_latency_budget_that_leaves_nodes_out_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not see 1 float nodes, which no cost row prices: softmax" in warned(capsys, USE)
    for priced in (replace(USE, unpriced=()), replace(USE, limit=None), replace(USE, built=6.0), replace(USE, resource=Resource.SIZE)):
        assert warned(capsys, priced) == ""


@pytest.mark.parametrize(("target", "is_priced"), [("cortex-a76", True), ("abstract", False)])
def test_check_says_of_float_nodes_whether_they_have_a_price(tmp_path: Path, target: str, is_priced: bool) -> None:
    model = graph_model([helper.make_node("Softmax", ["x"], ["y"], "last")], {"x": np.zeros((1, 16), np.float32)}, {}, ["y"])
    onnx.save(model, tmp_path / "net.onnx")
    fate = check_network(tmp_path / "net.onnx", target, shapes={}, values={}).fates[0]
    assert (fate.node, "no cost row prices it" not in fate.reason) == ("last", is_priced)
