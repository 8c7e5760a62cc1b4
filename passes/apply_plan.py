"""Give every quantizer the bits of a plan and the qparams that calibration found for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mpqc.numerics.fake_quant import quantizers
from mpqc.values.network import Network
from mpqc.values.plan import Plan, bits_by_group
from mpqc.values.site import SiteTable

if TYPE_CHECKING:
    from mpqc.values.qtype import Calibrated


@dataclass(frozen=True)
class ApplyPlan:
    """Sets qparams in place; sites that the plan leaves out become float. Needs insert-quantizers and share-qparams."""

    name: ClassVar[str] = "apply-plan"

    def run(self, network: Network, table: SiteTable, plan: Plan, calibration: Calibrated) -> None:
        """Set the states. Raises PlanError for unknown sites and for groups whose sites get different bits."""
        widths, found = bits_by_group(table, plan), quantizers(network.module)
        for site in table.sites:
            width = widths[site.group_name]
            found[site.name].state.set(None if width is None else calibration.qparams(site.name, width))
