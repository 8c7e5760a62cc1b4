"""How the integer kernels cut their work: lowering does it so (mpqc/lowering/kernels), the cost model counts it so (mpqc/cost)."""

from __future__ import annotations

from collections.abc import Mapping

VECTOR = 16
"""Codes of a vector register"""
QUAD = 4
"""Products that SDOT sums: a row of a window is stored and computed in whole quads"""
CHANNEL_TILE = 8
"""Output channels of the narrowest panel and tile of a matrix product; partly filled ones cost as full ones. Also the codes of half a vector,
which is the least that a convolution stores at once where it adds a residual."""
PIXEL_TILES: Mapping[str, int] = {"dotprod": 8, "neon": 2, "generic": 4}
"""Most output pixels of a tile, by the form of the product (features.py): with 8 channels, as many accumulators as leave registers for operands"""
BLOCK_BYTES = 24 * 1024
"""Input bytes of a block that stays in L1 beside a panel of weights, which is unpacked once for each block"""
LARGE_BLOCK_BYTES = 160 * 1024
"""The same in L2, where the weights are too large to be read often"""
LARGE_WEIGHT_BYTES = 256 * 1024
"""Bytes of weights from which blocks are large"""
PRODUCT_ROWS = 64
"""Rows of the first operand that share one packing of the second, where two activations are multiplied"""
SHORT_WINDOW = 255
"""Codes whose sum fits int16, so that average pooling over so many adds them there"""


def is_depthwise(groups: int, input_channels: int) -> bool:
    """Whether a convolution has the depthwise kernels: every group is one input channel."""
    return 1 < groups == input_channels


def stores_vectors(output_channels: int, groups: int) -> bool:
    """Whether the matrix kernel of a convolution stores whole half vectors of channels, as the addition of a residual needs."""
    return output_channels // max(groups, 1) >= CHANNEL_TILE


def stores_pairs(output_channels: int, groups: int, input_channels: int) -> bool:
    """Whether the kernel of a convolution can store codes two a byte: depthwise with one output a channel, or groups of an even number."""
    if is_depthwise(groups, input_channels):
        return output_channels == input_channels
    return output_channels // max(groups, 1) % 2 == 0
