"""Which tensors may be quantized, their ranges, and what rounding leaves to repair."""
