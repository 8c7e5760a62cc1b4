"""Give every quantizer the bits of a plan and the qparams that calibration found for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mpqc.errors import PlanError
from mpqc.numerics.fake_quant import quantizers
from mpqc.values.network import Network
from mpqc.values.plan import Plan
from mpqc.values.site import SiteTable

if TYPE_CHECKING:
    from mpqc.values.qtype import Calibrated


@dataclass(frozen=True)
class ApplyPlan:
    """Sets qparams in place; sites that the plan leaves out become float. Needs insert-quantizers and share-qparams."""

    name: ClassVar[str] = "apply-plan"

    def run(self, network: Network, table: SiteTable, plan: Plan, calibration: Calibrated) -> None:
        """Set the states. Raises PlanError for unknown sites and for groups whose sites get different bits."""
        unknown = [choice.site for choice in plan.choices if choice.site not in table.by_name]
        if unknown:
            raise PlanError("the plan names a site that the network does not have", where=unknown[0])
        found = quantizers(network.module)
        for group, sites in table.groups.items():
            bits = {plan.bits(site.name) for site in sites}
            if len(bits) > 1:
                raise PlanError(f"sites that share qparams have different bits {sorted(bits, key=str)}", where=group)
            width = bits.pop()
            for site in sites:
                found[site.name].state.set(None if width is None else calibration.qparams(site.name, width))
