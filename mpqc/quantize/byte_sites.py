"""The activations that hold an input's bytes, where scale and shift are the first convolution's business (passes/fold_preprocessing.py)."""

from __future__ import annotations

from mpqc.values.site import SiteTable

BYTE_BITS = 8
MOVING = ("Pad", "Transpose")
"""Nodes between input and convolution: what they bring in is a byte too"""


def byte_sites(table: SiteTable, source: str) -> tuple[str, ...]:
    """The sites from the network's input `source` to its first convolution, in order."""
    found = [source] if source in table.by_name else []
    for node in table.nodes:
        if node.op_type in MOVING and node.inputs[:1] and node.inputs[0] in found and node.output in table.by_name:
            found.append(node.output)
    return tuple(found)
