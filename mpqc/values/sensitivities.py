"""Sensitivities: site x qtype -> expected loss increase, saved so that another budget needs no rescoring."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mpqc.errors import PlanError
from mpqc.values.json_file import Record, read_record

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Sensitivities(Record):
    """Expected increase of the loss when one site gets one qtype and all others stay float."""

    method: str
    """fit | distance | roundoff | ..."""
    unit: str
    """What the numbers are, in words: `distillation loss (nats)`, `squared output distance`, ..."""
    values: Mapping[str, Mapping[int, float]]
    """site name -> bits -> expected loss increase, finite and >= 0"""
    data: str = ""
    """Where the data came from, for the report."""
    model_hash: str = ""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for site, row in self.values.items():
            for bits, value in row.items():
                if not math.isfinite(value):
                    raise PlanError(f"sensitivity at {bits} bits is {value}", where=site, hint="check the data and the layer for NaN or overflow")

    def to_json(self) -> str:
        """The text of sensitivities.json."""
        sites = {site: {str(bits): value for bits, value in row.items()} for site, row in self.values.items()}
        head = {"schema_version": SCHEMA_VERSION, "method": self.method, "unit": self.unit, "data": self.data, "model_hash": self.model_hash}
        return json.dumps({**head, "notes": list(self.notes), "values": sites}, indent=1) + "\n"


def read_sensitivities(path: str | Path) -> Sensitivities:
    """The sensitivities in `path`. Raises PlanError naming file, key and fault for anything that is not some."""
    return read_record(Sensitivities, Path(path), "table of sensitivities", SCHEMA_VERSION, "run mpqc analyze first")


@dataclass(frozen=True)
class Pair:
    """The extra loss when site `first` has a bits and site `second` b: `values[a, b]`, of any sign; 0 where it is missing or one stays float."""

    first: str
    second: str
    values: Mapping[tuple[int, int], float]
