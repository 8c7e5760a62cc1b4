"""Weights whose codes are known to fit a form of Winograd's algorithm, at widths where not all codes do: said of the sites before bits are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from mpqc.facts.kernels import is_transformable
from mpqc.numerics.integer import quantize
from mpqc.numerics.winograd import FORMS, FormName
from mpqc.values.site import OpNode, SiteTable

if TYPE_CHECKING:
    from mpqc.quantize.calibration import Calibration

LOOKED_AT: dict[FormName, tuple[int, ...]] = {"tile": (5, 6), "row": (7,)}
"""Widths next to those whose codes always fit: of wider ones, trained weights hardly ever do"""


def with_forms(table: SiteTable, calibration: Calibration) -> SiteTable:
    """`table` with `Site.forms` of the weights that `calibration` quantizes: for networks that are not trained afterwards."""
    found: dict[str, set[tuple[int, str]]] = {}
    for node in table.nodes:
        if node.weight is not None and _is_transformable(node):
            fitting = set(_fitting(node, calibration))
            found[node.weight] = found.get(node.weight, fitting) & fitting
    sites = (replace(site, forms=tuple(sorted(found[site.name]))) if found.get(site.name) else site for site in table.sites)
    return replace(table, sites=tuple(sites))


def _is_transformable(node: OpNode) -> bool:
    return node.op_type == "Conv" and is_transformable(node.weight_shape, node.groups, node.strides, node.dilations, node.pads)


def _fitting(node: OpNode, calibration: Calibration) -> Iterator[tuple[int, str]]:
    assert node.weight is not None
    for name, widths in LOOKED_AT.items():
        for bits in widths:
            codes = quantize(calibration.weights[node.weight], calibration.qparams(node.weight, bits))
            if FORMS[name].weights_fit(codes):
                yield bits, name
