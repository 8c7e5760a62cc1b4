"""How a Winograd convolution F(4x4,3x3) in int16 is cut: blocks, shares and chunks of input channels, parts, panels."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from mpqc.facts.kernels import LARGE_OUTPUTS
from mpqc.lowering.kernels import residual as residuals
from mpqc.lowering.kernels import winograd16_micro as micro
from mpqc.lowering.kernels.contraction import Strip
from mpqc.lowering.kernels.requant import Requant
from mpqc.numerics.winograd16 import TAPS

LINE = 32
"""int16 of a cache line: the distance between positions is an odd number of them, so that those of a patch lie in different sets"""


@dataclass(frozen=True)
class Winograd16:
    """All that the code depends on. Constants (weights, bias, multipliers, zero points) are parameters of the code."""

    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    groups: int
    group_depth: int
    """Input channels of a group"""
    group_channels: int
    """Output channels of a group, at least those of a panel"""
    strip: Strip
    rows: int
    """Rows of tiles of a block; the last one may have fewer"""
    splits: int
    """Shares of the panels"""
    parallel: bool
    weight_bits: int
    """Width that the codes are stored in"""
    odd: bool
    """Stored is q of codes 2q + 1"""
    share: int
    """Vectors of input channels that are summed at once; the last share may have fewer"""
    chunk: int
    """Vectors of input channels of a chunk of a share; the last one may have fewer"""
    part: int
    """Register tiles of a part of a block, whose sums are combined before those of the next part are computed"""
    requant: Requant
    residual: residuals.Form | None = None

    @property
    def height(self) -> int:
        """Rows of tiles."""
        return ceil(self.output_shape[1] / LARGE_OUTPUTS)

    @property
    def width(self) -> int:
        """Tiles of a row."""
        return ceil(self.output_shape[2] / LARGE_OUTPUTS)

    @property
    def blocks(self) -> int:
        """Blocks of an image."""
        return ceil(self.height / self.rows)

    @property
    def vectors(self) -> int:
        """Vectors of input channels of a group."""
        return ceil(self.group_depth / micro.LANES)

    @property
    def chunks(self) -> int:
        """Chunks of a share."""
        return ceil(self.share / self.chunk)

    @property
    def shares(self) -> int:
        """Shares of the input channels of a group."""
        return ceil(self.vectors / self.share)

    @property
    def quads(self) -> int:
        """Register tiles of a block."""
        return ceil(self.rows * self.width / micro.TILES)

    @property
    def parts(self) -> int:
        """Parts of a block."""
        return ceil(self.quads / self.part)

    @property
    def position(self) -> int:
        """From the transformed inputs at a position to those at the next, in int16."""
        lines = ceil(self.quads * self.vectors * micro.GROUP / LINE)
        return (lines + 1 - lines % 2) * LINE

    @property
    def panels(self) -> int:
        """Panels of one group."""
        return ceil(self.group_channels / micro.CHANNELS)

    @property
    def panel_bytes(self) -> int:
        """Stored bytes of a panel."""
        return self.vectors * micro.LANES * TAPS * micro.CHANNELS * self.weight_bits // 8
