"""What a calibration saw in every tensor, as a report shows it."""

from __future__ import annotations

import numpy as np

from mpqc.numerics.ranges import Histogram
from mpqc.quantize.calibration import Calibration
from mpqc.values.plan import Plan
from mpqc.values.qtype import Calibrated, QParams
from mpqc.values.site import Site, SiteKind
from mpqc.values.spread import BINS, Spread

MOST_VALUES = 1 << 20
"""Of a weight that are counted, about"""
MOST_SITES = 2000
"""With a histogram; the others of a very large network have their range alone"""


def spreads_of(calibration: Calibration, plan: Plan, grids: Calibrated) -> dict[str, Spread]:
    """Site -> its values and, where `plan` gives it codes, their grid among `grids`."""
    found = {}
    for index, site in enumerate(calibration.table.sites):
        bits = plan.bits(site.name)
        seen = _seen(site, calibration, with_bins=index < MOST_SITES)
        if seen is not None:
            found[site.name] = seen if bits is None else _with_grid(seen, grids.qparams(site.name, bits))
    return found


def _seen(site: Site, calibration: Calibration, *, with_bins: bool) -> Spread | None:
    if site.kind is SiteKind.WEIGHT:
        return _of_values(calibration.weights[site.name], with_bins=with_bins)
    histogram = calibration.histograms.get(site.group_name)
    return None if histogram is None else _of_histogram(histogram, with_bins=with_bins)


def _of_values(values: np.ndarray, *, with_bins: bool) -> Spread:
    flat = values.reshape(-1)
    low, high = (float(end) for end in (flat.min(initial=0.0), flat.max(initial=0.0)))
    part = flat[:: max(flat.size // MOST_VALUES, 1)]
    counts = np.histogram(part[part != 0], BINS, (low, high))[0] if with_bins and low < high else np.zeros(0)
    return Spread(low, high, float((flat == 0).mean()) if flat.size else 0.0, _thousandths(counts))


def _of_histogram(seen: Histogram, *, with_bins: bool) -> Spread:
    total = float(seen.counts.sum()) + seen.zeros
    zeros = seen.zeros / total if total else 0.0
    if not with_bins or not len(seen.counts):
        return Spread(seen.low, seen.high, zeros, ())
    edges = np.linspace(seen.low, seen.high, BINS + 1)
    counts = np.histogram(seen.centers, edges, weights=seen.counts)[0] if seen.low < seen.high else np.zeros(0)
    return Spread(seen.low, seen.high, zeros, _thousandths(counts))


def _thousandths(counts: np.ndarray) -> tuple[int, ...]:
    most = float(counts.max(initial=0.0))
    return tuple(int(share) for share in np.ceil(1000 * counts / most)) if most > 0 else ()


def _with_grid(seen: Spread, params: QParams) -> Spread:
    scale, zero = np.asarray(params.scale, np.float64), np.asarray(params.zero_point, np.float64)
    low, high = float(((params.qtype.qmin - zero) * scale).min()), float(((params.qtype.qmax - zero) * scale).max())
    point = int(zero.reshape(-1)[0])
    return Spread(seen.low, seen.high, seen.zeros, seen.histogram, (low, high), float(scale.max()), point)
