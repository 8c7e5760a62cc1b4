"""What is done for a plan without training: each repair is kept only where it helps, and a second run finds what the first made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpqc.data.batches import open_data, skipping
from mpqc.errors import UsageError
from mpqc.flow.analysis import range_method
from mpqc.flow.export import Exporting, export_program
from mpqc.flow.post_training import Repaired, RepairInputs, repair
from mpqc.numerics.interpreter import Interpreter
from mpqc.quantize.calibration import calibrate
from mpqc.quantize.replay import run
from mpqc.quantize.sites import find_sites
from mpqc.sensitivity.range_choice import choose_ranges
from mpqc.values.plan import uniform_plan
from mpqc.values.request import Options, Repairing
from mpqc.workspace.folder import open_workspace
from mpqc.workspace.job import Job
from mpqc.workspace.progress import Progress
from tests.quant_models import images, residual_network


def inputs_of(asked: Repairing, bits: tuple[int, int] = (3, 4), *, data: bool = True) -> RepairInputs:
    network = residual_network()
    table = find_sites(network)
    batches = open_data(images(64) if data else None, network.inputs, limit=64)
    return RepairInputs(network, table, calibrate(network, table, batches), batches, uniform_plan(table, "abstract", *bits), asked)


def error_of(inputs: RepairInputs, made: Repaired) -> float:
    """Mean squared error of the exported program."""
    exporting = Exporting(inputs.network, inputs.table, made.calibration, inputs.batches, None, made.parameters, made.constants)
    program, samples = export_program(exporting, inputs.plan)[1], images(64, seed=5)
    floats = np.concatenate([run(inputs.network, {"x": image[None]})["y"].numpy() for image in samples])
    return float(np.square(Interpreter(program).run({"x": samples})["y"].reshape(floats.shape) - floats).mean())


def job_in(folder: Path) -> Job:
    return Job(open_workspace(folder), Progress(quiet=True))


def test_each_repair_lowers_the_error_of_what_is_exported(tmp_path: Path) -> None:
    plain = inputs_of(Repairing(bias_correction="off", rounding="nearest"), (2, 8))
    errors = [error_of(plain, repair(plain, job_in(tmp_path)))]
    learned = replace(plain, asked=Repairing(effort="normal", reconstruction=100))
    made = repair(learned, job_in(tmp_path))
    assert made.parameters is not None
    assert "blocks reconstructed in 100 steps each" in made.notes[-1]
    assert error_of(learned, made) < 0.6 * errors[0]


def test_weights_rounded_together_lower_the_error_and_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nearest = inputs_of(Repairing(rounding="nearest"), (3, 8))
    together = replace(nearest, asked=Repairing())
    made = repair(together, job_in(tmp_path))
    assert any("layers rounded together: loss" in note for note in made.notes)
    assert error_of(together, made) < 0.5 * error_of(nearest, repair(nearest, job_in(tmp_path)))
    monkeypatch.setattr("mpqc.quantize.rounding.round_weights", None)
    again = repair(together, job_in(tmp_path))
    assert again.constants.keys() == made.constants.keys()
    assert all(np.array_equal(again.constants[name], value) for name, value in made.constants.items())
    with pytest.raises(TypeError):
        repair(inputs_of(Repairing(), (4, 8)), job_in(tmp_path))


def test_a_second_run_learns_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of(Repairing(reconstruction=5))
    first = repair(inputs, job_in(tmp_path))
    monkeypatch.setattr("mpqc.strategies.reconstruction._Work", None)
    second = repair(inputs, job_in(tmp_path))
    assert first.notes == second.notes
    with pytest.raises(TypeError):
        repair(replace(inputs, asked=Repairing(reconstruction=6)), job_in(tmp_path))


def test_a_time_that_does_not_suffice_is_said(tmp_path: Path) -> None:
    made = repair(inputs_of(Repairing(reconstruction=5, repair_seconds=1e-9)), job_in(tmp_path))
    assert any("did not suffice for 4 of 4 blocks" in note for note in made.notes)
    assert made.parameters is None
    assert [Options(effort=name).repairing.seconds for name in ("fast", "normal", "high")] == [300, 1200, 7200]
    assert Options(effort="high", repair_seconds=60.0).repairing.seconds == 60


def test_without_data_nothing_is_repaired(tmp_path: Path) -> None:
    inputs = inputs_of(Repairing(effort="high", bias_correction="on"), data=False)
    made = repair(inputs, job_in(tmp_path))
    assert (made.constants, made.parameters, made.calibration) == ({}, None, inputs.calibration)


def test_ranges_are_chosen_by_what_they_cost_the_output() -> None:
    inputs = inputs_of(Repairing())
    minmax = inputs.calibration.with_methods(dict.fromkeys(inputs.table.groups, "minmax"))
    worst = replace(minmax, method="percentile", chosen={})
    found = choose_ranges(inputs.network, inputs.table, worst, inputs.batches, uniform_plan(inputs.table, "abstract", 8, 2))
    assert "mse" in found.values()
    chosen = worst.with_methods(found)
    group = next(name for name, method in found.items() if method == "mse")
    site = inputs.table.groups[group][0].name
    assert chosen.qparams(site, 2).scale == inputs.calibration.qparams(site, 2).scale
    assert chosen.qparams(site, 2).scale != worst.qparams(site, 2).scale


def test_samples_that_are_left_out() -> None:
    network = residual_network()
    batches = open_data(images(10), network.inputs, limit=10)
    every = [batch["x"] for batch in batches]
    assert [np.array_equal(a["x"], b) for a, b in zip(skipping(batches, 4, 3), every[4:7], strict=True)] == [True] * 3
    assert [np.array_equal(a["x"], b) for a, b in zip(skipping(batches, 32, 32), every, strict=True)] == [True] * 10


def test_what_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown effort"):
        Options(effort="huge")
    with pytest.raises(UsageError, match="--rounding"):
        Options(rounding="up")
    with pytest.raises(UsageError, match="--bias-correction"):
        Options(bias_correction="maybe")
    assert [Options(effort=name).repairing.steps for name in ("fast", "normal", "high")] == [0, 300, 2000]
    assert Options(effort="high", reconstruction=0).repairing.steps == 0


def test_without_data_ranges_are_all_that_was_seen() -> None:
    network = residual_network()
    made_up, given = (open_data(source, network.inputs, limit=4) for source in (None, images(4)))
    assert [range_method("auto", batches) for batches in (made_up, given)] == ["minmax", "mse"]
    assert range_method("percentile", made_up) == "percentile"
