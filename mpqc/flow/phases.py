"""The phases between a network and its plan whose results are kept: calibration and sensitivities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.values.sensitivities import Sensitivities, read_sensitivities
from mpqc.values.site import SiteTable
from mpqc.workspace.phase import Phase, write_text

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.quantize.calibration import Calibration
    from mpqc.values.network import Network

SCORED_BITS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
"""Widths that sensitivities are measured at: all that any target offers."""
SCORED_SAMPLES = 64
"""Samples that sensitivities are measured on: more change the ranking little."""


@dataclass(frozen=True, eq=False)
class CalibrationInputs:
    """What ranges depend on."""

    network: Network
    table: SiteTable
    batches: Batches
    method: str
    """One of RANGES"""


@dataclass(frozen=True, eq=False)
class SensitivityInputs:
    """What sensitivities depend on."""

    network: Network
    table: SiteTable
    calibration: Calibration
    batches: Batches
    method: str
    seed: int
    samples: int = SCORED_SAMPLES
    bits: tuple[int, ...] = SCORED_BITS


def _calibration(inputs: CalibrationInputs) -> Calibration:
    from mpqc.quantize.calibration import calibrate

    return calibrate(inputs.network, inputs.table, inputs.batches, method=inputs.method)


def _saved_calibration(made: Calibration, path: Path) -> None:
    made.save(path)


def _read_calibration(path: Path, inputs: CalibrationInputs) -> Calibration:
    from mpqc.quantize.calibration import read_calibration

    return read_calibration(path, inputs.network, inputs.table)


def _sensitivities(inputs: SensitivityInputs) -> Sensitivities:
    from mpqc.sensitivity.measure import measure

    few = replace(inputs.batches, limit=min(inputs.batches.limit, inputs.samples))
    return measure(inputs.network, inputs.table, inputs.calibration, few, method=inputs.method, bits=inputs.bits, seed=inputs.seed)


def _saved_sensitivities(made: Sensitivities, path: Path) -> None:
    write_text(made.to_json(), path)


def _read_sensitivities(path: Path, _: SensitivityInputs) -> Sensitivities:
    return read_sensitivities(path)


CALIBRATION: Phase[CalibrationInputs, Calibration, Calibration] = Phase("calibration", _calibration, _saved_calibration, _read_calibration, ".npz")
SENSITIVITIES: Phase[SensitivityInputs, Sensitivities, Sensitivities] = Phase(
    "sensitivities", _sensitivities, _saved_sensitivities, _read_sensitivities
)
