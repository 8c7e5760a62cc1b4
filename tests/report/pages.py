"""Reports of made-up networks for tests of the page, without a compile."""

from __future__ import annotations

from dataclasses import replace

from mpqc.report.model import Alternative, FloatRow, LayerRow, Report, SiteRow, Sizes
from mpqc.values.bench import Bench, Board, LayerTime, Timed
from mpqc.values.bench import Spread as Times
from mpqc.values.budget import Resource
from mpqc.values.history import BitChange, Evaluation, TrainingSummary
from mpqc.values.plan import Proof, Use
from mpqc.values.site import SiteKind
from mpqc.values.spread import BINS, Spread
from mpqc.values.trade import Trade, TradeOff
from mpqc.values.verdict import FINE, Fit, Loss, Verdict

EVIL = ("</script><img src=x onerror=alert(1)>", "<svg onload=alert(2)>", "{{ 7 * 7 }}", "a\u202eb", '"quoted" & <b>bold</b>')
VERDICT = Verdict(
    keeps=FINE,
    headline="inside the budget; keeps what the float network knows",
    fits=(Fit(Resource.LATENCY, 5300.0, 5500.0, "predicted"),),
    binds="",
    loses=(Loss("top-1", "%", 76.5, 77.5, 77.25),),
    samples=200,
    held_out=True,
    trust=("loss: measured on 200 samples held out of calibration: +-6 points",),
    next=("fewer bits take up to 9 % of the time away",),
)
TRAINING = TrainingSummary(
    strategy="auto",
    steps=100,
    batch=32,
    samples=1000,
    held_out=100,
    processes=1,
    arithmetic="float32 on cpu",
    labelled=True,
    curve=tuple((step, 2.0 / step) for step in range(1, 101)),
    evaluations=(Evaluation(50, 0.1, 70.0, True), Evaluation(100, 0.05, 76.0, True)),
    changes=(BitChange(20, "weight 1", 8, 4), BitChange(20, "weight 2", 8, 4), BitChange(40, "weight 1", 4, 5)),
    best_step=100,
)


def spread(index: int) -> Spread:
    """A histogram with its peak somewhere else for each `index`."""
    counts = tuple(max(1000 - 40 * abs(place - index % BINS), 0) for place in range(BINS))
    return Spread(-1.0 - index, 2.0, 0.25, counts, (-1.0, 1.5), 0.01, 3)


def site(name: str, index: int, kind: SiteKind) -> SiteRow:
    """One tensor with what widths 2 to 8 cost."""
    found = tuple(Alternative(bits, 2.0 ** -(2 * bits) * (1 + index % 7), 10.0 + bits, 100 * bits) for bits in range(2, 9))
    return SiteRow(name, kind, (16, 16, 3, 3), 4 if index % 3 else 8, name, "4 bits: saves 3 us", found, spread(index))


def page_report(layers: int = 150) -> Report:
    """A network with so many layers; those of EVIL are among them."""
    names = [EVIL[index] if index < len(EVIL) else f"/features/features.{index}/block/conv.{index % 3}/Conv" for index in range(layers)]
    rows = tuple(row(name, index) for index, name in enumerate(names))
    sites = [site(f"weight {index}", index, SiteKind.WEIGHT) for index in range(layers)]
    sites += [site(f"output {index}", index, SiteKind.ACTIVATION) for index in range(layers)]
    trades = tuple(Trade(limit, limit, 1 / limit, "optimal") for limit in (4000.0, 4500.0, 5000.0, 6000.0))
    return Report(
        network=EVIL[0],
        network_digest="ab" * 32,
        target="cortex-a76",
        target_digest="cd" * 32,
        strategy="fit",
        seed=0,
        data="images",
        budgets=("latency <= 5.5 ms",),
        proof=Proof("optimal", 0.1, 0.1, 0.0),
        uses=(Use(Resource.LATENCY, 5300.0, 5500.0),),
        layers=rows,
        floats=(FloatRow(EVIL[1], "Softmax", "Softmax has no integer kernel"),),
        sizes=Sizes(14_000_000, 3_500_000, 2_700_000),
        latency_us=5300.0,
        latency_origin="modelled: 3 rows",
        int8_latency_us=6000.0,
        fastest_latency_us=4000.0,
        verdict=VERDICT,
        sites=tuple(sites),
        loss_unit="distillation loss (nats)",
        trade_offs=(TradeOff(Resource.LATENCY, trades, 5300.0, 1 / 5300, 5500.0, 6000.0, 1 / 7000),),
        training=TRAINING,
        command="mpqc compile model.onnx --budget-latency 5.5ms",
        versions={"mpqc": "0.1.0"},
    )


def row(name: str, index: int) -> LayerRow:
    """One layer; times fall with the depth."""
    made = LayerRow(
        name=name,
        op="Conv+Relu" if index % 3 else "Add",
        output_shape=(1, 16 + index, 8, 8),
        macs=1000 * index,
        weight_bits=4 if index % 3 else 8,
        activation_bits=8,
        weight_bytes=100 + index,
        predicted_us=500.0 - index,
        runs_as="integer",
        sensitivity=0.001 * (index % 7),
        reason="4 bits: saves 3 us for +0.1 loss",
        weight=f"weight {index}",
        output=f"output {index}",
    )
    return replace(made, form="row", runs_as="integer, row form") if index % 5 == 0 else made


def bench(report: Report, how: str) -> Bench:
    """What a board, or an emulator, says of `report`'s program."""
    us = Times(5000.0, 5100.0, 5200.0, 5300.0, 5110.0, 30.0, 100)
    programs = (
        Timed("plan", "mpqc", us, 1000.0, 6000.0, 9_000_000, throttled=False),
        Timed("int8", "mpqc", replace(us, median=6000.0), 1000.0),
        Timed("float", "mpqc", replace(us, median=20000.0), 1000.0),
        Timed("litert-int8", "litert", absent="no such engine"),
    )
    layers = tuple(LayerTime(row.name, "k", 77.0, 70.0, row.predicted_us) for row in report.layers)
    board = Board(how == "emulated", "Board 1", "Linux 6", "aarch64", 4)
    return Bench(how, "Board 1", "ssh pi@board", board, "cortex-a76", "ab" * 32, "2026-12-01", "0.1.0", 1, 3.0, programs, layers, 5300.0)
