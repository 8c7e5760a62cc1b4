"""Widths in which a QDQ file stores codes: ONNX has types of these bits, narrower codes lie in the next wider one."""

from __future__ import annotations

FILE_WEIGHT_BITS = (2, 4, 8, 16)
"""Of weights, in the opset that has them all; a lower opset stores the narrow ones wider (qdq/write/writer.py)"""
FILE_ACTIVATION_BITS = (8, 16)
"""Of activations: codes of fewer bits are int8 or int16 with a Clip"""
SCALE_BYTES = 4
"""A float32 scale"""
BIAS_BYTES = 12
"""A value of a bias: its int32 code, and scale and zero point of its own"""


def zero_point_bits(width: int) -> int:
    """Bits of a weight's zero point beside codes of `width` bits; 2-bit codes are cast to int8 before they are scaled."""
    return 8 if width == min(FILE_WEIGHT_BITS) else width
