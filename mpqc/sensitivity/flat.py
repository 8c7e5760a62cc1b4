"""Sites whose sensitivity came out as 0 at every width, although quantizing changes their values.

A gradient of 0 is no licence: behind a saturated gate, a Round or a dead Relu it says only that small changes do nothing. Such sites are measured
by the loss itself; where that is 0 too on the data at hand, they count their round-off, at the rate of the least sensitive site that was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mpqc.quantize.calibration import Calibration, moved_sites
from mpqc.sensitivity.roundoff import relative_errors
from mpqc.values.site import SiteTable

Values = dict[str, dict[int, float]]
Measure = Callable[[tuple[str, ...]], Values]
"""Site names -> their measured losses"""
NOISE = 1e-9
"""Of the largest sensitivity: below, float32 sums differ by more"""


def unflattened(
    values: Mapping[str, Mapping[int, float]], table: SiteTable, calibration: Calibration, bits: Sequence[int], measure: Measure | None
) -> tuple[Values, tuple[str, ...]]:
    """`values` with other rows for flat sites, and notes that name them. `measure` None: the losses are measured ones already."""
    errors = relative_errors(table, calibration, bits)
    rows = {name: dict(row) for name, row in values.items()}
    flat = flat_sites(rows, table, errors)
    if not flat:
        return rows, ()
    if measure is not None:
        rows |= {name: _no_less_below(row) for name, row in measure(flat).items()}
    silent = flat_sites(rows, table, errors)
    rate = _least_rate(rows, errors, frozenset(silent))
    rows |= {name: {width: value + rate * errors[name][width] for width, value in rows[name].items()} for name in flat}
    notes = [_note(flat, "no gradient reaches them, so they were measured by the loss itself, and their round-off")] if measure else []
    return rows, (*notes, *([_note(silent, "no width changes the output on this data, so their round-off counts")] if silent else []))


def _no_less_below(row: Mapping[int, float]) -> dict[int, float]:
    """A narrower type loses at least what a wider one does: past a threshold, as in a gate, the loss itself jumps both ways."""
    return {width: max(value for other, value in row.items() if other >= width) for width in row}


def flat_sites(values: Mapping[str, Mapping[int, float]], table: SiteTable, errors: Mapping[str, Mapping[int, float]]) -> tuple[str, ...]:
    """Sites that count nothing at any width, although their values change; sites that only repeat values are none."""
    repeated = moved_sites(table)
    largest = max((value for row in values.values() for value in row.values()), default=0.0)
    return tuple(
        name
        for name, row in values.items()
        if name not in repeated and max(row.values(), default=0.0) <= NOISE * largest and max(errors[name].values(), default=0.0) > 0
    )


def _least_rate(values: Mapping[str, Mapping[int, float]], errors: Mapping[str, Mapping[int, float]], silent: frozenset[str]) -> float:
    """The smallest loss per relative squared error among the sites that have both; 1 where there is none."""
    known = [(value, errors[name][width]) for name, row in values.items() if name not in silent for width, value in row.items()]
    return min((value / error for value, error in known if value > 0 and error > 0), default=1.0)


def _note(sites: Sequence[str], what: str) -> str:
    named = f"{', '.join(sites[:3])}{', ...' if len(sites) > 3 else ''}"
    return f"{len(sites)} sites had a sensitivity of 0 at every width ({named}): {what}"
