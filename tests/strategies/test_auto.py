"""mpqc's own method: its start, its moves, its re-allocations; budgets throughout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mpqc.budget import Budget, Resource
from mpqc.numerics import dequantize, quantize
from mpqc.sensitivity import relative_errors
from mpqc.strategies.auto import Auto
from mpqc.strategies.common import LsqStrategy, bits_of
from mpqc.strategies.fit import MovingNoise
from mpqc.strategies.polish import Polish
from mpqc.training.recipe import Recipe
from tests.strategies.sessions import checked, small_session, train, used

WEIGHTS = Budget(Resource.WEIGHT_BITS, 3.0)


def test_it_learns_and_ends_inside_its_budgets() -> None:
    session = small_session(WEIGHTS, Budget(Resource.ACTIVATION_BITS, 4.0), recipe=Recipe(steps=30, batch=8))
    strategy = Auto(trials=6)
    strategy.prepare(session)
    losses = train(strategy, session, 30)
    finished = strategy.finish()
    plan = checked(session, finished.plan)
    assert sum(losses[-4:]) < sum(losses[:4])
    assert used(plan, "weight_bits") <= 3.0
    assert used(plan, "activation_bits") <= 4.0
    assert len(strategy.changes) == 4
    found = {site: item.state.qparams().qtype.bits for site, item in session.module.quantizers.items()}
    assert found == bits_of(finished.plan)


def test_a_phase_goes_on_from_what_was_saved() -> None:
    recipe = Recipe(steps=30, batch=8)
    session = small_session(WEIGHTS, recipe=recipe)
    strategy = Auto(trials=4)
    strategy.prepare(session)
    train(strategy, session, 5)
    again = small_session(WEIGHTS, recipe=recipe)
    other = Auto(trials=4)
    other.prepare(again)
    other.load_state_dict(strategy.state_dict())
    again.module.root.load_state_dict(session.module.root.state_dict())
    train(strategy, session, 1, first=5)
    train(other, again, 1, first=5)
    assert bits_of(strategy.finish().plan) == bits_of(other.finish().plan)


def test_the_polish_only_takes_what_measures_better_and_stays_inside() -> None:
    session = small_session(WEIGHTS)
    strategy = LsqStrategy()
    strategy.prepare(session)
    polish = Polish(session, strategy.states, session.sensitivities)
    before = polish.loss(session.plan, 0)
    better = polish.improve(session.plan, 15, "auto")
    assert polish.loss(better, 0) <= before
    assert used(checked(session, better), "weight_bits") <= 3.0
    assert {site: item.state.qparams().qtype.bits for site, item in session.module.quantizers.items()} == bits_of(better)


def test_fixed_sites_are_not_moved() -> None:
    from dataclasses import replace

    session = replace(small_session(WEIGHTS), fixed={"w1": 3})
    strategy = LsqStrategy()
    strategy.prepare(session)
    moves = list(Polish(session, strategy.states, session.sensitivities)._moves(session.plan))
    assert moves
    assert all("w1" not in move for move in moves)


def test_a_changed_weight_gets_the_grid_of_least_error() -> None:
    session = small_session()
    strategy = Auto(trials=0, pairs=False)
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
