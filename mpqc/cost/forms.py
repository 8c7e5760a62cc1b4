"""Which form of a convolution runs: the cheapest of those that are exact. The one choice that allocator, report and lowering share.

The allocator asks for bits and counts only what they guarantee, or what the actual codes at a width are known to fit (`Site.forms`); the
lowering asks for an op with its actual codes. Both leave the choice among what is exact to `cheapest`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpqc.facts.features import KernelName
from mpqc.facts.kernels import is_transformable
from mpqc.numerics.winograd import FORMS, FormName
from mpqc.targets import OpKind
from mpqc.values.site import OpNode, Site

KINDS: dict[OpKind, FormName] = {OpKind.WINOGRAD_TILE: "tile", OpKind.WINOGRAD_ROW: "row", OpKind.WINOGRAD_TILE4: "tile4"}
"""Kinds of kernels that do a convolution in another form"""
KERNELS: dict[OpKind, KernelName] = {OpKind.WINOGRAD_TILE: "winograd", OpKind.WINOGRAD_ROW: "winograd", OpKind.WINOGRAD_TILE4: "winograd16"}
"""The code that computes each"""


def exact_kinds(node: OpNode, weight: Site | None, weight_bits: int | None, input_bits: Sequence[int]) -> tuple[OpKind, ...]:
    """The other kinds of kernels that surely compute `node` exactly at these widths."""
    if weight is None or weight_bits is None or len(input_bits) != 1 or not has_forms(node):
        return ()
    return tuple(kind for kind, name in KINDS.items() if _is_exact(name, node, weight, weight_bits, input_bits[0]))


def has_forms(node: OpNode) -> bool:
    """Whether `node` is a convolution that has other forms than the direct one."""
    geometry = (node.weight_shape, node.groups, node.strides, node.dilations, node.pads)
    return node.op_type == "Conv" and is_transformable(*geometry)


def _is_exact(name: FormName, node: OpNode, weight: Site, weight_bits: int, input_bits: int) -> bool:
    form, depth = FORMS[name], node.weight_shape[1]
    if node.weight_shape[0] // node.groups < form.channels:
        return False
    return form.is_sure(weight_bits, input_bits, depth) or (form.takes(weight_bits, input_bits, depth) and (weight_bits, name) in weight.forms)


def cheapest(prices: Mapping[OpKind, float]) -> OpKind:
    """The kind of least cycles, the first of equals."""
    return min(prices, key=lambda kind: prices[kind])
