"""MixQuant's search on numbers that can be checked by hand, and its way to a budget."""

from __future__ import annotations

import numpy as np
import pytest

from mpqc.strategies.common import best_plan, bits_of
from mpqc.strategies.mixquant import MixQuant, asymmetric, mixquant_plan, round_off, round_off_table, search, search_within
from mpqc.values.budget import Budget, Resource
from tests.strategies.sessions import small_session, used


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"normal": rng.standard_normal(4000), "uniform": rng.uniform(-1, 1, 4000), "heavy": rng.standard_t(3, 4000)}


def test_round_trip_keeps_the_ends_and_zero() -> None:
    weight = np.array([-1.0, 0.0, 0.4, 2.0], np.float32)
    np.testing.assert_allclose(asymmetric(weight, 2), [-1.0, 0.0, 0.0, 2.0])
    assert round_off(weight, 8) < (3 / 255) ** 2 / 4


def test_the_relative_rule_sees_one_ratio_for_all_but_heavy_tails() -> None:
    errors = round_off_table(weights())
    ratios = {name: row[4] / row[8] for name, row in errors.items()}
    assert ratios["normal"] == pytest.approx((255 / 15) ** 2, rel=0.05)
    assert ratios["uniform"] == pytest.approx((255 / 15) ** 2, rel=0.05)
    assert search(errors, 1.0) == dict.fromkeys(errors, 8)
    assert set(search(errors, 300.0).values()) <= {3, 4}


def test_the_absolute_rule_gives_heavy_tails_more_bits() -> None:
    values = weights()
    errors = round_off_table(values)
    powers = {name: float(np.mean(weight**2)) for name, weight in values.items()}
    absolute = search(errors, 300.0, powers)
    assert absolute["heavy"] > absolute["normal"] >= absolute["uniform"]


def test_the_search_stops_at_the_smallest_multiplier_that_fits() -> None:
    errors = round_off_table(weights())
    plan = small_session().plan
    qem, found = search_within(lambda qem: search(errors, qem), lambda bits: plan if sum(bits.values()) <= 12 else None)
    assert found is plan
    assert sum(search(errors, qem).values()) <= 12 < sum(search(errors, qem / 1.001).values())
    assert search_within(lambda qem: search(errors, qem), lambda bits: None)[1] is None


@pytest.mark.parametrize("rule", ["relative", "absolute"])
@pytest.mark.parametrize("limit", [1.5, 3.0, 8.0])
def test_plans_are_inside_the_budget(rule: str, limit: float) -> None:
    session = small_session(Budget(Resource.WEIGHT_BITS, limit)) if limit >= 2 else small_session()
    if limit < 2:
        from dataclasses import replace

        session = replace(session, budgets=(Budget(Resource.WEIGHT_BITS, limit),))
    _, plan = mixquant_plan(session, rule)
    assert used(plan, "weight_bits") <= limit
    assert {bits for site, bits in bits_of(plan).items() if not site.startswith("w")} == {8}


def test_the_strategy_trains_at_the_searched_bits() -> None:
    session = small_session(Budget(Resource.WEIGHT_BITS, 4.0))
    strategy = MixQuant()
    strategy.prepare(session)
    found = {site: item.state.qparams().qtype.bits for site, item in session.module.quantizers.items()}
    assert found == bits_of(strategy.finish().plan)
    assert "QEM" in strategy.finish().notes[0]


def test_a_budget_for_both_leaves_activations_what_the_allocator_gives_them() -> None:
    whole = small_session()
    four = float(sum(node.macs for node in whole.table.nodes) * 16)
    session = small_session(Budget(Resource.BOPS, four))
    _, plan = mixquant_plan(session)
    best = bits_of(best_plan(session, session.sensitivities, "best"))
    assert used(plan, "bops") <= four
    assert {site: bits for site, bits in bits_of(plan).items() if not site.startswith("w")} == {
        site: bits for site, bits in best.items() if not site.startswith("w")
    }
