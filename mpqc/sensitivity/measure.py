"""Sensitivities: how much the loss grows when one site gets one qtype and everything else stays float.

fit       second order, from gradients: 1/2 E[(g . d)^2], where d is the quantization error of the site on that sample and g = J^T u the
          gradient for a random probe u whose covariance is the Hessian of the loss in the outputs (task.py). The expectation is exactly the
          second-order term of the loss along d (Gauss-Newton, which at the float network is the whole Hessian of a distillation loss). FIT
          (Zandonati et al., 2023) keeps only the diagonal, trace(F) x noise power, and so misses errors that add up over a channel.
distance  the loss itself, measured by running the network with that one site quantized. Slow and exact.
roundoff  no gradients: squared error over squared norm, of the weights and, from the calibration's histograms, of the activations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from mpqc.errors import DataError, UsageError
from mpqc.quantize.calibration import Calibration
from mpqc.sensitivity.flat import unflattened
from mpqc.sensitivity.roundoff import relative_errors
from mpqc.sensitivity.subject import Subject
from mpqc.values.network import Network
from mpqc.values.sensitivities import Sensitivities
from mpqc.values.site import SiteTable

if TYPE_CHECKING:
    from mpqc.data.batches import Batches

Values = dict[str, dict[int, float]]
BITS = (2, 3, 4, 5, 6, 7, 8)
TIE = 0.99
"""What a wider type gets of the next narrower one's value where it measured no less: more bits win where nothing speaks for fewer."""
FLAT_SAMPLES = 16
"""Samples on which the loss itself is measured for sites that no gradient reaches"""


def measure(
    network: Network,
    table: SiteTable,
    calibration: Calibration,
    batches: Batches,
    method: str = "fit",
    bits: Sequence[int] = BITS,
    *,
    seed: int = 0,
    probes: int = 4,
) -> Sensitivities:
    """Site x bits -> expected loss increase, for every site of `table`.

    Rows fall with the bits: a wider width that measured no less takes TIE times the value of the narrower, and a note names large steps up. Sites
    that only repeat values of their sharing group (behind a MaxPool, Reshape, ...) count 0: the group's error is counted where it arises. Other
    sites that count 0 everywhere are measured in another way (flat.py).

    Raises:
        UsageError: an unknown method, or widths outside 1..16.
        DataError: NaN or infinity in a gradient or loss, with the site's name.
    """
    if method not in _METHODS:
        raise UsageError(f"{method!r} is no sensitivity method", where="sensitivity", hint=f"use one of {', '.join(_METHODS)}")
    widths, subject = tuple(sorted(set(bits))), Subject(network, table, calibration, batches)
    values, unit = _METHODS[method](subject, widths, seed, probes)
    _check(values)

    def by_loss(sites: tuple[str, ...]) -> Values:
        few = replace(batches, limit=min(batches.limit, FLAT_SAMPLES))
        return _losses(replace(subject, batches=few), widths, sites)

    values, flat = unflattened(values, table, calibration, widths, by_loss if method == "fit" else None)
    _check(values)
    rows, notes = _monotone(values)
    data = "" if method == "roundoff" else batches.origin
    return Sensitivities(method, unit, rows, data, network.digest, (*batches.notes, *flat, *notes))


def _fit(subject: Subject, bits: tuple[int, ...], seed: int, probes: int) -> tuple[Values, str]:
    from mpqc.sensitivity.fisher import Patience, fisher_losses
    from mpqc.sensitivity.task import find_task

    task = find_task(subject.network, subject.batches)
    return fisher_losses(subject, task, bits, seed=seed, probes=probes, patience=Patience()), task.unit


def _distance(subject: Subject, bits: tuple[int, ...], seed: int, probes: int) -> tuple[Values, str]:
    from mpqc.sensitivity.task import find_task

    losses = _losses(subject, bits, tuple(site.name for site in subject.table.sites))
    return losses, find_task(subject.network, subject.batches).unit


def _losses(subject: Subject, bits: tuple[int, ...], sites: tuple[str, ...]) -> Values:
    from mpqc.sensitivity.distance import measured_losses
    from mpqc.sensitivity.task import find_task

    return measured_losses(subject, find_task(subject.network, subject.batches), bits, frozenset(sites))


def _roundoff(subject: Subject, bits: tuple[int, ...], seed: int, probes: int) -> tuple[Values, str]:
    return relative_errors(subject.table, subject.calibration, bits), "squared error over squared norm"


_Method = Callable[[Subject, tuple[int, ...], int, int], tuple[Values, str]]
_METHODS: dict[str, _Method] = {"fit": _fit, "distance": _distance, "roundoff": _roundoff}


def _check(values: Mapping[str, Mapping[int, float]]) -> None:
    for site, row in values.items():
        for width, value in row.items():
            if not np.isfinite(value):
                raise DataError(f"the sensitivity at {width} bits is {value}", where=site, hint="check the data and the layer for NaN or overflow")


def _monotone(values: Values) -> tuple[Values, tuple[str, ...]]:
    """Rows that fall with the bits, and a note naming those that grew by more than a tenth."""
    rows, grew = {}, []
    for site, row in values.items():
        widths = sorted(row)
        falling = accumulate((max(row[width], 0.0) for width in widths), lambda narrow, wide: min(TIE * narrow, wide))
        rows[site] = dict(zip(widths, falling, strict=True))
        if any(row[width] > 1.1 * rows[site][width] + 1e-12 for width in widths):
            grew.append(site)
    named = f"{', '.join(grew[:3])}{', ...' if len(grew) > 3 else ''}"
    return rows, (
        f"{len(grew)} of {len(values)} sites measured a larger loss at a wider type, which then takes the smaller one: {named}",
    ) if grew else ()
