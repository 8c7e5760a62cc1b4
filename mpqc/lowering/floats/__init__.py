"""Kernels for what stays float: matrix products, convolutions, row operations, and schedules for the loops that TVM makes itself."""
