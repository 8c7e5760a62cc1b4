"""Kernels beside those of nodes that run on integers: what every run of a network needs whatever the plan."""

from __future__ import annotations

from mpqc.cost.workload import Workload, conversion
from mpqc.facts.kinds import OpKind
from mpqc.values.site import SiteKind, SiteTable


def conversions(table: SiteTable) -> tuple[Workload, ...]:
    """Kernels beside those of nodes: what no node writes is quantized, what none reads dequantized, and operands of a Concat get its qparams."""
    written = {node.output for node in table.nodes}
    read = {name for node in table.nodes for name in node.inputs}
    sites = [site for site in table.sites if site.kind is SiteKind.ACTIVATION]
    entering = [conversion(OpKind.QUANTIZE, site.shape) for site in sites if site.name not in written]
    leaving = [conversion(OpKind.DEQUANTIZE, node.output_shape) for node in table.nodes if node.output not in read]
    return (*entering, *leaving, *requantizations(table))


def requantizations(table: SiteTable) -> tuple[Workload, ...]:
    """One table for each operand of a Concat that has other qparams than the result (quantize/sharing.py)."""
    joined = [(node, name) for node in table.nodes if node.op_type == "Concat" for name in node.inputs]
    changed = [name for node, name in joined if table.by_name[name].group_name != table.by_name[node.output].group_name]
    return tuple(conversion(OpKind.TABLE, table.by_name[name].shape) for name in changed)
