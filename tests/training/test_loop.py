"""A phase learns, is deterministic, goes on bit for bit after any interruption, and what it exports is what it measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpqc.errors import MpqcError, TrainingError
from mpqc.numerics.integer import dequantize, quantize
from mpqc.numerics.interpreter import Interpreter
from mpqc.qdq.read.program import read_qdq
from mpqc.qdq.write.export import export_qdq
from mpqc.strategies import make_strategy
from mpqc.training.checkpoint import read_checkpoint, write_checkpoint
from mpqc.training.folding import fold, overflowing
from mpqc.training.optimizer import make_optimizer
from mpqc.training.phase import Keeping, Trained, affordable_steps, finish_loop, train
from mpqc.training.processes import Group
from mpqc.training.samples import augmented
from mpqc.values.history import Evaluation
from mpqc.values.plan import uniform_plan
from mpqc.values.program import Float
from mpqc.workspace.folder import open_workspace
from mpqc.workspace.job import Job
from mpqc.workspace.progress import Progress
from tests.quant_models import images
from tests.training.phases import RECIPE, data, facts, prepared, run

LONGER = replace(RECIPE, steps=40, evaluations=2)


def saved(path: Path) -> dict[str, Any]:
    state = read_checkpoint(path, Group(), torch.device("cpu"))
    assert state is not None
    return state


def exported(trained: Trained) -> Interpreter:
    start, parameters = facts(), trained.parameters
    program = read_qdq(export_qdq(start.network, start.table, trained.plan, parameters, weights=parameters.weights))
    assert not [op for op in program.ops if isinstance(op, Float)]
    return Interpreter(program)


def test_training_lowers_the_loss_and_keeps_the_best_state(tmp_path: Path) -> None:
    plan = uniform_plan(facts().table, "abstract", 2, 3)
    loop = prepared(LONGER, plan=plan)
    before = loop.measured().loss
    run(loop, tmp_path)
    best = loop.settle()
    assert best.loss < 0.7 * before
    assert not any(item.clearly_better(best, len(loop.equipment.samples.held_out)) for item in loop.history.evaluations)
    assert len(loop.history.losses) == 40
    assert loop.history.seconds > 0


@pytest.mark.parametrize(
    ("earlier", "last", "samples", "better"),
    [
        ((96.28, 0.27), (96.00, 0.28), 5000, False),  # one standard error of a difference is 0.38 points
        ((96.28, 0.27), (95.80, 0.28), 5000, True),
        ((96.28, 0.27), (95.80, 0.28), 1000, False),
        ((96.00, 0.20), (96.00, 0.28), 5000, False),
        ((None, 0.20), (None, 0.28), 5000, True),
        ((None, 0.28), (None, 0.20), 5000, False),
    ],
)
def test_an_earlier_state_is_better_where_chance_does_not_explain_it(
    earlier: tuple[float | None, float], last: tuple[float | None, float], samples: int, better: bool
) -> None:
    one, other = (Evaluation(step, loss, accuracy, True) for step, (accuracy, loss) in enumerate((earlier, last)))
    assert one.clearly_better(other, samples) is better


@pytest.mark.parametrize(("points", "step"), [(1.0, 40), (60.0, 20)])
def test_the_last_state_is_kept_unless_an_earlier_one_is_clearly_better(tmp_path: Path, points: float, step: int) -> None:
    loop = run(prepared(LONGER), tmp_path)
    last = loop.history.evaluations[-1]
    loop.best = replace(loop._state(replace(last, step=20, accuracy=90.0)), root={name: 0 * value for name, value in loop.root.state_dict().items()})
    loop.history.evaluations[-1] = replace(last, accuracy=90.0 - points)
    loop.settle()
    assert loop.best.evaluation.step == step
    assert any(bool(value.any()) for value in loop.best.root.values()) is (step == 40)


@pytest.mark.parametrize("strategy", ["fixed", "dq", "fracbits"])
def test_the_program_computes_what_was_measured(tmp_path: Path, strategy: str) -> None:
    loop = run(prepared(strategy=strategy), tmp_path)
    trained = finish_loop(loop, facts())
    pictures = images(40, seed=5)
    with torch.no_grad():
        measured = loop.root.eval()(torch.from_numpy(pictures))[0].numpy()
    computed = exported(trained).run({"x": pictures})["y"]
    steps = np.abs(computed - measured) / float(trained.parameters.grids["y"].scale)
    assert np.mean(steps < 0.01) > 0.98  # float sums may fall to the other side of a tie
    assert steps.max() < 1.01


def test_trained_weights_are_exactly_on_their_grids(tmp_path: Path) -> None:
    trained = finish_loop(run(prepared(), tmp_path), facts())
    for site in ("w0", "w1", "w2", "w3"):
        grid, values = trained.parameters.grids[site], trained.parameters.weights[site]
        np.testing.assert_array_equal(dequantize(quantize(values, grid), grid), values)
        assert grid.qtype.bits == 4
    changed = [
        site for site in ("w0", "b0", "w3", "b3") if not np.array_equal(trained.parameters.weights[site], facts().calibration.weights.get(site))
    ]
    assert changed == ["w0", "b0", "w3", "b3"]


def test_other_bits_than_the_trained_ones_are_refused(tmp_path: Path) -> None:
    loop = run(prepared(replace(RECIPE, steps=1)), tmp_path)
    with pytest.raises(MpqcError, match="trained at 4 bits, planned at 3"):
        fold(loop.equipment.trainable, uniform_plan(facts().table, "abstract", 3, 5))


def test_statistics_are_those_of_augmented_pictures(tmp_path: Path) -> None:
    loop = run(prepared(replace(RECIPE, augment="flip_crop")), tmp_path)
    loop.measure_statistics()
    norms, samples = loop.equipment.trainable.norms, loop.equipment.samples
    found, batch = norms[0].mean.clone(), samples.batch(samples.trained, torch.device("cpu"))
    for norm in norms:
        norm.momentum = 1.0
    means = []
    for shown in (augmented(batch, loop.recipe, RECIPE.steps), batch):
        with torch.no_grad():
            loop.root(*shown.inputs)
        means.append(norms[0].mean.clone())
    torch.testing.assert_close(found, means[0])
    assert not torch.allclose(found, means[1])


def test_a_strategy_scales_every_rate() -> None:
    loop = prepared()
    peaks = [group["peak"] for group in loop.optimizer.param_groups]
    loop.strategy.rate = 0.5
    slower = make_optimizer(loop.equipment.trainable, loop.strategy, loop.recipe)
    assert [group["peak"] for group in slower.param_groups] == [0.5 * peak for peak in peaks]


def test_half_width_arithmetic_trains_as_well(tmp_path: Path) -> None:
    loop = run(prepared(replace(LONGER, autocast=True)), tmp_path)
    assert loop.history.evaluations[-1].loss < 0.2


def test_labels_are_learned_from(tmp_path: Path) -> None:
    labels = np.arange(96) % 4
    recipe = replace(LONGER, label_weight=1.0, distillation_weight=0.0, held_out=0.0, learning_rate=0.05)
    loop = prepared(recipe, samples=data(recipe, labels=labels))
    before = loop.measured()
    run(loop, tmp_path)
    assert before.accuracy is not None
    assert loop.history.evaluations[-1].loss < before.loss


@pytest.mark.parametrize("strategy", ["fixed", "qbitopt", "dq", "fracbits", "mixquant", "auto"])
def test_a_checkpoint_goes_on_to_the_same_weights(tmp_path: Path, strategy: str) -> None:
    recipe = replace(RECIPE, tau=3)
    whole = run(prepared(recipe, strategy=strategy), tmp_path / "whole")
    half = prepared(recipe, strategy=strategy)
    for _ in range(7):
        half.step()
    state = half.state_dict()
    torch.save(state, tmp_path / "state.pt")
    resumed = prepared(recipe, strategy=strategy, resumes=True)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.strategy.rate == half.strategy.rate
    run(resumed, tmp_path / "resumed")
    assert_same(whole.root.state_dict(), resumed.root.state_dict())
    assert whole.history.losses == resumed.history.losses


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


KILLED = """
import sys, torch
torch.set_num_threads(1)
from dataclasses import replace
from pathlib import Path
from tests.training.phases import RECIPE, prepared, run
loop = prepared(replace(RECIPE, steps=30, checkpoint_seconds=0.0))
step = loop.step
def slow():
    step()
    print(loop.position.step, flush=True)
