"""Weights are said to fit a form exactly where the codes of their calibration do."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from mpqc.numerics.winograd import SHORT
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
    assert found == {"x": (), "flat": (), "mixed": ((5, "tile"), (6, "tile"), (7, "row")), "strided": (), "twice": found["mixed"]}
    spiked = np.where(rng.random(flat.shape) < 0.001, -1.0, mixed / 9).astype(np.float32)
    spiked[0, 0] = 1.0
    forms = with_forms(table, replace(calibration, weights={**weights, "mixed": spiked}, _known={}))
    assert forms.by_name["mixed"].forms == ()


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
            assert ((bits, name) in open_ones) == all(SHORT[name].weights_fit(codes.reshape(8, 8, 3, 3)) for codes in ways)
