"""The phases around a plan whose results are kept: calibration and sensitivities before it, rounding behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpqc.values.plan import Plan
from mpqc.values.sensitivities import Sensitivities, read_sensitivities
from mpqc.values.site import SiteTable
from mpqc.workspace.digest import File
from mpqc.workspace.phase import Phase, write_text

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.quantize.calibration import Calibration
    from mpqc.quantize.rounding import Rounded
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


@dataclass(frozen=True, eq=False)
class RoundingInputs:
    """What weights that are rounded together depend on."""

    network: Network
    table: SiteTable
    calibration: Calibration
    batches: Batches
    plan: Plan
    samples: int


@dataclass(frozen=True)
class PriceInputs:
    """What the price of a built program depends on."""

    module: File
    """model.so of a bundle"""
    runner: File
    tool: File
    arguments: tuple[str, ...]


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


def _rounding(inputs: RoundingInputs) -> Rounded:
    from mpqc.quantize.rounding import round_weights

    few = replace(inputs.batches, limit=min(inputs.batches.limit, inputs.samples))
    return round_weights(inputs.network, inputs.table, inputs.plan, inputs.calibration, few, samples=inputs.samples)


def _saved_rounding(made: Rounded, path: Path) -> None:
    arrays = [*made.weights.values(), *made.biases.values()]
    with path.open("wb") as file:
        np.savez(file, *arrays, names=np.array([*made.weights, *made.biases], np.str_), weights=np.int64(len(made.weights)))


def _read_rounding(path: Path, _: RoundingInputs) -> Rounded:
    from mpqc.data.sources import load_arrays
    from mpqc.quantize.rounding import Rounded

    kept = load_arrays(path)
    assert isinstance(kept, dict)
    found = {str(name): kept[f"arr_{index}"] for index, name in enumerate(kept["names"])}
    weights = dict(islice(found.items(), int(kept["weights"])))
    return Rounded(weights, {name: found[name] for name in found.keys() - weights.keys()})


def _price(inputs: PriceInputs) -> float:
    from mpqc.timing.pricer import Pricer

    return Pricer(inputs.tool.path, inputs.arguments).bundle(inputs.module.path.parent)


def _saved_price(cycles: float, path: Path) -> None:
    write_text(repr(cycles), path)


def _read_price(path: Path, _: PriceInputs) -> float:
    return float(path.read_text(encoding="utf-8"))


CALIBRATION: Phase[CalibrationInputs, Calibration, Calibration] = Phase("calibration", _calibration, _saved_calibration, _read_calibration, ".npz")
SENSITIVITIES: Phase[SensitivityInputs, Sensitivities, Sensitivities] = Phase(
    "sensitivities", _sensitivities, _saved_sensitivities, _read_sensitivities
)
ROUNDING: Phase[RoundingInputs, Rounded, Rounded] = Phase("rounding", _rounding, _saved_rounding, _read_rounding, ".npz")
PRICE: Phase[PriceInputs, float, float] = Phase("price", _price, _saved_price, _read_price)
"""Cycles of one run: a program that was priced is not priced again, also not by a run that goes on"""
