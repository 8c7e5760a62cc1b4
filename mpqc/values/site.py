"""Sites: the tensors that may be quantized, the nodes that use them, and the groups that must agree.

This is what the allocator, the cost model, sensitivities and the exporter share. It holds no torch, ONNX or TVM object.
Tensor names are ONNX tensor names throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from math import prod

from mpqc.values.json_file import Record

CHANNELS = "channels"
"""Mode of a PRelu that has a slope a channel"""
FILL = "fill"
"""Mode of a Pad that brings in a value of its own"""


class SiteKind(StrEnum):
    """What sort of tensor a site is."""

    WEIGHT = "weight"
    ACTIVATION = "activation"


@dataclass(frozen=True)
class Site(Record):
    """A tensor that may be quantized. `name` is the tensor's name in the ONNX graph."""

    name: str
    kind: SiteKind
    shape: tuple[int, ...]
    axis: int | None = None
    """For weights: the axis that has one scale an index (output channels)."""
    group: str = ""
    """Sites with the same group share qparams (codes move between them unchanged: quantize/sharing.py) or, for
    weights used twice, are the same tensor. Empty: a group of its own."""
    removed: int = 0
    """Values that the tensor had before channels were pruned and has no more: they count 0 bits in averages"""
    forms: tuple[tuple[int, str], ...] = ()
    """For the weight of a 3x3 convolution whose values will not change: (width, form of numerics/winograd.py) that its codes are known to fit"""

    @property
    def elements(self) -> int:
        """Number of values in the tensor."""
        return prod(self.shape)

    @property
    def counted(self) -> int:
        """Values that average bits are divided by: those of the tensor before channels were pruned."""
        return self.elements + self.removed

    @property
    def group_name(self) -> str:
        """The group, or the site's own name where it shares with nobody."""
        return self.group or self.name


@dataclass(frozen=True)
class OpNode(Record):
    """An ONNX node that can run on integers, with the sites around it: what the cost model prices."""

    name: str
    op_type: str
    """ONNX op type of the node that does the work (Conv, Gemm, MatMul, Add, MaxPool, ...); a fused activation is in `fused`."""
    inputs: tuple[str, ...]
    """Activation sites read (graph order). Empty strings for inputs that are not sites."""
    output: str
    """Activation site written, or the plain tensor name where the output is not a site (network output left float)."""
    weight: str | None = None
    input_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    weight_shape: tuple[int, ...] = ()
    macs: int = 0
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    groups: int = 1
    mode: str = ""
    """How a Resize finds values: nearest or linear; how a Pad does: fill, reflect, edge or wrap, empty for zeros; whether a PRelu has CHANNELS"""
    fused: str = ""
    """Op type of the activation fused behind (Relu, Clip, ...), else empty."""
    bias_elements: int = 0
    extra_outputs: tuple[str, ...] = ()
    """Further activation sites written (Split): all share qparams with `output`."""
    is_table: bool = False
    """A function of one value: runs as a table of 256 codes"""
    absorbed: tuple[str, ...] = ()
    """Names of the nodes before it that its table computes too"""
    is_real_too: bool = False
    """Readers that are no integer nodes read the real values, which float kernels compute beside the table"""


@dataclass(frozen=True)
class FloatNode(Record):
    """A node that stays float, and the reason that the report gives."""

    name: str
    op_type: str
    reason: str
    read: int = 0
    """Values of the computed tensors that it reads"""
    output_shape: tuple[int, ...] = ()
    depth: int = 0
    """Products that each output is a sum of, where it multiplies and accumulates"""


@dataclass(frozen=True)
class PrunedChannels(Record):
    """Output channels that a node lost before its sites were found."""

    node: str
    channels: tuple[int, ...]
    """Numbered as in the network before pruning, ascending"""


@dataclass(frozen=True)
class SiteTable(Record):
    """All sites of a network, its integer-capable nodes in execution order, and what stays float."""

    sites: tuple[Site, ...]
    nodes: tuple[OpNode, ...]
    floats: tuple[FloatNode, ...] = ()
    live: tuple[tuple[str, ...], ...] = field(default=())
    """For each step of the execution order, the activation tensors that are in memory together during that step (site
    names, each tensor once, views such as Reshape counted as their source)."""
    pruned: tuple[PrunedChannels, ...] = ()
    """What the network has no more; plans carry it along, so that the same plan means the same network"""

    @cached_property
    def by_name(self) -> Mapping[str, Site]:
        """Site by tensor name."""
        return {site.name: site for site in self.sites}

    @cached_property
    def written(self) -> frozenset[str]:
        """Activation sites that exist in memory as codes alone, so that all readers see quantized values."""
        return frozenset(name for node in self.nodes if not node.is_real_too for name in (node.output, *node.extra_outputs))

    @cached_property
    def groups(self) -> Mapping[str, tuple[Site, ...]]:
        """Sharing groups in order of first appearance: group name -> its sites."""
        groups: dict[str, list[Site]] = {}
        for site in self.sites:
            groups.setdefault(site.group_name, []).append(site)
        return {name: tuple(sites) for name, sites in groups.items()}
