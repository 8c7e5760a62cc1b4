"""How a convolution is cut: register tiles, blocks that fit a cache, and tasks for the cores.

Everything is decided from the shape alone, so that equal shapes give equal code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from mpqc.facts.kernels import BLOCK_BYTES, CHANNEL_TILE, LARGE_BLOCK_BYTES, LARGE_WEIGHT_BYTES, QUAD, WRITTEN_BLOCK_BYTES
from mpqc.lowering.kernels.forms import PRODUCT_FORMS, ProductForm
from mpqc.lowering.kernels.kernel import KernelTarget


@dataclass(frozen=True)
class Window:
    """A convolution over one image, or one group of it, after padding has been resolved: sizes in elements.

    Reads `segments_y * segments_x` runs of `length` neighbouring input bytes for every output pixel.
    """

    rows: int
    """Output rows"""
    columns: int
    row_pitch: int
    """Distance in the input between two output rows"""
    column_pitch: int
    segments_y: int
    segments_x: int
    segment_y_pitch: int
    segment_x_pitch: int
    length: int

    @property
    def quads(self) -> int:
        """Reduction steps of four, each segment rounded up."""
        return self.segments_y * self.segments_x * ceil(self.length / QUAD)


@dataclass(frozen=True)
class Tile:
    """Output pixels and channels whose accumulators live in registers."""

    rows: int
    columns: int
    channels: int

    @property
    def pixels(self) -> int:
        """Output pixels of the tile."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Blocks:
    """The work in tasks: `count` blocks of output rows (or of columns where there is one row), times `splits` of the panels."""

    count: int
    rows: int
    """Output rows of a block; the last one may have fewer"""
    columns: int
    splits: int


def choose_tile(window: Window, channels: int, target: KernelTarget) -> Tile:
    """The register tile with the least work for the image, counting what its edges compute twice."""
    form = target.code("product", PRODUCT_FORMS)
    most = form.pixels
    shapes = [(r, c) for r in range(1, most + 1) for c in range(1, most // r + 1) if r <= window.rows and c <= window.columns]
    rows, columns = min(shapes, key=lambda shape: (_work(window, *shape), shape[0]))
    return Tile(rows, columns, _panel_width(rows * columns, channels, form))


def _work(window: Window, rows: int, columns: int) -> float:
    tiles = ceil(window.rows / rows) * ceil(window.columns / columns)
    return tiles * (rows * columns + 0.7)


def _panel_width(pixels: int, channels: int, form: ProductForm) -> int:
    if not form.wide_panels or channels <= CHANNEL_TILE or pixels > 4:
        return CHANNEL_TILE
    return 32 if pixels == 1 and channels >= 32 else 16


def choose_blocks(window: Window, tile: Tile, weight_bytes: int, panels: int, cores: int, written: int = 0) -> Blocks:
    """Blocks whose input fits L1, or L2 where reading (and unpacking) the weights again would cost more; enough tasks for the cores.

    weight_bytes: of the weights as int8, whatever they are stored in. written: bytes of an output pixel, where they shall stay in L1 too.
    """
    large = weight_bytes > LARGE_WEIGHT_BYTES
    budget = LARGE_BLOCK_BYTES if large else WRITTEN_BLOCK_BYTES if written else BLOCK_BYTES
    written = 0 if large else written
    if window.rows == 1:
        columns, count = _cut(window.columns, tile.columns, window.column_pitch + written, budget, cores)
        blocks = Blocks(count, 1, columns, 1)
    else:
        rows, count = _cut(window.rows, tile.rows, window.row_pitch + window.columns * written, budget, cores)
        blocks = Blocks(count, rows, window.columns, 1)
    if blocks.count >= cores or panels == 1:
        return blocks
    share = ceil(panels / min(panels, ceil(cores / blocks.count)))
    return replace(blocks, splits=ceil(panels / share))


def narrowed(blocks: Blocks, window: Window, tile: Tile, most: int) -> Blocks:
    """`blocks`, or shorter ones whose input takes about `most` bytes and at least a tile; all panels read each. most: 0 for no bound."""
    if not most:
        return blocks
    if window.rows == 1:
        columns, count = _cut(window.columns, tile.columns, window.column_pitch, most, 1)
        return blocks if columns >= blocks.columns else Blocks(count, 1, columns, 1)
    rows, count = _cut(window.rows, tile.rows, window.row_pitch, most, 1)
    return blocks if rows >= blocks.rows else Blocks(count, rows, window.columns, 1)


def _cut(extent: int, step: int, pitch: int, budget: int, cores: int) -> tuple[int, int]:
    """Length of the blocks (a multiple of `step`) and how many there are: several for each core or fewer than cores."""
    fit = max(1, budget // (pitch * step))
    steps = ceil(extent / step)
    count = ceil(steps / fit)
    count = ceil(count / cores) * cores if count >= cores else count
    length = ceil(steps / count) * step
    return min(length, extent), ceil(extent / length)