loop.step = slow
run(loop, Path(sys.argv[1]))
"""


def test_a_killed_phase_resumes_to_the_same_result(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 9:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    recipe = replace(RECIPE, steps=30)
    torch.set_num_threads(1)
    resumed, whole = prepared(recipe, resumes=True), run(prepared(recipe), tmp_path / "whole")
    resumed.load_state_dict(saved(tmp_path / "killed" / ".mpqc" / "training.pt"))
    assert 8 <= resumed.position.step < 30
    run(resumed, tmp_path / "killed")
    assert_same(whole.root.state_dict(), resumed.root.state_dict())


def test_ctrl_c_keeps_the_work(tmp_path: Path) -> None:
    loop = prepared()
    step = loop.step

    def interrupted() -> None:
        if loop.position.step == 5:
            signal.raise_signal(signal.SIGINT)
        step()

    loop.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(loop, tmp_path)
    resumed = prepared(resumes=True)
    resumed.load_state_dict(saved(tmp_path / ".mpqc" / "training.pt"))
    assert resumed.position.step == 6


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(MpqcError, match=r"training\.pt"):
        saved(path)


def test_a_loss_that_is_not_finite_names_the_layer(tmp_path: Path) -> None:
    loop = prepared()
    loop.step()
    loop.equipment.trainable.norms[1].beta.data[0] = float("nan")
    before = loop.equipment.trainable.weight("w0").clone()
    with pytest.raises(TrainingError, match=r"conv1.*step 1"):
        loop.step()
    assert torch.equal(before, loop.equipment.trainable.weight("w0"))


def test_time_bounds_the_steps() -> None:
    recipe = replace(RECIPE, seconds=2.0, evaluations=1)
    loop = prepared(recipe)
    before = {name: value.clone() for name, value in loop.root.state_dict().items()}
    begun = time.monotonic()
    steps = affordable_steps(loop, 2.0)
    assert 1 <= steps < 2.0 / 1e-4
    assert time.monotonic() - begun < 30
    assert_same(before, loop.root.state_dict())


def test_a_phase_that_is_late_ends(tmp_path: Path) -> None:
    loop = prepared(replace(RECIPE, seconds=1e-3))
    loop.position.steps = 1000
    run(loop, tmp_path)
    assert loop.position.step < 1000
    assert loop.position.frozen


def test_the_whole_phase_twice_gives_the_same_and_is_not_trained_again(tmp_path: Path) -> None:
    keeping = Keeping(Job(open_workspace(tmp_path), Progress(quiet=True)), tmp_path / ".mpqc" / "training.pt")
    first, second = (train(facts(), make_strategy("fixed"), RECIPE, data(), keeping, Group()) for _ in range(2))
    assert first.summary.curve == second.summary.curve
    for name, values in first.parameters.weights.items():
        np.testing.assert_array_equal(values, second.parameters.weights[name])


def test_another_number_of_threads_is_refused_until_the_phase_is_over(tmp_path: Path) -> None:
    """Sums of floats end in other last bits: what goes on would be neither the one result nor the other."""
    threads, recipe = torch.get_num_threads(), replace(RECIPE, steps=6)
    keeping = Keeping(Job(open_workspace(tmp_path), Progress(quiet=True)), tmp_path / ".mpqc" / "training.pt")
    state = prepared(recipe).state_dict()
    write_checkpoint(keeping.job.workspace, keeping.path, {**state, "threads": threads + 1})
    with pytest.raises(MpqcError, match=rf"begun with {threads + 1} threads and this run has {threads}.*OMP_NUM_THREADS={threads + 1}"):
        train(facts(), make_strategy("fixed"), recipe, data(), keeping, Group())
    write_checkpoint(keeping.job.workspace, keeping.path, state)
    done = train(facts(), make_strategy("fixed"), recipe, data(), keeping, Group())
    write_checkpoint(keeping.job.workspace, keeping.path, {**saved(keeping.path), "threads": threads + 1})
    assert train(facts(), make_strategy("fixed"), recipe, data(), keeping, Group()).summary.curve == done.summary.curve


def test_biases_outside_int32_are_told(tmp_path: Path) -> None:
    loop = run(prepared(replace(RECIPE, steps=1)), tmp_path)
    parameters = fold(loop.equipment.trainable, facts().plan)
    assert overflowing(loop.equipment.trainable, parameters) == ()
    huge = {**parameters.weights, "b1": parameters.weights["b1"] + np.float32(1e10)}
    assert overflowing(loop.equipment.trainable, replace(parameters, weights=huge)) == ("conv1",)
