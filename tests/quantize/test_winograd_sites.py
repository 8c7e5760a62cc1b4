"""Weights are said to fit a form exactly where the codes of their calibration do."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from mpqc.numerics.winograd import FORMS
from mpqc.quantize.calibration import Calibration
from mpqc.quantize.winograd import LOOKED_AT, with_forms
from mpqc.values.site import OpNode, Site, SiteKind, SiteTable


def node(name: str, weight: str, stride: int = 1) -> OpNode:
    shape = (1, 8, 8, 8)
    return OpNode(name, "Conv", ("x",), name, weight, shape, shape, (8, 8, 3, 3), 1, (3, 3), (stride, stride), (1, 1, 1, 1), (1, 1))


def test_forms_are_those_of_the_codes() -> None:
    rng = np.random.default_rng(0)
    flat = np.ones((8, 8, 3, 3), np.float32)
    mixed = rng.normal(0, 1, (8, 8, 3, 3)).astype(np.float32)
    weights = {"flat": flat, "mixed": mixed, "strided": mixed, "twice": mixed}
    nodes = (node("a", "flat"), node("b", "mixed"), node("c", "strided", 2), node("d", "twice"), node("e", "twice", 2))
    table = SiteTable((Site("x", SiteKind.ACTIVATION, (1, 8, 8, 8)), *(Site(name, SiteKind.WEIGHT, flat.shape, 0) for name in weights)), nodes)
    calibration = Calibration("minmax", table, {}, weights, {})
    found = {site.name: site.forms for site in with_forms(table, calibration).sites}
    few = ((6, "tile4"), (7, "tile4"), (8, "tile4"))  # eight input channels
    codes = tuple(sorted(((5, "tile"), (6, "tile"), (7, "row"), *few)))
    assert found == {"x": (), "flat": few, "mixed": codes, "strided": (), "twice": codes}
    spiked = np.where(rng.random(flat.shape) < 0.001, -1.0, mixed / 9).astype(np.float32)
    spiked[0, 0] = 1.0
    forms = with_forms(table, replace(calibration, weights={**weights, "mixed": spiked}, _known={}))
    assert forms.by_name["mixed"].forms == few


def test_many_input_channels_are_known_by_their_codes() -> None:
    """Codes of 260 channels near 127 are beyond the bound; of usual size they are not, and a filter of the largest codes spoils all."""
    rng = np.random.default_rng(0)
    usual, large = rng.normal(0, 1, (16, 260, 3, 3)).astype(np.float32), np.ones((16, 260, 3, 3), np.float32)
    weights = {"usual": usual, "large": large, "one": np.where(np.arange(16)[:, None, None, None] == 3, large, usual)}
    table = SiteTable(
        (Site("x", SiteKind.ACTIVATION, (1, 8, 8, 8)), *(Site(n, SiteKind.WEIGHT, large.shape, 0) for n in weights)), tuple(map(many, weights))
    )
    found = {site.name: site.forms for site in with_forms(table, Calibration("minmax", table, {}, weights, {})).sites}
    few = ((6, "tile4"), (7, "tile4"))
    assert {name: tuple(form for form in forms if form[1] == "tile4") for name, forms in found.items()} == {
        "x": (),
        "usual": (*few, (8, "tile4")),
        "large": few,
        "one": few,
    }


def many(weight: str) -> OpNode:
    shape = (1, 260, 8, 8)
    return OpNode(weight, "Conv", ("x",), weight, weight, shape, shape, (16, 260, 3, 3), 1, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))


def test_what_holds_however_weights_are_rounded() -> None:
    """Against all ways to round a filter: both ends of what each tap may become."""
    rng = np.random.default_rng(3)
    weight = (rng.normal(0, 1, (8, 8, 3, 3)) * np.linspace(0.4, 1.6, 8).reshape(8, 1, 1, 1)).astype(np.float32)
    table = SiteTable((Site("x", SiteKind.ACTIVATION, (1, 8, 8, 8)), Site("w", SiteKind.WEIGHT, weight.shape, None)), (node("a", "w"),))
    calibration = Calibration("minmax", table, {}, {"w": weight}, {})
    nearest, open_ones = (with_forms(table, calibration, is_rounding_open=free).by_name["w"].forms for free in (False, True))
    assert set(open_ones) <= set(nearest)
    for name, widths in LOOKED_AT.items():
        for bits in widths:
            real = weight.reshape(-1, 9) / calibration.qparams("w", bits).scale
            low, high = np.floor(real), np.clip(np.ceil(real), None, 2 ** (bits - 1) - 1)
            ways = [np.where(np.array(way), high, low) for way in itertools.product((False, True), repeat=9)]
            assert ((bits, name) in open_ones) == all(FORMS[name].weights_fit(codes.reshape(8, 8, 3, 3)) for codes in ways)
