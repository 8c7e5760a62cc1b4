"""Insert a quantizer behind the value of every site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from mpqc.errors import ModelError
from mpqc.numerics.fake_quant import FakeQuantize
from mpqc.passes.lib.quantizer_graph import add_module, origin, producers
from mpqc.values.network import Network
from mpqc.values.site import Site, SiteKind, SiteTable


@dataclass(frozen=True)
class InsertQuantizers:
    """Puts `FakeQuantize` modules, disabled by having no qtype, into the FX graph in place.

    A weight's quantizer stands between its get_attr and the nodes that multiply with it. A tensor that an integer node writes exists
    in memory only as codes, so all its readers see the quantized value; a tensor that the network's user or a float node
    writes is quantized only for its integer readers.
    """

    name: ClassVar[str] = "insert-quantizers"

    def run(self, network: Network, table: SiteTable) -> None:
        """Insert one quantizer for each site of `table`. Raises ModelError for a site that the graph does not have."""
        values = producers(network.module)
        for site in table.sites:
            if site.name not in values:
                raise ModelError("the graph has no such tensor", where=site.name)
            readers = None if site.name in table.written else _integer_readers(site, table)
            _insert(network.module, values[site.name], site, readers)
        network.module.recompile()


def _integer_readers(site: Site, table: SiteTable) -> frozenset[str]:
    if site.kind is SiteKind.WEIGHT:
        return frozenset(node.name for node in table.nodes if node.weight == site.name)
    return frozenset(node.name for node in table.nodes if site.name in node.inputs)


def _insert(module: fx.GraphModule, value: fx.Node, site: Site, readers: frozenset[str] | None) -> None:
    target = add_module(module, "quantizer_", FakeQuantize(site.name))
    with module.graph.inserting_after(value):
        quantizer = module.graph.call_module(target, (value,))
    quantizer.meta = {key: value.meta[key] for key in ("shape", "dtype") if key in value.meta}
    for user in [user for user in value.users if user is not quantizer]:
        if readers is None or _reads_as(user, readers):
            user.replace_input_with(value, quantizer)


def _reads_as(user: fx.Node, readers: frozenset[str]) -> bool:
    source = origin(user)
    return source is not None and source.node in readers
