"""Which form of a convolution a plan may count on: what bits guarantee, what codes are known to fit, and the cheapest of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mpqc.cost.forms import exact_kinds, has_forms
from mpqc.cost.model import CostModel
from mpqc.targets import CostRow, OpKind, Shape, Target, load_target
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable

TILE, ROW, TILE4 = OpKind.WINOGRAD_TILE, OpKind.WINOGRAD_ROW, OpKind.WINOGRAD_TILE4
WEIGHT = Site("w", SiteKind.WEIGHT, (64, 64, 3, 3), axis=0)
KNOWN = replace(WEIGHT, forms=((5, "tile"), (7, "row")))
SHAPE = (1, 64, 16, 16)
NODE = OpNode("conv", "Conv", ("x",), "y", "w", SHAPE, SHAPE, (64, 64, 3, 3), 64 * 64 * 9 * 256, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))


@pytest.mark.parametrize(
    ("weight_bits", "input_bits", "sure", "known"),
    [
        (4, 6, (TILE, ROW), (TILE, ROW)), (2, 2, (TILE, ROW), (TILE, ROW)), (5, 6, (ROW,), (TILE, ROW)), (6, 6, (ROW,), (ROW,)),
        (4, 7, (ROW,), (ROW,)), (6, 7, (ROW,), (ROW,)), (7, 7, (), (ROW,)), (8, 7, (), ()), (5, 8, (), ()), (7, 8, (), ()), (None, 6, (), ()),
    ],
)  # fmt: skip
def test_bits_decide_and_known_codes_add(weight_bits: int | None, input_bits: int, sure: tuple[OpKind, ...], known: tuple[OpKind, ...]) -> None:
    large = () if weight_bits is None else (TILE4,)
    assert exact_kinds(NODE, WEIGHT, weight_bits, (input_bits,)) == (*sure, *large)
    assert exact_kinds(NODE, KNOWN, weight_bits, (input_bits,)) == (*known, *large)


def test_large_tiles_of_any_depth_are_exact_in_int8() -> None:
    deep = replace(NODE, weight_shape=(64, 2048, 3, 3))
    assert TILE4 in exact_kinds(deep, WEIGHT, 8, (8,))
    assert TILE4 not in exact_kinds(deep, WEIGHT, 8, (16,))
    assert TILE4 not in exact_kinds(replace(deep, weight_shape=(15, 512, 3, 3)), WEIGHT, 8, (8,))
    assert TILE4 not in exact_kinds(replace(deep, groups=8), WEIGHT, 8, (8,))


@pytest.mark.parametrize(
    "changes",
    [{"strides": (2, 2)}, {"strides": (1, 2)}, {"dilations": (2, 2)}, {"weight_shape": (64, 64, 1, 3)}, {"groups": 64}, {"op_type": "ConvTranspose"}],
)
def test_other_convolutions_have_no_forms(changes: dict[str, object]) -> None:
    assert has_forms(NODE)
    assert not has_forms(replace(NODE, **changes))  # type: ignore[arg-type]


def row(kernel: OpKind, cycles: float, bits: int = 8) -> CostRow:
    return CostRow(kernel.value, Shape(16, 16, 64, 16, 16, 64, 3, 3), bits, 8, cycles, "modelled", "made for a test", "2026-11-30", "abc1234")


def model(rows: list[CostRow], weight: Site = WEIGHT) -> CostModel:
    sites = (Site("x", SiteKind.ACTIVATION, SHAPE), Site("y", SiteKind.ACTIVATION, SHAPE), weight)
    target: Target = load_target("cortex-a76").model_copy(update={"rows": tuple(rows)})
    return CostModel(target).for_network(SiteTable(sites, (NODE,)))


ROWS = [row(OpKind.CONV, 8e4), row(OpKind.CONV, 8e4, 4), row(TILE, 4e4), row(TILE, 4e4, 4), row(ROW, 6e4), row(ROW, 6e4, 4)]


def test_the_cheapest_exact_form_is_priced_and_named() -> None:
    priced = model(ROWS)
    cycles = {bits: round(priced.microseconds(NODE, *bits, 8) * 2400) for bits in ((8, (8,)), (4, (6,)), (5, (6,)), (6, (7,)))}
    assert cycles == {(8, (8,)): 80000, (4, (6,)): 40000, (5, (6,)): 60000, (6, (7,)): 60000}
    assert [priced.form(NODE, *bits) for bits in cycles] == ["", "tile", "row", "row"]
    assert model(ROWS, KNOWN).form(NODE, 5, (6,)) == "tile"


def test_a_form_that_is_dearer_or_has_no_rows_is_not_taken() -> None:
    dear = model([row(OpKind.CONV, 8e4, 4), row(OpKind.CONV, 8e4), row(TILE, 9e4, 4), row(ROW, 9e4, 4)])
    assert dear.form(NODE, 4, (6,)) == ""
    assert model(ROWS[:2]).form(NODE, 4, (6,)) == ""
    assert round(model(ROWS[:2]).microseconds(NODE, 4, (6,), 8) * 2400) == 80000


def test_a_form_that_the_core_has_no_code_for_is_not_taken() -> None:
    """Rows of both forms: a core with SDOT has code for either, one without for the int16 tiles alone."""
    rows = [row(OpKind.CONV, 8e4), row(TILE, 2e4), row(TILE, 2e4, 4), row(TILE4, 4e4), row(TILE4, 4e4, 4), row(OpKind.CONV, 8e4, 4)]
    sdot = model(rows)
    kernels = tuple(facts.model_copy(update={"ops": (*facts.ops, TILE4)}) if TILE in facts.ops else facts for facts in sdot.target.kernels)
    for isa, forms in ((sdot.target.isa, ["tile4", "tile"]), (("neon",), ["tile4", "tile4"])):
        target = sdot.target.model_copy(update={"kernels": kernels, "isa": isa})
        found = CostModel(target, sites=sdot.sites)
        assert [found.form(NODE, *bits) for bits in ((8, (8,)), (4, (6,)))] == forms


def test_a_target_without_latency_names_no_form() -> None:
    abstract = CostModel(load_target("abstract"))
    assert abstract.form(NODE, 4, (6,)) == ""
