"""QBitOpt, DQ and FracBits through steps of training: budgets at the end, learned widths, what is saved and loaded."""

from __future__ import annotations

import time

import pytest
import torch

from mpqc.strategies.auto import Auto
from mpqc.strategies.common import LsqStrategy, bits_of, by_site
from mpqc.strategies.dq import DQ
from mpqc.strategies.fit import MovingFit, fit_terms
from mpqc.strategies.fracbits import FracBits
from mpqc.strategies.qbitopt import QBitOpt, sticky
from mpqc.strategies.real_cost import real_cost
from mpqc.training.strategy import Strategy
from mpqc.values.budget import Budget, Resource
from mpqc.values.recipe import Recipe
from tests.strategies.sessions import checked, small_session, train, used

WEIGHTS = Budget(Resource.WEIGHT_BITS, 3.0)
LARGEST = Budget(Resource.LARGEST_ACTIVATION, 8 * 12 * 12 * 4 / 8 * 8)
METHODS = (QBitOpt, DQ, FracBits, LsqStrategy)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_and_ends_inside_its_budgets(method: type[Strategy]) -> None:
    session = small_session(WEIGHTS, LARGEST)
    strategy = method()
    strategy.prepare(session)
    losses = train(strategy, session, 20)
    finished = strategy.finish()
    assert sum(losses[-4:]) < sum(losses[:4])
    plan = checked(session, finished.plan)
    assert used(plan, "weight_bits") <= 3.0
    found = {site: item.state.qparams().qtype.bits for site, item in session.module.quantizers.items()}
    assert found == bits_of(finished.plan)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_phase_goes_on_from_what_was_saved(method: type[Strategy], frozen: bool) -> None:
    session = small_session(WEIGHTS)
    strategy = method()
    strategy.prepare(session)
    train(strategy, session, 18 if frozen else 6)
    saved, root = strategy.state_dict(), session.module.root.state_dict()
    again = small_session(WEIGHTS)
    other = method()
    other.prepare(again)
    other.load_state_dict(saved)
    again.module.root.load_state_dict(root)
    if frozen:
        again.position.frozen = True
    else:
        again.position.step = session.position.step
    for item in (session, again):
        item.module.root.eval()
    with torch.no_grad():
        assert torch.equal(session.loss(session.batch()), again.loss(again.batch()))
    assert other.state_dict() == saved


@pytest.mark.parametrize("method", [QBitOpt, Auto])
def test_time_spent_on_choosing_bits_is_told(method: type[Strategy]) -> None:
    session = small_session(WEIGHTS)
    strategy = method()
    begun = time.perf_counter()
    strategy.prepare(session)
    train(strategy, session, 18)
    assert 0 < strategy.finish().seconds < time.perf_counter() - begun


def test_fit_is_the_batch_size_times_the_squared_gradient() -> None:
    session = small_session()
    strategy = LsqStrategy()
    strategy.prepare(session)
    site = next(site for site in session.table.sites if site.name == "w4")
    with session.module.floating():
        session.loss(session.batch()).backward()
    weight = session.module.weight("w4")
    spread = weight.detach().amax(1) - weight.detach().amin(1)
    expected = 8 * (weight.grad.square().sum(1) * spread**2).sum()
    fit = MovingFit(session)
    found = fit_terms(session, fit.sites, fit.extent, fit.seen_extent)
    assert found["w4"] == pytest.approx(float(expected), rel=1e-4)
    assert found["x"] > 0
    assert site.kind == "weight"


def test_moving_averages_start_without_bias_and_fall_with_the_widths() -> None:
    session = small_session()
    LsqStrategy().prepare(session)
    fit = MovingFit(session)
    fit.measure()
    first = fit.sensitivities().values["w1"]
    fit.measure()
    assert fit.sensitivities().values["w1"] == pytest.approx(first)
    assert first[2] / first[4] == pytest.approx((15 / 3) ** 2)


def test_hysteresis_keeps_what_is_nearly_as_good() -> None:
    session = small_session(WEIGHTS)
    assert session.sensitivities is not None
    row = sticky(session.sensitivities, session.plan, 0.1).values["w1"]
    bits = session.plan.bits("w1")
    assert row[bits] == pytest.approx(0.9 * session.sensitivities.values["w1"][bits])
    assert row[1 if bits != 1 else 2] == session.sensitivities.values["w1"][1 if bits != 1 else 2]


