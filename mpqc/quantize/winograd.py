"""Weights whose codes are known to fit a form of Winograd's algorithm, at widths where not all codes do: said of the sites before bits are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mpqc.facts.kernels import is_transformable
from mpqc.numerics.integer import quantize
from mpqc.numerics.winograd import SHORT, FormName
from mpqc.values.qtype import QParams
from mpqc.values.site import OpNode, SiteTable

if TYPE_CHECKING:
    from mpqc.quantize.calibration import Calibration

LOOKED_AT: dict[FormName, tuple[int, ...]] = {"tile": (5, 6), "row": (7,)}
"""Widths next to those whose codes always fit: of wider ones, trained weights hardly ever do"""


def with_forms(table: SiteTable, calibration: Calibration, *, is_rounding_open: bool = False) -> SiteTable:
    """`table` with `Site.forms` of the weights that `calibration` quantizes: for networks that are not trained afterwards.

    is_rounding_open: each weight may yet be rounded the other way, as a reconstruction does; said is then what holds however they are rounded.
    """
    found: dict[str, set[tuple[int, str]]] = {}
    for node in table.nodes:
        if node.weight is not None and _is_transformable(node):
            fitting = set(_fitting(node, calibration, is_rounding_open))
            found[node.weight] = found.get(node.weight, fitting) & fitting
    sites = (replace(site, forms=tuple(sorted(found[site.name]))) if found.get(site.name) else site for site in table.sites)
    return replace(table, sites=tuple(sites))


def _is_transformable(node: OpNode) -> bool:
    return node.op_type == "Conv" and is_transformable(node.weight_shape, node.groups, node.strides, node.dilations, node.pads)


def _fitting(node: OpNode, calibration: Calibration, is_rounding_open: bool) -> Iterator[tuple[int, str]]:
    assert node.weight is not None
    for name, widths in LOOKED_AT.items():
        for bits in widths:
            weight, grid = calibration.weights[node.weight], calibration.qparams(node.weight, bits)
            codes = _neighbours(weight, grid) if is_rounding_open else (quantize(weight, grid),)
            if SHORT[name].weights_fit(*codes):
                yield bits, name


def _neighbours(weight: np.ndarray, grid: QParams) -> tuple[np.ndarray, np.ndarray]:
    """The codes below and above each weight. Scales are those of output channels, or one."""
    real = weight / grid.scale.reshape(-1, *(1,) * (weight.ndim - 1)).astype(np.float64)
    low, high = np.floor(real), np.ceil(real)
    return np.clip(low, grid.qtype.qmin, grid.qtype.qmax), np.clip(high, grid.qtype.qmin, grid.qtype.qmax)
