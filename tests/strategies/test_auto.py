"""mpqc's own method: its start, its moves, its re-allocations; budgets throughout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mpqc.numerics.integer import dequantize, quantize
from mpqc.sensitivity.measure import relative_errors
from mpqc.strategies.auto import FULL_RATE_LOSS, Auto, rate_for
from mpqc.strategies.common import LsqStrategy, bits_of
from mpqc.strategies.fit import MovingNoise
from mpqc.strategies.measured_loss import MeasuredLoss
from mpqc.training.session import TrainingBatch
from mpqc.values.budget import Budget, Resource
from mpqc.values.recipe import Recipe
from tests.strategies.sessions import checked, small_session, train, used

WEIGHTS = Budget(Resource.WEIGHT_BITS, 3.0)


def test_it_learns_and_ends_inside_its_budgets() -> None:
    session = small_session(WEIGHTS, Budget(Resource.ACTIVATION_BITS, 4.0), recipe=Recipe(steps=30, batch=8))
    strategy = Auto()
    strategy.prepare(session)
    losses = train(strategy, session, 30)
    finished = strategy.finish()
    plan = checked(session, finished.plan)
    assert sum(losses[-4:]) < sum(losses[:4])
    assert used(plan, "weight_bits") <= 3.0
    assert used(plan, "activation_bits") <= 4.0
    assert len(strategy.changes) == 3
    found = {site: item.state.qparams().qtype.bits for site, item in session.module.quantizers.items()}
    assert found == bits_of(finished.plan)


def test_a_phase_goes_on_from_what_was_saved_without_measuring_its_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(steps=30, batch=8)
    session = small_session(WEIGHTS, recipe=recipe)
    strategy = Auto()
    strategy.prepare(session)
    train(strategy, session, 5)
    monkeypatch.setattr(Auto, "_start", lambda *_: pytest.fail("measured again"))
    again = replace(small_session(WEIGHTS, recipe=recipe), resumes=True)
    other = Auto()
    other.prepare(again)
    other.load_state_dict(strategy.state_dict())
    again.module.root.load_state_dict(session.module.root.state_dict())
    train(strategy, session, 1, first=5)
    train(other, again, 1, first=5)
    assert strategy.changes == other.changes
    assert bits_of(strategy.finish().plan) == bits_of(other.finish().plan)


def test_the_start_is_the_plan_that_measures_best() -> None:
    session = small_session(WEIGHTS)
    strategy = Auto()
    strategy.prepare(session)
    plans = list(strategy._plans(session, session.sensitivities, strategy.noise.sensitivities()))
    measured = MeasuredLoss(session, strategy.states)
    losses = measured.means(plans)
    assert measured.means([strategy.current]) == [min(losses)]
    assert measured.best_of(plans) is plans[losses.index(min(losses))]
    assert {site: item.state.qparams().qtype.bits for site, item in session.module.quantizers.items()} == bits_of(strategy.current)
    assert all(used(checked(session, plan), "weight_bits") <= 3.0 for plan in plans)


def test_fixed_sites_are_not_changed() -> None:
    strategy = Auto()
    strategy.prepare(replace(small_session(WEIGHTS), fixed={"w1": 3}))
    assert strategy.current.bits("w1") == 3


def test_rates_are_in_proportion_to_what_quantization_adds() -> None:
    assert [rate_for(added) for added in (-0.1, 0.0, FULL_RATE_LOSS / 2, FULL_RATE_LOSS, 9.0)] == [0.2, 0.2, 0.5, 1.0, 1.0]


def started(weight_bits: float, *, labels: bool = False, **facts: object) -> Auto:
    session = small_session(Budget(Resource.WEIGHT_BITS, weight_bits), labels=labels)

    def distance(batch: TrainingBatch) -> torch.Tensor:
        with session.module.floating(), torch.no_grad():
            floating = session.module.root(*batch.inputs)
        return sum((ours - theirs).square().mean() for ours, theirs in zip(session.module.root(*batch.inputs), floating, strict=True))

    session = replace(session, loss=distance, **facts)  # type: ignore[arg-type]
    strategy = Auto()
    strategy.prepare(session)
    return strategy


def test_fewer_bits_are_trained_faster() -> None:
    mild, hard = started(8.0, in_nats=True), started(2.0, in_nats=True)
    assert mild.added is not None
    assert hard.added is not None
    assert mild.added < hard.added
    assert mild.rate == rate_for(mild.added) < hard.rate == rate_for(hard.added)
    assert any("learning rates at" in note for note in mild.finish().notes)


def test_rates_are_the_recipes_where_they_are_given_or_labels_are_or_losses_are_no_nats() -> None:
    assert started(8.0, labels=True, in_nats=True).rate == 1.0
    assert started(8.0).rate == 1.0
    assert started(8.0, in_nats=True, recipe=Recipe(steps=20, batch=8, tau=4, adapt_rates=False)).rate == 1.0


def test_a_changed_weight_gets_the_grid_of_least_error() -> None:
    session = small_session()
    strategy = Auto(pairs=False)
    strategy.prepare(session)
    weight = session.module.weight("w1").detach().numpy()
    strategy.change("w1", strategy.states["w1"], 2)
    fitted = strategy.states["w1"].qparams()
    kept = LsqStrategy()
    kept.prepare(session)
    kept.change("w1", kept.states["w1"], 2)
    error = [np.square(dequantize(quantize(weight, item), item) - weight).sum() for item in (fitted, kept.states["w1"].qparams())]
    assert error[0] < error[1]


def test_noise_is_what_calibrated_grids_leave() -> None:
    session = small_session()
    LsqStrategy().prepare(session)
    noise = MovingNoise(session)
    noise.measure()
    row, relative = noise.sensitivities().values["w1"], relative_errors(session.table, session.calibration, (2, 4))["w1"]
    assert row[2] / row[4] == pytest.approx(relative[2] / relative[4])
    assert torch.isfinite(torch.tensor(list(row.values()))).all()
