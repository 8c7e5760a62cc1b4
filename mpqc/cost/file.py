"""What the QDQ file of a plan stores, before it is written: for targets without code that state no containers of their own.

The written file is what counts in the end (mpqc.flow.verification); constants of float nodes and of operands are in that count alone.
"""

from __future__ import annotations

from math import ceil

from mpqc.facts.file_types import BIAS_BYTES, FILE_ACTIVATION_BITS, SCALE_BYTES, zero_point_bits
from mpqc.values.site import Site, SiteKind, SiteTable


def channels(site: Site) -> int:
    """Scales that the weight has."""
    return 1 if site.axis is None else site.shape[site.axis]


def file_weight_bytes(site: Site, width: int) -> int:
    """Bytes of the weight's codes and zero points in a type of `width` bits."""
    return ceil(site.elements * width / 8) + ceil(channels(site) * zero_point_bits(width) / 8)


def file_overhead_bytes(site: Site) -> int:
    """Bytes beside the weight, whatever its width."""
    return channels(site) * SCALE_BYTES


def file_bytes_beside(table: SiteTable) -> int:
    """Bytes of biases, and of scale and zero point of every activation, which is counted at the widest type."""
    activations = sum(site.kind is SiteKind.ACTIVATION for site in table.sites)
    biases = BIAS_BYTES * sum(node.bias_elements for node in table.nodes)
    return biases + activations * (SCALE_BYTES + max(FILE_ACTIVATION_BITS) // 8)
