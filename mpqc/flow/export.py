"""A plan -> its QDQ file and the integer program that the file means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mpqc.values.plan import Plan
from mpqc.values.site import SiteKind, SiteTable

if TYPE_CHECKING:
    import onnx

    from mpqc.data.batches import Batches
    from mpqc.quantize.calibration import Calibration
    from mpqc.training.folding import TrainedParameters
    from mpqc.values.network import Network
    from mpqc.values.program import Program


@dataclass(frozen=True, eq=False)
class Exporting:
    """What plans of one network are exported with."""

    network: Network
    table: SiteTable
    calibration: Calibration
    batches: Batches
    opset: int | None = None
    """Of the QDQ file; None: what the types need"""
    trained: TrainedParameters | None = None
    """Weights and grids that were learned for the one plan that is exported; None: those of the file"""
    constants: Mapping[str, np.ndarray] | None = None
    """By initializer, for the one plan that is exported; None: they are corrected for each plan"""
    narrow: bool = False
    """Weights keep away from the least code of their type, see quantize/narrow_range.py"""
    byte_input: str = ""
    """Input that takes bytes; empty: all take what the network does"""


def export_program(exporting: Exporting, plan: Plan) -> tuple[onnx.ModelProto, Program]:
    """The QDQ model of `plan`, and the integer program that the file means: with trained weights and grids, or with biases that make up for
    the mean error of the codes.

    Without data, biases stay: noise says nothing about the mean of real activations.
    """
    from mpqc.passes.remove_zero_channels import RemoveZeroChannels
    from mpqc.qdq.read.program import read_qdq
    from mpqc.qdq.write.byte_input import with_byte_input
    from mpqc.qdq.write.export import export_qdq
    from mpqc.quantize.bias_correction import correct_biases

    network, table, calibration, trained = exporting.network, exporting.table, exporting.calibration, exporting.trained
    if trained is not None:
        own = {**trained.weights, **_narrowed(exporting, plan, trained.weights)}
        whole = export_qdq(network, table, plan, trained, opset=exporting.opset, weights=own)
        model = RemoveZeroChannels().run(whole).model  # channels that training left without any weight
        return model, read_qdq(model)
    weights = exporting.constants
    if weights is None and exporting.batches.origin != "noise":
        weights = correct_biases(network, table, plan, calibration, exporting.batches)
    weights = {**(weights or {}), **_narrowed(exporting, plan, calibration.weights)}
    model = export_qdq(network, table, plan, calibration, opset=exporting.opset, weights=weights)
    if exporting.byte_input:
        model = with_byte_input(model, exporting.byte_input)
    return model, read_qdq(model)


def _narrowed(exporting: Exporting, plan: Plan, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of `weights` that are moved away from the least code of their type, where that is asked for."""
    from mpqc.quantize.narrow_range import without_least_codes

    if not exporting.narrow:
        return {}
    grids = exporting.trained or exporting.calibration
    bits = {site.name: plan.bits(site.name) for site in exporting.table.sites if site.kind is SiteKind.WEIGHT}
    chosen = {name: grids.qparams(name, width) for name, width in bits.items() if width is not None}
    return without_least_codes(chosen, weights)
