"""What F(4x4,3x3) of a convolution does, counted: mpqc/lowering/kernels/winograd16.py does it so."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from mpqc.facts.kernels import LARGE_CHANNELS, LARGE_LANES, LARGE_OUTPUTS, LARGE_POSITIONS, LARGE_TILES, large_patch_rows
from mpqc.targets import Shape


@dataclass(frozen=True)
class LargeTiles:
    """A convolution of 3x3 with stride 1, in tiles of 4x4 outputs."""

    shape: Shape
    cores: int

    @property
    def height(self) -> int:
        """Rows of tiles."""
        return ceil(self.shape.out_h / LARGE_OUTPUTS)

    @property
    def width(self) -> int:
        """Tiles of a row."""
        return ceil(self.shape.out_w / LARGE_OUTPUTS)

    @property
    def depth(self) -> int:
        """Input channels of a group in whole vectors."""
        return ceil(self.shape.in_c // self.shape.groups / LARGE_LANES) * LARGE_LANES

    @property
    def channels(self) -> int:
        """Output channels, each group's in whole panels."""
        return ceil(self.shape.out_c // self.shape.groups / LARGE_CHANNELS) * LARGE_CHANNELS * self.shape.groups

    @property
    def rows(self) -> int:
        """Rows of tiles of a block; the last one may have fewer."""
        return large_patch_rows(self.height, self.width, self.depth, self.cores)

    @property
    def blocks(self) -> int:
        """How often weights are transformed."""
        return ceil(self.height / self.rows)

    @property
    def tiles(self) -> int:
        """Tiles, those of each block in whole register tiles."""
        last = self.height - (self.blocks - 1) * self.rows
        heights = [self.rows] * (self.blocks - 1) + [last]
        return sum(ceil(rows * self.width / LARGE_TILES) * LARGE_TILES for rows in heights)

    @property
    def products(self) -> int:
        """Multiply-accumulates of int16."""
        return self.tiles * LARGE_POSITIONS**2 * self.channels * self.depth

    @property
    def sums(self) -> int:
        """Sums of products that are combined, position by position."""
        return self.tiles * LARGE_POSITIONS**2 * self.channels

    @property
    def outputs(self) -> int:
        """Outputs of whole tiles."""
        return self.height * self.width * LARGE_OUTPUTS**2 * self.channels

    @property
    def vectors(self) -> int:
        """Vectors of input channels of a patch that are transformed."""
        return self.height * self.width * self.depth // LARGE_LANES * self.shape.groups

    @property
    def widened(self) -> int:
        """Weights, a filter of one input channel each, that are transformed."""
        return self.blocks * self.channels * self.depth