def test_qbitopt_reallocates_every_tau_steps_until_the_freeze() -> None:
    session = small_session(WEIGHTS, recipe=Recipe(steps=20, batch=8, tau=5, freeze=0.8))
    strategy = QBitOpt()
    strategy.prepare(session)
    train(strategy, session, 20)
    assert len(strategy.changes) == 3
    assert "3 re-allocations" in strategy.finish().notes[0]


def test_real_costs_at_whole_widths_are_the_allocators() -> None:
    session = small_session(Budget(Resource.WEIGHT_BITS, 3.0), Budget(Resource.BOPS, 12e6))
    names = list(session.table.groups)
    bits = bits_of(session.plan)
    vector = torch.tensor([float(bits[session.table.groups[name][0].name] or 32) for name in names])
    cost = real_cost(session, names)
    for use in session.plan.uses:
        amount = cost.amount(Resource(use.resource), vector)
        if amount is not None:
            assert float(amount) == pytest.approx(use.used, rel=2e-3), use.resource
    assert by_site(session.table, dict.fromkeys(names, 3))["w1"] == 3


def test_dq_pays_for_what_is_over_and_for_nothing_else() -> None:
    session = small_session(Budget(Resource.WEIGHT_BITS, 2.0))
    strategy = DQ()
    strategy.prepare(session)
    penalty = strategy.regularizer()
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.1 * (70.1 * (4 / 2 - 1)) ** 2, rel=1e-5)
    penalty.backward()
    assert all(float(state.smallest.grad) <= 0 for state in strategy.states.values() if state.weight)
    loose = small_session(Budget(Resource.WEIGHT_BITS, 6.0))
    strategy.prepare(loose)
    assert strategy.regularizer().item() == 0.0


def test_dq_without_projection_may_end_outside_and_says_so() -> None:
    session = small_session(Budget(Resource.WEIGHT_BITS, 2.0), recipe=Recipe(steps=4, batch=8))
    raw, projected = DQ(project=False), DQ()
    for strategy in (raw, projected):
        session = small_session(Budget(Resource.WEIGHT_BITS, 2.0))
        strategy.prepare(session)
        strategy.freeze()
    assert set(bits_of(raw.finish().plan).values()) == {4}
    assert "broke" in raw.finish().notes[0]
    assert used(projected.finish().plan, "weight_bits") <= 2.0
    assert projected.finish().raw is not None


def test_dq_brings_weights_into_their_learned_range_before_it_uses_the_code_below_it() -> None:
    session = small_session(Budget(Resource.WEIGHT_BITS, 2.0))
    strategy = DQ()
    strategy.prepare(session)
    with torch.no_grad():
        strategy.states["w1"].largest.mul_(0.4)
    reach = strategy.states["w1"].range
    assert float(session.module.weight("w1").detach().abs().max()) > 2 * reach
    strategy.freeze()
    assert float(session.module.weight("w1").detach().abs().max()) == pytest.approx(reach)


def test_dq_that_is_given_a_state_from_before_the_freeze_learns_again() -> None:
    session = small_session(Budget(Resource.WEIGHT_BITS, 2.0))
    strategy = DQ()
    strategy.prepare(session)
    before = strategy.state_dict()
    strategy.freeze()
    strategy.load_state_dict(before)
    assert strategy.frozen is None
    assert all(state.fixed_bits is None and state.smallest.requires_grad for state in strategy.states.values())


def test_fracbits_starts_half_a_bit_up_and_rounds_by_one_offset() -> None:
    session = small_session(Budget(Resource.WEIGHT_BITS, 3.0))
    strategy = FracBits()
    strategy.prepare(session)
    weights = {name: state for name, state in strategy.states.items() if name.startswith("w")}
    assert {round(state.learned_bits(), 3) for state in weights.values()} == {3.5}
    assert strategy.regularizer().item() == pytest.approx(abs(3.5 / 3 - 1) * 2, rel=1e-4)
    strategy.freeze()
    assert {bits for name, bits in bits_of(strategy.finish().plan).items() if name.startswith("w")} == {3}


def test_fracbits_by_channel_stores_each_weight_at_its_widest_channel() -> None:
    session = small_session(Budget(Resource.WEIGHT_BITS, 4.0))
    strategy = FracBits(per_channel=True)
    strategy.prepare(session)
    with torch.no_grad():
        strategy.states["w1"].width.copy_(torch.linspace(2.2, 5.4, 8))
    strategy.freeze()
    bits = strategy.states["w1"].width
    assert bits.unique().numel() > 1
    assert strategy.finish().plan.bits("w1") >= int(bits.max())
