"""Let the quantizers of a sharing group use one state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mpqc.numerics.fake_quant import quantizers
from mpqc.values.network import Network
from mpqc.values.site import SiteTable


@dataclass(frozen=True)
class ShareQParams:
    """Gives every quantizer of a group the same `QuantizerState` object, so that setting or training one sets all."""

    name: ClassVar[str] = "share-qparams"

    def run(self, network: Network, table: SiteTable) -> None:
        """Share states in place. Needs insert-quantizers."""
        found = quantizers(network.module)
        for sites in table.groups.values():
            state = found[sites[0].name].state
            for site in sites[1:]:
                found[site.name].state = state
