"""How a tensor is shown to the kernels, whose rule is: quantized rank 4 lies channels last, everything else as in ONNX.

A channels-last tensor of rank 3 [N, C, L] is shown as [N, C, 1, L], a plain quantized tensor of rank 4 with a leading 1. The
memory is the same; axes, paddings and constants of an op are shown the same way.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpqc.lowering.layout import Placement
from mpqc.values.program import Tensor


def present(tensor: Tensor, placement: Placement) -> Tensor:
    """`tensor` with a shape that makes the kernels find it where `placement` puts it."""
    return replace(tensor, shape=_inserted(tensor.shape, 1, placement)) if tensor.qparams is not None else tensor


def present_axis(axis: int, placement: Placement) -> int:
    """An axis of the tensor in its shown shape."""
    axis %= len(placement.order)
    position = _extra(placement)
    return axis if position is None or axis < position else axis + 1


def present_pads(pads: tuple[int, ...], placement: Placement) -> tuple[int, ...]:
    """ONNX paddings (all begins, all ends) for the shown shape."""
    half = len(pads) // 2
    return (*_inserted(pads[:half], 0, placement), *_inserted(pads[half:], 0, placement))


def present_constant(constant: np.ndarray, placement: Placement) -> np.ndarray:
    """A constant that broadcasts to the tensor, for the shown shape."""
    channels_last_row = placement.order == (0, 2, 1)
    return np.expand_dims(constant, -2) if channels_last_row and constant.ndim > 1 else constant


def _extra(placement: Placement) -> int | None:
    """Where the shown shape has one axis more."""
    if placement.order == (0, 2, 1):
        return 2
    return 0 if placement.order == (0, 1, 2, 3) else None


def _inserted(values: tuple[int, ...], value: int, placement: Placement) -> tuple[int, ...]:
    position = _extra(placement)
    return values if position is None else (*values[:position], value, *values[position:])
