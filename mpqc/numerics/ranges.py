"""From observed values to scales and zero points: ranges, and the search for those that lose least.

The loss of a range is the sum of squared differences between values and their dequantized codes (numerics.quantize, dequantize), the
criterion of Nagel et al. 2021, section 3.1.2 ("mean squared error" range estimators), here minimised by a grid and local refinement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpqc.values.qtype import MOST_HALF_BITS, QParams, QType

TINY = np.float32(2.0**-60)
"""The smallest scale: products of two scales and their quotients stay normal float32 numbers."""
BIAS_LIMIT = 2.0**27
"""Most codes of a bias, about: with at least as much left for four times the accumulator, which kernels may hold (winograd.py)"""
BINS = 2048
HISTOGRAM_BITS = 10
"""Widths above take the full range: a histogram is no finer than their steps."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of the non-zero values in equal bins over [low, high]; zeros cost nothing at any range, so they only count in `zeros`."""

    low: float
    high: float
    counts: np.ndarray
    """float64 [bins]; empty where only the range is known"""
    zeros: float = 0.0

    @property
    def centers(self) -> np.ndarray:
        """The middle of each bin, float64."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (np.arange(len(self.counts)) + 0.5)


def affine_qparams(low: float, high: float, bits: int) -> QParams:
    """Per-tensor qparams whose grid spans [low, high] and holds 0 exactly; a range that is a point gets scale 1."""
    scale, zero = _affine(np.asarray([min(low, 0.0)]), np.asarray([max(high, 0.0)]), QType(bits))
    return QParams(QType(bits), scale[0].reshape(()), zero[0].reshape(()))


def _affine(low: np.ndarray, high: np.ndarray, qtype: QType) -> tuple[np.ndarray, np.ndarray]:
    """float32 scales and int32 zero points of ranges [n] that include 0."""
    width = (high - low) / (qtype.qmax - qtype.qmin)
    scale = np.where(width > 0, np.maximum(width, TINY), 1.0).astype(np.float32)
    zero = np.clip(np.rint(qtype.qmin - low / scale.astype(np.float64)), qtype.qmin, qtype.qmax)
    return scale, zero.astype(np.int32)


def range_losses(histogram: Histogram, low: np.ndarray, high: np.ndarray, qtype: QType) -> np.ndarray:
    """Summed squared error of the values in `histogram` for each of the ranges [low, high], float64 [n]."""
    scale, zero = (array.astype(np.float64)[:, None] for array in _affine(low, high, qtype))
    centers = histogram.centers[None]
    codes = np.clip(np.rint(centers / scale), qtype.qmin - zero, qtype.qmax - zero)
    return np.asarray((codes * scale - centers) ** 2 @ histogram.counts)


def mse_range(histogram: Histogram, bits: int) -> tuple[float, float]:
    """The range inside [low, high] of `histogram` with the least summed squared error at `bits`."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if not len(histogram.counts) or not histogram.counts.any() or bits > HISTOGRAM_BITS:
        return low, high
    best, qtype = (low, high), QType(bits)
    for grid in (np.linspace(0.02, 1.0, 64), np.linspace(0.85, 1.15, 31), np.linspace(0.97, 1.03, 25)):
        best = _descend(histogram, best, grid, qtype, (low, high))
    return best


def _descend(histogram: Histogram, start: tuple[float, float], grid: np.ndarray, qtype: QType, bound: tuple[float, float]) -> tuple[float, float]:
    """Shrink or widen both ends together, then each alone, twice, always by a factor from `grid` and within `bound`."""
    best = start
    sides = ((True, True), (True, False), (False, True)) if bound[0] < 0 < bound[1] else ((True, True),)
    for move_low, move_high in (*sides, *sides[1:]):
        low = np.append(np.maximum(best[0] * grid if move_low else np.full(len(grid), best[0]), bound[0]), best[0])
        high = np.append(np.minimum(best[1] * grid if move_high else np.full(len(grid), best[1]), bound[1]), best[1])
        choice = int(np.argmin(range_losses(histogram, low, high, qtype)))
        best = float(low[choice]), float(high[choice])
    return best


