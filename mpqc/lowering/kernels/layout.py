"""Where the elements of a program's tensors lie: quantized rank-4 tensors are NHWC, everything else is row-major as in ONNX."""

from __future__ import annotations

import numpy as np

from mpqc.values.program import Tensor

NHWC = (0, 2, 3, 1)
NCHW = (0, 3, 1, 2)


def channels_last(tensor: Tensor) -> bool:
    """Whether `tensor` (shape in ONNX order, NCHW) lies in memory as NHWC."""
    return len(tensor.shape) == 4 and tensor.dtype in ("int8", "int16") and tensor.qparams is not None


def types(*tensors: Tensor) -> tuple[str, ...]:
    """For names of kernels: the bytes of each tensor's codes, nothing where none has more than one."""
    return ("bytes" + "".join(str(1 + tensor.is_long) for tensor in tensors),) if any(tensor.is_long for tensor in tensors) else ()


def order(tensor: Tensor) -> tuple[int, ...]:
    """ONNX axes, outermost in memory first."""
    return NHWC if channels_last(tensor) else tuple(range(len(tensor.shape)))


def physical_shape(tensor: Tensor) -> tuple[int, ...]:
    """Shape of the buffer."""
    return tuple(tensor.shape[axis] for axis in order(tensor))


def strides(tensor: Tensor) -> tuple[int, ...]:
    """Elements between neighbours along each ONNX axis."""
    steps, step = [0] * len(tensor.shape), 1
    for axis in reversed(order(tensor)):
        steps[axis], step = step, step * tensor.shape[axis]
    return tuple(steps)


def broadcast_strides(tensor: Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of `tensor` along the axes of `shape`, to which it broadcasts as numpy does: 0 where it repeats."""
    missing = len(shape) - len(tensor.shape)
    own = [0 if size == 1 else step for size, step in zip(tensor.shape, strides(tensor), strict=True)]
    return (*(0,) * missing, *own)


def reordered(values: tuple[int, ...], tensor: Tensor) -> tuple[int, ...]:
    """`values`, one an ONNX axis, in the memory order of `tensor`."""
    return tuple(values[axis] for axis in order(tensor))


def to_physical(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """`array` in ONNX order as it lies in memory for `tensor`, contiguous."""
    return np.asarray(array.transpose(order(tensor)), order="C")


def from_physical(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """The inverse of `to_physical`."""
    return np.asarray(array.reshape(physical_shape(tensor)).transpose(np.argsort(order(tensor))), order="C")
