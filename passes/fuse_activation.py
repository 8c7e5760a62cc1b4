"""Mark the Relu and Clip nodes that the integer kernel before them performs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mpqc.passes.lib.quantizer_graph import origin, producers
from mpqc.values.network import Network
from mpqc.values.site import SiteTable


@dataclass(frozen=True)
class FuseActivation:
    """Annotates only: meta "fused_into" of a fused clamp is the ONNX name of the node before it. No node is changed."""

    name: ClassVar[str] = "fuse-activation"

    def run(self, network: Network, table: SiteTable) -> None:
        """Annotate in place."""
        values = producers(network.module)
        for node in table.nodes:
            if node.fused:
                values[node.output].meta["fused_into"] = node.name
        assert all(origin(value) is not None for value in values.values())
