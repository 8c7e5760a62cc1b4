"""Round-off: what quantizing does to the values themselves, without gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpqc.numerics.integer import dequantize, quantize
from mpqc.numerics.ranges import range_losses
from mpqc.quantize.calibration import Calibration, moved_sites
from mpqc.values.site import Site, SiteKind, SiteTable

Values = dict[str, dict[int, float]]


def relative_errors(table: SiteTable, calibration: Calibration, bits: Sequence[int]) -> Values:
    """Site -> bits -> squared error over squared norm of its calibrated values; 0 for sites that only repeat values."""
    repeated = moved_sites(table)
    error = {SiteKind.WEIGHT: _weight_error, SiteKind.ACTIVATION: _activation_error}
    rows = {site.name: {width: error[site.kind](site, calibration, width) for width in bits} for site in table.sites if site.name not in repeated}
    return {site.name: rows.get(site.name, dict.fromkeys(bits, 0.0)) for site in table.sites}


def _weight_error(site: Site, calibration: Calibration, bits: int) -> float:
    weight, qparams = calibration.weights[site.name], calibration.qparams(site.name, bits)
    return _relative(
        float(np.sum((dequantize(quantize(weight, qparams), qparams) - weight) ** 2, dtype=np.float64)), float(np.sum(weight**2, dtype=np.float64))
    )


def _activation_error(site: Site, calibration: Calibration, bits: int) -> float:
    seen, qparams = calibration.histograms[site.group_name], calibration.qparams(site.name, bits)
    if not len(seen.counts):  # only the range is known: uniform noise of one step over a uniform spread
        return 1.0 / (4.0**bits)
    scale, zero = float(qparams.scale), int(qparams.zero_point)
    ends = (scale * (qparams.qtype.qmin - zero), scale * (qparams.qtype.qmax - zero))
    loss = range_losses(seen, np.asarray([ends[0]]), np.asarray([ends[1]]), qparams.qtype)[0]
    return _relative(float(loss), float(seen.centers**2 @ seen.counts))


def _relative(error: float, power: float) -> float:
    return error / power if power > 0 else 0.0
