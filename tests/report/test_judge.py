"""The verdict: nothing that lost what the network knew is called fine, and nothing is called known that is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mpqc.errors import DropError
from mpqc.flow.holding import hold_to
from mpqc.report.html import render
from mpqc.report.judge import Evidence, costliest, judge
from mpqc.report.model import Report, Sizes
from mpqc.report.verdict_text import verdict_lines
from mpqc.values.budget import Resource
from mpqc.values.plan import Choice, Plan, Proof, Use
from mpqc.values.site import SiteKind
from mpqc.values.verdict import FINE, LOST, UNKNOWN, WORSE, Loss, Verdict
from mpqc.workspace.progress import Progress

PLAN = Plan("t", (Choice("w", SiteKind.WEIGHT, 2, "", 0.9), Choice("x", SiteKind.ACTIVATION, 8, "", 0.1)), Proof("optimal"))
REPORT = Report(
    network="n",
    network_digest="",
    target="t",
    target_digest="",
    strategy="fit",
    seed=0,
    data="npy",
    budgets=(),
    proof=PLAN.proof,
    uses=(Use(Resource.LATENCY, 12.0, 20.0), Use(Resource.SIZE, 90.0, 100.0, built=99.0)),
    layers=(),
    floats=(),
    sizes=Sizes(1, 1, 1),
    latency_us=12.0,
    latency_origin="modelled: 3 rows",
    int8_latency_us=12.0,
    fastest_latency_us=6.0,
)


def agreement(value: float, floats: float = 100.0) -> Loss:
    return Loss("top-1 agreement with the float network", "%", value, floats, 99.0)


def verdict(*losses: Loss, report: Report = REPORT, samples: int = 64, **facts: Any) -> Verdict:
    return judge(report, PLAN, Evidence(losses, samples, True, **{"made_up": False, **facts}))


@pytest.mark.parametrize(
    ("loss", "keeps"),
    [
        (agreement(99.0), FINE),
        (agreement(95.0), FINE),
        (agreement(90.0), WORSE),
        (agreement(50.0), LOST),
        (agreement(0.0, 78.0), LOST),  # of 50 pictures the float network has 39 and the program none
        (Loss("SQNR of y", "dB", 25.0), FINE),
        (Loss("SQNR of y", "dB", None), FINE),
        (Loss("SQNR of y", "dB", 9.0), WORSE),
        (Loss("SQNR of y", "dB", 1.0), LOST),
        (Loss("score", "", 0.70, 0.71), FINE),
        (Loss("score", "", 0.60, 0.71), WORSE),
        (Loss("score", "", 0.30, 0.71), LOST),
    ],
)
def test_what_is_lost_decides(loss: Loss, keeps: str) -> None:
    found = verdict(loss)
    assert found.keeps == keeps
    assert ("keeps what" in found.headline or "stays close" in found.headline) == (keeps == FINE)


def test_one_sample_of_few_is_no_finding() -> None:
    assert verdict(agreement(90.0), samples=10).keeps == FINE
    assert verdict(agreement(80.0), samples=10).keeps == WORSE
    assert any("give more samples" in text for text in verdict(agreement(90.0), samples=10).next)


def test_made_up_inputs_and_a_doubtful_float_network_prove_nothing() -> None:
    assert verdict(agreement(100.0), made_up=True).keeps == UNKNOWN
    doubtful = verdict(agreement(100.0), doubts=("the float network answers class 0 for all",))
    assert doubtful.keeps == UNKNOWN
    assert any("--preset" in text for text in doubtful.next)
    assert verdict(agreement(0.0), made_up=True).keeps == LOST


def test_the_budget_that_binds_is_named_and_what_it_is_counted_in() -> None:
    found = verdict(agreement(99.0))
    assert found.binds == "size"
    latency, size = found.fits
    assert (latency.how, latency.share) == ("predicted", 0.6)
    assert (size.used, size.how) == (99.0, "counted in the built program")
    assert found.headline.startswith("inside all 2 budgets")


def test_float_nodes_without_a_price_leave_a_budget_unknown() -> None:
    uses = (Use(Resource.LATENCY, 12.0, 20.0, ("softmax",)),)
    found = verdict(agreement(99.0), report=replace(REPORT, uses=uses))
    assert "not known" in found.headline
    assert any("--price" in text for text in found.next)
    priced = verdict(agreement(99.0), report=replace(REPORT, uses=uses, modelled_us=19.0))
    assert (priced.fits[0].used, priced.fits[0].how, priced.fits[0].unknown) == (19.0, "modelled", "")


def test_a_prediction_that_may_be_off_past_the_budget_is_not_known_to_hold() -> None:
    for limit, known in ((20.0, True), (14.0, False)):
        uses = (Use(Resource.LATENCY, 12.0, limit, (), 25),)
        assert (verdict(agreement(99.0), report=replace(REPORT, uses=uses)).fits[0].unknown == "") == known


def test_what_next_where_bits_cost_or_buy() -> None:
    worse = verdict(agreement(80.0))
    assert any("the costliest site is w at 2 bits, 90 %" in text for text in worse.next)
    assert any("raise the budget of size" in text for text in worse.next)
    free = verdict(agreement(99.0), report=replace(REPORT, uses=()))
    assert any("up to 50 %" in text for text in free.next)
    assert costliest(replace(PLAN, choices=(replace(PLAN.choices[0], bits=8),))) is None


def test_the_interval_of_a_share_is_wilsons() -> None:
    found = verdict(agreement(50.0), samples=100)
    assert any("+-10 points" in text for text in found.trust)  # 0.0962, by hand


def test_past_the_largest_drop_is_an_error_and_within_it_is_fine() -> None:
    past = verdict(agreement(98.0), max_drop=1.0)
    assert past.is_past_its_drop
    assert past.keeps == WORSE
    with pytest.raises(DropError, match="2 points, 1 may be lost") as caught:
        hold_to(replace(REPORT, verdict=past), "result", Progress(quiet=True), allow_slower=True)
    assert (caught.value.exit_code, caught.value.compiled) == (5, "result")
    within = verdict(agreement(90.0), max_drop=10.0)
    assert within.keeps == FINE
    hold_to(replace(REPORT, verdict=within), None, Progress(quiet=True), allow_slower=True)


def test_without_a_largest_drop_a_loss_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    hold_to(replace(REPORT, verdict=verdict(agreement(0.0, 78.0))), None, Progress(quiet=True), allow_slower=True)
    assert "warning: the program LOST what the float network knew" in capsys.readouterr().err


def test_it_comes_first_on_the_terminal_and_on_the_page() -> None:
    report = replace(REPORT, verdict=verdict(agreement(99.0), Loss("SQNR of y", "dB", 20.0, None, None), cost_error=0.055))
    lines = verdict_lines(report)
    assert [line.split(":")[0] for line in lines[:4]] == ["verdict", "fits", "loses", "trust"]
    assert "latency 12 us of 20 us (60 %, predicted); size 99 B of 100 B (99 %, counted in the built program, binds)" in lines[1]
    assert "99.00 % (all int8 99.00 %); SQNR of y 20.0 dB (all int8 no error at all)" in lines[2]
    assert "5.5 % off these rows" in lines[3]
    page = render(report)
    assert page.index("Verdict: inside all 2 budgets") < page.index("Totals")
