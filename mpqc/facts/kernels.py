"""How the integer kernels cut their work: lowering does it so (mpqc/lowering/kernels), the cost model counts it so (mpqc/cost)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil

from mpqc.values.qtype import largest_code

VECTOR = 16
"""Codes of a vector register"""
LANES = 8
"""Products that SMULL gives, in int16"""
QUAD = 4
"""Products that SDOT sums: a row of a window is stored and computed in whole quads"""
CHANNEL_TILE = 8
"""Output channels of the narrowest panel and tile of a matrix product; partly filled ones cost as full ones. Also the codes of half a vector,
which is the least that a convolution stores at once where it adds a residual."""
PIXEL_TILES: Mapping[str, int] = {"dotprod": 8, "neon": 4, "generic": 4}
"""Most output pixels of a tile, by the form of the product (features.py): with 8 channels, as many accumulators as leave registers for operands"""
BLOCK_BYTES = 24 * 1024
"""Input bytes of a block that stays in L1 beside a panel of weights, which is unpacked once for each block"""
WRITTEN_BLOCK_BYTES = 16 * 1024
"""Input and output bytes of a block, on cores that wait for a store which misses L1: a line of output is written panel by panel"""
LARGE_BLOCK_BYTES = 160 * 1024
"""The same in L2, where the weights are too large to be read often"""
LARGE_WEIGHT_BYTES = 256 * 1024
"""Bytes of weights from which blocks are large"""
PATCH_BLOCK_BYTES = 160 * 1024
"""Transformed inputs of a block of Winograd's algorithm: they stay in L2, so that weights, transformed once a block, are so few times"""
LARGE_PATCH_BLOCK_BYTES = 256 * 1024
"""The same where there are many weights to transform"""
LARGE_PATCH_WEIGHTS = 64 * 1024
"""Weights of a convolution from which these blocks are large"""
POSITIONS = 4
"""Products along an axis of a tile of Winograd's algorithm, which gives two outputs"""
LARGE_POSITIONS, LARGE_OUTPUTS = 6, 4
"""The same of a large tile: products and outputs along an axis"""
LARGE_TILES, LARGE_CHANNELS = 4, 16
"""Large tiles, and output channels of the panels, that are multiplied together"""
LARGE_LANES = 8
"""Input channels of a vector of transformed inputs of large tiles, int16"""
LARGE_BLOCK = 300 * 1024
"""Transformed inputs of a block of large tiles: what weights, transformed once a block, are used for"""
ODD_DEPTH = 8
"""Input channels that rows of odd weight codes come in"""
PRODUCT_ROWS = 64
"""Rows of the first operand that share one packing of the second, where two activations are multiplied"""
SHORT_WINDOW = 255
"""Codes whose sum fits int16, so that average pooling over so many adds them there"""


def chain_products(weight_bits: int, input_bits: int) -> int:
    """Products that int16 surely holds the sum of, of any inputs, at least one; weights of more than 4 bits without their least code, those of few
    on either grid."""
    weight = largest_code(weight_bits) - (weight_bits > 4)
    return max(1, (2**15 - 1) // (weight << input_bits - 1))


def longest_chain(segments: int, vectors: int, fits: Callable[[int], bool]) -> int:
    """Vectors that are summed in int16: all of all segments, or as few equal parts of a segment as there can be, whichever `fits` first; or 0."""
    parts = (-(-vectors // -(-vectors // (1 << power))) for power in reversed(range(vectors.bit_length())))
    return next((count for count in (segments * vectors, *parts) if fits(count)), 0)


def gathers(kernel_rows: int, row_bytes: int) -> bool:
    """Whether a convolution without SDOT copies the rows of each window one behind the other: where summed row by row, a sixth of the instructions
    would work on lanes that are not filled. row_bytes: neighbouring input bytes of a row of the window, of all channels."""
    apart, together = (ceil(bytes_ / LANES) + ceil(bytes_ / VECTOR) for bytes_ in (row_bytes, kernel_rows * row_bytes))
    return kernel_rows > 1 and together <= 0.85 * kernel_rows * apart


def patch_rows(height: int, row_bytes: int, weights: int, cores: int) -> int:
    """Rows of tiles of a block of Winograd's algorithm, of `height`: as many as fit, in blocks of about one size that the cores share evenly.

    row_bytes: transformed inputs of a row of tiles.
    """
    most = LARGE_PATCH_BLOCK_BYTES if weights > LARGE_PATCH_WEIGHTS else PATCH_BLOCK_BYTES
    return _even_rows(height, max(1, most // row_bytes), cores)


def large_patch_rows(height: int, width: int, depth: int, cores: int) -> int:
    """Rows of large tiles of a block, of `height` with `width` tiles of `depth` input channels: as many as fit, in even blocks."""
    row_bytes = width * ceil(depth / LARGE_LANES) * LARGE_LANES * LARGE_POSITIONS**2 * 2
    return _even_rows(height, max(1, LARGE_BLOCK // row_bytes), cores)


def _even_rows(height: int, most: int, cores: int) -> int:
    """Rows of a block, at most `most` of `height`, in blocks of about one size that the cores share evenly."""
    count = ceil(height / most)
    count = ceil(count / cores) * cores if count >= cores else count
    return ceil(height / count)


def is_depthwise(groups: int, input_channels: int) -> bool:
    """Whether a convolution has the depthwise kernels: every group is one input channel."""
    return 1 < groups == input_channels


def stores_odd(depth: int) -> bool:
    """Whether the kernels read weights of `depth` input channels (of a group) or features on the half-integer grid at 2 bits.

    Other depths are filled up with zeros, which that grid does not have; nor do depthwise kernels read it.
    """
    return depth % ODD_DEPTH == 0


def stores_vectors(output_channels: int, groups: int) -> bool:
    """Whether the matrix kernel of a convolution stores whole half vectors of channels, as the addition of a residual needs."""
    return output_channels // max(groups, 1) >= CHANNEL_TILE


def stores_pairs(output_channels: int, groups: int, input_channels: int) -> bool:
    """Whether the kernel of a convolution can store codes two a byte: depthwise with one output a channel, or groups of an even number."""
    if is_depthwise(groups, input_channels):
        return output_channels == input_channels
    return output_channels // max(groups, 1) % 2 == 0


def is_transformable(weight_shape: Sequence[int], groups: int, strides: Iterable[int], dilations: Iterable[int], pads: Iterable[int]) -> bool:
    """Whether a convolution (weight [O, C / groups, H, W]) has the kernels of Winograd's algorithm, where its codes allow them."""
    plain = tuple(weight_shape[2:]) == (3, 3) and {*strides, *dilations} <= {1} and min(pads, default=0) >= 0
    return plain and weight_shape[1] > 1 and stores_vectors(weight_shape[0], groups)
