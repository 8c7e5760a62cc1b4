"""Pooling over the spatial axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpqc.frontend.ops_conv import torch_pads
from mpqc.frontend.registry import op

Ints = Sequence[int]
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def output_size(size: int, kernel: int, stride: int, begin: int, end: int, dilation: int, ceil_mode: int) -> int:
    """Output length along an axis. A window that would start in the end padding is left out (ONNX MaxPool-22, note on ceil_mode)."""
    span = size + begin + end - ((kernel - 1) * dilation + 1)
    count = (-(-span // stride) if ceil_mode else span // stride) + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= size + begin else count


def _extended(size: Ints, kernel: Ints, strides: Ints, pads: Ints, dilations: Ints, ceil_mode: int) -> list[int]:
    """Pads whose ends are moved to where the last window ends, so that pooling without ceil_mode gives every window."""
    rank, ends = len(kernel), []
    for axis in range(rank):
        begin, end = pads[axis], pads[rank + axis]
        count = output_size(size[axis], kernel[axis], strides[axis], begin, end, dilations[axis], ceil_mode)
        ends.append((count - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 - size[axis] - begin)
    return [*pads[:rank], *ends]


def _refuse_max(attributes: Mapping[str, Any]) -> str:
    rank = len(attributes["kernel_shape"])
    return "" if rank in _MAX else f"pooling over {rank} axes is not supported"


@op("MaxPool", ignored=("auto_pad", "storage_order"), refuse=_refuse_max)
def max_pool(
    x: Tensor, *, kernel_shape: Ints, strides: Ints | None = None, pads: Ints | None = None, dilations: Ints | None = None, ceil_mode: int = 0
) -> Tensor:
    """Largest value of each window; padding never wins."""
    rank = len(kernel_shape)
    strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
    wide = _extended(x.shape[2:], kernel_shape, strides, pads, dilations, ceil_mode)
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded = F.pad(x, torch_pads(wide), value=lowest) if any(wide) else x
    return _MAX[rank](padded, tuple(kernel_shape), tuple(strides), 0, tuple(dilations))


def _refuse_average(attributes: Mapping[str, Any]) -> str:
    if any(size != 1 for size in attributes.get("dilations", ())):
        return "AveragePool with dilations is not supported"
    return _refuse_max(attributes)


@op("AveragePool", ignored=("auto_pad",), refuse=_refuse_average)
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:
    """Mean of each window over the cells that count: those of the input, and of the padding where `count_include_pad`."""
    rank = len(kernel_shape)
    strides, pads = strides or [1] * rank, pads or [0] * 2 * rank
    wide = _extended(x.shape[2:], kernel_shape, strides, pads, [1] * rank, ceil_mode)
    mean = _AVERAGE[rank](F.pad(x, torch_pads(wide)) if any(wide) else x, tuple(kernel_shape), tuple(strides))
    if not any(wide) or (count_include_pad and list(wide) == list(pads)):
        return mean
    return mean * _share(x, kernel_shape, strides, pads, wide, count_include_pad).to(mean)


def _share(x: Tensor, kernel: Ints, strides: Ints, pads: Ints, wide: Ints, include: int) -> Tensor:
    """Window size over the number of cells that count, for each output position."""
    rank, share = len(kernel), torch.ones(())
    for axis in range(rank):
        size, begin, end = x.shape[2 + axis], pads[axis], pads[rank + axis]
        starts = torch.arange(0, size + begin + wide[rank + axis] - kernel[axis] + 1, strides[axis])
        low, high = (0, size + begin + end) if include else (begin, begin + size)
        cells = (starts + kernel[axis]).clamp(max=high) - starts.clamp(min=low)
        share = share.unsqueeze(-1) * (kernel[axis] / cells)
    return share


@op("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """Mean over all spatial axes, kept as ones."""
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


@op("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Maximum over all spatial axes, kept as ones."""
    return torch.amax(x, dim=tuple(range(2, x.ndim)), keepdim=True)
