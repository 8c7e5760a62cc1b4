"""Blocks and tiles cover every output pixel and every panel."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpqc.lowering.kernels.kernel import KernelTarget
from mpqc.lowering.kernels.tiling import Window, choose_blocks, choose_tile, narrowed


def window(rows: int, columns: int, pitch: int = 1024) -> Window:
    return Window(rows, columns, columns * pitch, pitch, 3, 1, columns * pitch, pitch, 192)


@given(rows=st.integers(1, 130), columns=st.integers(1, 130), channels=st.integers(1, 300), cores=st.integers(1, 8), large=st.booleans())
def test_everything_is_covered_once(rows: int, columns: int, channels: int, cores: int, large: bool) -> None:
    shape = window(rows, columns)
    tile = choose_tile(shape, channels, KernelTarget(cores=cores))
    panels = ceil(channels / tile.channels)
    blocks = choose_blocks(shape, tile, 10**6 if large else 1000, panels, cores)
    assert tile.rows <= rows
    assert tile.columns <= columns
    assert tile.pixels <= 8
    assert (blocks.count - 1) * blocks.rows < rows <= blocks.count * blocks.rows or rows == 1
    assert blocks.columns * (blocks.count if rows == 1 else 1) >= columns
    assert blocks.rows % tile.rows == 0 or blocks.rows == rows
    share = ceil(panels / blocks.splits)
    assert share * (blocks.splits - 1) < panels <= share * blocks.splits


@given(rows=st.integers(1, 130), columns=st.integers(1, 130), most=st.integers(1, 1 << 18))
def test_narrowed_blocks_cover_everything_and_take_no_more(rows: int, columns: int, most: int) -> None:
    shape = window(rows, columns)
    tile = choose_tile(shape, 64, KernelTarget())
    wide = choose_blocks(shape, tile, 1000, 8, 1)
    blocks = narrowed(wide, shape, tile, most)
    assert narrowed(wide, shape, tile, 0) is wide
    assert blocks.rows <= wide.rows
    assert blocks.columns <= wide.columns
    assert blocks.count * (blocks.columns if rows == 1 else blocks.rows) >= (columns if rows == 1 else rows)
    least = tile.columns * shape.column_pitch if rows == 1 else tile.rows * shape.row_pitch
    assert blocks is wide or (blocks.columns * shape.column_pitch if rows == 1 else blocks.rows * shape.row_pitch) <= max(most, least)


@pytest.mark.parametrize(
    ("size", "pixels"), [((56, 56), 8), ((28, 28), 8), ((14, 14), 7), ((7, 7), 7), ((4, 4), 8), ((2, 2), 4), ((1, 49), 7), ((3, 3), 3), ((1, 1), 1)]
)
def test_tiles_divide_common_images(size: tuple[int, int], pixels: int) -> None:
    assert choose_tile(window(*size), 64, KernelTarget()).pixels == pixels


def test_work_is_shared_among_cores() -> None:
    shape = window(7, 7, 512)
    blocks = choose_blocks(shape, choose_tile(shape, 512, KernelTarget()), 2 << 20, 64, 4)
    assert (blocks.count, blocks.splits) == (1, 4)
    shape = window(56, 56, 64)
    assert choose_blocks(shape, choose_tile(shape, 64, KernelTarget()), 36864, 8, 4).count % 4 == 0
