"""The fastest widths against trying them all."""

from __future__ import annotations

import itertools

import pytest

from mpqc.allocator import evaluate
from mpqc.allocator.fastest import fastest_latency, fastest_plan
from mpqc.cost.model import CostModel
from mpqc.errors import TargetError
from mpqc.targets import CostRow, OpKind, Shape, load_target
from mpqc.values.plan import predicted
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable

SHAPE = (1, 64, 16, 16)
NAMES = ("x", "y", "z")


def table() -> SiteTable:
    weights = [Site(f"w{i}", SiteKind.WEIGHT, (64, 64, 3, 3), 0) for i in range(2)]
    nodes = [
        OpNode(f"conv{i}", "Conv", (NAMES[i],), NAMES[i + 1], f"w{i}", SHAPE, SHAPE, (64, 64, 3, 3), 1, (3, 3), (stride, stride))
        for i, stride in enumerate((1, 2))
    ]
    return SiteTable((*(Site(name, SiteKind.ACTIVATION, SHAPE) for name in NAMES), *weights), tuple(nodes))


def row(kind: OpKind, bits: int, cycles: float) -> CostRow:
    return CostRow(kind.value, Shape(16, 16, 64, 16, 16, 64, 3, 3), bits, 8, cycles, "modelled", "made for a test", "2026-11-30", "abc1234")


def test_the_least_time_is_that_of_the_best_widths() -> None:
    rows = [row(OpKind.CONV, 8, 9e4), row(OpKind.CONV, 4, 8e4), row(OpKind.CONV, 2, 8.5e4), row(OpKind.WINOGRAD_TILE, 4, 4e4)]
    convert = [
        CostRow(kind, Shape(16, 16, 64, 16, 16, 64), None, 8, 1e3, "modelled", "made for a test", "2026-11-30", "abc1234")
        for kind in ("quantize", "dequantize")
    ]
    target, sites = load_target("cortex-a76").model_copy(update={"rows": (*rows, *convert)}), table()
    model = CostModel(target).for_network(sites)
    widths = target.choices.weights
    prices = [
        sum(model.microseconds(node, w, (a,), b) for node, w, (a, b) in zip(sites.nodes, pair, ((x, y), (y, z)), strict=True))
        for pair in itertools.product((8, 5, 4, 3, 2), repeat=2)
        for x, y, z in itertools.product((8, 7, 6, 5, 4), repeat=3)
    ]
    found = fastest_latency(sites, model)
    assert set(widths) >= {2, 4, 8}
    assert found is not None
    assert abs(found - min(prices) - model.fixed_microseconds()) < 1e-3


def test_a_target_without_latency_has_no_fastest() -> None:
    sites = table()
    assert fastest_latency(sites, CostModel(load_target("abstract")).for_network(sites)) is None


def test_the_fastest_plan_takes_the_least_time_and_keeps_bits_that_cost_none() -> None:
    rows = [row(OpKind.CONV, 8, 9e4), row(OpKind.CONV, 4, 8e4), row(OpKind.CONV, 2, 7e4)]
    convert = [
        CostRow(kind, Shape(16, 16, 64, 16, 16, 64), None, 8, 1e3, "modelled", "made for a test", "2026-11-30", "abc1234")
        for kind in ("quantize", "dequantize")
    ]
    target, sites = load_target("cortex-a76").model_copy(update={"rows": (*rows, *convert)}), table()
    model = CostModel(target).for_network(sites)
    plan = fastest_plan(sites, model, target.name, least=4)
    assert [plan.bits(name) for name in ("w0", "w1")] == [4, 4]
    assert [plan.bits(name) for name in NAMES] == [8, 8, 8]
    free = fastest_plan(sites, model, target.name)
    assert [free.bits(name) for name in ("w0", "w1")] == [2, 2]
    assert predicted(evaluate(sites, free, model, ())) == fastest_latency(sites, model)


def test_widths_that_the_target_lacks_are_refused_by_name() -> None:
    target, sites = load_target("cortex-a76"), table()
    with pytest.raises(TargetError, match="no width of 17 bits"):
        fastest_plan(sites, CostModel(target).for_network(sites), target.name, least=17)
