"""What sensitivities are measured of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpqc.values.network import Network
from mpqc.values.site import SiteTable

if TYPE_CHECKING:
    from mpqc.data.batches import Batches
    from mpqc.quantize.calibration import Calibration


@dataclass(frozen=True, eq=False)
class Subject:
    """A network at its sites, with their ranges, on data."""

    network: Network
    table: SiteTable
    calibration: Calibration
    batches: Batches
