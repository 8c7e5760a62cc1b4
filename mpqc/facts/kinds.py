"""Families of ops: what kernel lists, rates and cost rows name."""

from __future__ import annotations

from enum import StrEnum


class OpKind(StrEnum):
    """Families of ops that share a kernel and a cost: what cost rows and kernel lists name."""

    CONV = "conv"
    """Convolution with one group, or with groups of several channels"""
    WINOGRAD_TILE = "winograd_tile"
    """Convolution of 3x3, stride 1, by products of transformed tiles: what `conv` is where the bits allow it"""
    WINOGRAD_ROW = "winograd_row"
    """The same, transformed along rows alone"""
    WINOGRAD_TILE4 = "winograd_tile4"
    """The same by products of transformed tiles of 4x4 outputs in int16, for cores without SDOT"""
    DEPTHWISE = "depthwise"
    """Convolution with one input channel a group"""
    GEMM = "gemm"
    """Fully connected: activations times constant weights"""
    MATMUL = "matmul"
    """Activations times activations"""
    BINARY = "binary"
    """Add, Sub, Mul, Div elementwise"""
    RESIDUAL = "residual"
    """What an Add costs that the convolution before it does"""
    TABLE = "table"
    """Any function of one value: activations, requantization"""
    MAX_POOL = "max_pool"
    AVERAGE_POOL = "average_pool"
    RESIZE = "resize"
    """Resize that blends neighbours"""
    NEAREST = "nearest"
    """Resize that copies the nearest pixel"""
    CONCAT = "concat"
    PAD = "pad"
    MOVE = "move"
    """Copies of whole runs of channels: Slice, Split, Gather, Tile, ..."""
    SHUFFLE = "shuffle"
    """Copies that tear channels apart: Transpose, DepthToSpace, ..."""
    QUANTIZE = "quantize"
    DEQUANTIZE = "dequantize"
    FLOAT_ELEMENTS = "float_elements"
    """In float32: sums, products, comparisons, clamps, one value at a time"""
    FLOAT_FUNCTION = "float_function"
    """In float32: functions that take a polynomial a value"""
    FLOAT_DIVISION = "float_division"
    """In float32: a division or a root a value"""
    FLOAT_ROWS = "float_rows"
    """In float32: normalizations and reductions, which go through rows"""
    FLOAT_SOFTMAX = "float_softmax"
    """In float32: rows with an exponential a value"""
    FLOAT_MOVE = "float_move"
    """In float32: copies"""
    FLOAT_CONCAT = "float_concat"
    """In float32: copies that find out for each value which source it has"""
    FLOAT_PRODUCT = "float_product"
    """In float32: matrix products and convolutions"""


STAND_INS = {OpKind.NEAREST: OpKind.RESIZE, OpKind.RESIDUAL: OpKind.BINARY}
"""The kind by which a target judges and prices another one that it does not list."""
WEIGHTED = frozenset({OpKind.CONV, OpKind.WINOGRAD_TILE, OpKind.WINOGRAD_ROW, OpKind.WINOGRAD_TILE4, OpKind.DEPTHWISE, OpKind.GEMM})
"""Kinds that read a constant weight."""
FLOATS = frozenset(kind for kind in OpKind if kind.value.startswith("float_"))
"""Kinds of kernels that compute in float32: every target with code has them."""
FLOAT_BITS = 32
"""What their cost rows say as the width of activations"""
