"""The quantizer passes in order, with the check between them."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from mpqc.passes.fuse_activation import FuseActivation
from mpqc.passes.insert_quantizers import InsertQuantizers
from mpqc.passes.lib.quantizer_graph import verify
from mpqc.passes.quantize_constants import QuantizeConstants
from mpqc.passes.share_qparams import ShareQParams
from mpqc.values.network import Network
from mpqc.values.site import SiteTable


def with_quantizers(network: Network, table: SiteTable, *, shared: bool = True) -> Network:
    """`network` with a quantizer at every site, all without a qtype (so it still computes the float outputs).

    With `shared` the quantizers of a sharing group have one state; without, each site can be given a qtype alone.

    The FX graph is a copy; parameters, buffers and modules are those of `network` itself, not copied.
    """
    # a GraphModule over a copied graph keeps references to the modules and tensors that the graph names
    copy = replace(network, module=fx.GraphModule(network.module, _copied(network.module.graph)))
    InsertQuantizers().run(copy, table)
    verify(copy.module, table)
    if shared:
        ShareQParams().run(copy, table)
    verify(copy.module, table, shared=shared)
    QuantizeConstants().run(copy, table)
    verify(copy.module, table, shared=shared)
    FuseActivation().run(copy, table)
    verify(copy.module, table, shared=shared)
    return copy


def _copied(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    output = copy.graph_copy(graph, {})
    copy.output(output)
    return copy
