"""Weights are said to fit a form exactly where the codes of their calibration do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpqc.quantize.calibration import Calibration
from mpqc.quantize.winograd import with_forms
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
