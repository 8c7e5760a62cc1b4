"""`mpqc check`: what becomes of every operator of a network on a target, said before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpqc.errors import TargetError
from mpqc.values.budget import Resource
from mpqc.values.site import OpNode

if TYPE_CHECKING:
    from mpqc.cost.model import CostModel
    from mpqc.values.network import Network
    from mpqc.values.site import SiteTable

INTEGER, FLOAT, REFUSED = "integer", "float", "refused"


@dataclass(frozen=True)
class Fate:
    """What becomes of one node. `microseconds`: predicted at 8 bits, None where no cost row prices it."""

    node: str
    op_type: str
    fate: str
    reason: str = ""
    microseconds: float | None = None


@dataclass(frozen=True)
class Checked:
    """All nodes in execution order, and what the import has to say."""

    network: str
    target: str
    fates: tuple[Fate, ...]
    notes: tuple[str, ...]

    @property
    def is_buildable(self) -> bool:
        """Whether nothing is refused."""
        return all(fate.fate != REFUSED for fate in self.fates)


def check_network(source: Path, target: str, *, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, float]) -> Checked:
    """Imports `source` and says what becomes of its nodes. Raises ModelError where it cannot be imported at all."""
    from mpqc.cost.model import CostModel
    from mpqc.flow.lowerable import refusals
    from mpqc.frontend import load_network
    from mpqc.quantize.sites import find_sites
    from mpqc.targets import load_target

    chip = load_target(target)
    network = load_network(source, shapes=shapes, values=values)
    table = find_sites(network)
    refused = {} if chip.lowering == "cost-only" else {node.name: str(error.why or error.what) for node, error in refusals(network, table)}
    fates = tuple(_fates(network, table, refused, CostModel(chip).for_network(table)))
    return Checked(network.name, chip.name, fates, network.notes)


def _fates(network: Network, table: SiteTable, refused: dict[str, str], cost_model: CostModel) -> Iterator[Fate]:
    integers = {node.name: node for node in table.nodes}
    floats = {node.name: node.reason + ("" if cost_model.prices_float(node) else "; no cost row prices it") for node in table.floats}
    priced = cost_model.can_bound(Resource.LATENCY)
    for node in network.model.graph.node:
        if node.name in refused:
            yield Fate(node.name, node.op_type, REFUSED, f"{refused[node.name]}: cut the model before it, or do that part outside of the network")
        elif node.name in floats:
            yield Fate(node.name, node.op_type, FLOAT, floats[node.name])
        elif node.name in integers:
            yield Fate(node.name, node.op_type, INTEGER, "", _microseconds(cost_model, integers[node.name]) if priced else None)
        else:
            yield Fate(node.name, node.op_type, INTEGER, "done by the node that it is fused into")


def _microseconds(cost_model: CostModel, node: OpNode) -> float | None:
    try:
        return cost_model.microseconds(node, 8 if node.weight else None, tuple(8 for name in node.inputs if name), 8)
    except TargetError:  # the target computes it at other widths
        return None
