"""A budget of activation memory holds for activations and scratch: kernels take less scratch where it would be too much, and refusals say where."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import mpqc
from mpqc.errors import BudgetInfeasibleError
from mpqc.flow.artifacts import lowered_program
from mpqc.flow.building import THRIFT
from tests.onnx_models import graph_model
from tests.quant_models import weights


def network() -> onnx.ModelProto:
    """Two convolutions that are large enough for four cores."""
    nodes = [helper.make_node("Conv", [x, f"{y}_w"], [y], y, pads=[1] * 4, kernel_shape=[3, 3]) for x, y in (("x", "a"), ("a", "b"))]
    constants = {f"{name}_w": weights(16, 16, 3, 3, seed=seed) for seed, name in enumerate("ab")}
    return graph_model(nodes, {"x": np.zeros((1, 16, 32, 32), np.float32)}, constants, ["b"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> mpqc.Compiled:
    return compiled(tmp_path_factory.mktemp("memory") / "free")


def compiled(output: object, *budgets: object) -> mpqc.Compiled:
    data = np.random.default_rng(0).standard_normal((2, 16, 32, 32)).astype(np.float32)
    return mpqc.compile(network(), "cortex-a76", budgets, data, output=output, allow_slower=True)  # type: ignore[arg-type]


def test_scratch_of_one_core_is_taken_where_that_of_all_is_too_much(folder: mpqc.Compiled) -> None:
    wide = folder.report.memory["arena_bytes"]
    made = compiled(folder.output.parent / "tight", mpqc.ActivationMemory(f"{wide - 1}B"))
    assert made.report.memory["arena_bytes"] < wide
    assert made.report.memory["workspace_bytes"] * 3 < folder.report.memory["workspace_bytes"]
    assert any("cut for one core" in note for note in made.report.notes)
    assert not any("cut for one core" in note for note in folder.report.notes)
    ones = np.ones((1, 16, 32, 32), np.float32)
    np.testing.assert_array_equal(made.run(ones)["b"], folder.run(ones)["b"])


def test_blocks_that_copy_less_take_less_scratch(folder: mpqc.Compiled) -> None:
    core = mpqc.load_target("cortex-a76").model_copy(update={"cores": 1})
    found = [lowered_program(folder.program, core, most) for most in THRIFT]
    sizes = [one.arena.workspace_bytes for one in found if one is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert 2 * sizes[-1] < sizes[0]


def test_a_refusal_says_where_the_program_needs_most(folder: mpqc.Compiled) -> None:
    with pytest.raises(BudgetInfeasibleError, match=r"program needs most at b_DequantizeLinear, [\d,]+ B of activations and [\d,]+ B of scratch"):
        compiled(folder.output.parent / "less", mpqc.ActivationMemory("20kB"))