def percentile_range(histogram: Histogram, percentile: float) -> tuple[float, float]:
    """The range that leaves (100 - percentile) % of the values out on each side on which there are any."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if not len(histogram.counts) or not histogram.counts.any():
        return low, high
    outside = (histogram.counts.sum() + histogram.zeros) * (1 - percentile / 100)
    edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    first = int(np.searchsorted(np.cumsum(histogram.counts), outside, side="right"))
    last = int(np.searchsorted(np.cumsum(histogram.counts[::-1]), outside, side="right"))
    return min(max(low, float(edges[first])), 0.0), max(min(high, float(edges[len(histogram.counts) - last])), 0.0)


def weight_qparams(weight: np.ndarray, axis: int | None, bits: int, *, search: bool, floor: np.ndarray | None = None, half: bool = False) -> QParams:
    """Symmetric qparams of a constant, one scale for each index of `axis`.

    Args:
        search: take the scales with the least squared error instead of those that hold the largest value.
        floor: float32 [n], scales may not be smaller (so that biases fit int32).
        half: the half-integer grid is allowed, and taken where its squared error over the tensor is less.
    """
    rows = weight.reshape(1, -1) if axis is None else np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    grids = [QType(bits, axis), QType(bits, axis, half=True)] if half and bits <= MOST_HALF_BITS else [QType(bits, axis)]
    qtype, scale = min(((grid, _scales(rows, grid, search, floor)) for grid in grids), key=lambda found: _total_loss(rows, *found))
    scale = scale.reshape(()) if axis is None else scale
    return QParams(qtype, scale, np.zeros(scale.shape, np.int32))


def _scales(rows: np.ndarray, qtype: QType, search: bool, floor: np.ndarray | None) -> np.ndarray:
    """float32 [n], positive and at least `floor`."""
    scale = largest_scales(rows, qtype)
    if search:
        scale = _search_scales(rows, scale, qtype)
    filled = scale if qtype.half else _fill_dead(scale)  # which has no 0: rows of zeros stay next to it
    bounded: np.ndarray = np.maximum(filled, TINY if floor is None else np.maximum(floor, TINY))
    return bounded.astype(np.float32)


def _total_loss(rows: np.ndarray, qtype: QType, scale: np.ndarray) -> float:
    return float(_scale_losses(rows, scale, qtype)[0].sum())


def largest_scales(rows: np.ndarray, qtype: QType) -> np.ndarray:
    """float32 [n]: the scale at which the largest magnitude of each row is the largest code; 0 for rows of zeros."""
    scales: np.ndarray = np.abs(rows).max(axis=1) / max(qtype.qmax, 1)
    return scales.astype(np.float32)


def _fill_dead(scale: np.ndarray) -> np.ndarray:
    """Rows of zeros get a scale like their neighbours': any would do for them, but their bias is stored in steps of it."""
    live = scale[scale > 0]
    return np.where(scale > 0, scale, np.median(live) if live.size else 1.0).astype(np.float32)


def _search_scales(rows: np.ndarray, largest: np.ndarray, qtype: QType) -> np.ndarray:
    """A grid below the largest scale, then least squares (s = <w, q> / <q, q>) while it lowers the error."""
    best, loss = largest.copy(), _scale_losses(rows, largest, qtype)[0]
    fractions = np.linspace(0.2, 0.975, 32) if qtype.bits < 7 else np.linspace(0.8, 0.99, 16)
    for fraction in fractions:
        best, loss = _better(rows, best, loss, largest * np.float32(fraction), qtype)
    for _ in range(4):
        best, loss = _better(rows, best, loss, _least_squares(rows, best, qtype), qtype)
    return best


def _better(rows: np.ndarray, best: np.ndarray, loss: np.ndarray, scale: np.ndarray, qtype: QType) -> tuple[np.ndarray, np.ndarray]:
    trial = _scale_losses(rows, scale, qtype)[0]
    return np.where(trial < loss, scale, best), np.minimum(trial, loss)


def _scale_losses(rows: np.ndarray, scale: np.ndarray, qtype: QType) -> tuple[np.ndarray, np.ndarray]:
    """Summed squared error [n] and codes [n, m] of each row at its scale."""
    safe = np.where(scale > 0, scale, np.float32(1.0))[:, None]
    steps = rows / safe
    codes = np.clip(np.rint((steps - 1) / 2) * 2 + 1 if qtype.half else np.rint(steps), qtype.qmin, qtype.qmax)
    error = codes * safe - rows
    return np.einsum("nm,nm->n", error, error), codes


def _least_squares(rows: np.ndarray, scale: np.ndarray, qtype: QType) -> np.ndarray:
    codes = _scale_losses(rows, scale, qtype)[1]
    power = np.einsum("nm,nm->n", codes, codes)
    fitted = np.einsum("nm,nm->n", rows, codes) / np.where(power > 0, power, 1.0)
    return np.where((power > 0) & (fitted > 0), fitted, scale).astype(np.float32)
