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


def _refuse_max(attributes: Mapping[str, Any]) -> str:
    rank = len(attributes["kernel_shape"])
    return "" if rank in _MAX else f"pooling over {rank} axes is not supported"


@op(ignored=("storage_order",), refuse=_refuse_max)
def max_pool(x: Tensor, *, kernel_shape: Ints, strides: Ints, pads: Ints, dilations: Ints) -> Tensor:
    """Largest value of each window; padding never wins."""
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded = F.pad(x, torch_pads(pads), value=lowest) if any(pads) else x
    return _MAX[len(kernel_shape)](padded, tuple(kernel_shape), tuple(strides), 0, tuple(dilations))


def _refuse_average(attributes: Mapping[str, Any]) -> str:
    if any(size != 1 for size in attributes["dilations"]):
        return "AveragePool with dilations is not supported"
    return _refuse_max(attributes)


@op(refuse=_refuse_average)
def average_pool(x: Tensor, *, kernel_shape: Ints, strides: Ints, pads: Ints, dilations: Ints, count_include_pad: int = 0) -> Tensor:
    """Mean of each window over the cells that count: those of the input, and of the padding where `count_include_pad`."""
    padded = F.pad(x, torch_pads(pads)) if any(pads) else x
    mean = _AVERAGE[len(kernel_shape)](padded, tuple(kernel_shape), tuple(strides))
    if not any(pads) or count_include_pad:
        return mean
    return mean * _share(x.shape[2:], kernel_shape, strides, pads).to(mean)


def _share(size: Ints, kernel: Ints, strides: Ints, pads: Ints) -> Tensor:
    """Window size over the number of its cells inside the input, for each output position."""
    rank, share = len(kernel), torch.ones(())
    for axis in range(rank):
        begin, total = pads[axis], pads[axis] + size[axis] + pads[rank + axis]
        starts = torch.arange(0, total - kernel[axis] + 1, strides[axis])
        cells = (starts + kernel[axis]).clamp(max=begin + size[axis]) - starts.clamp(min=begin)
        share = share.unsqueeze(-1) * (kernel[axis] / cells)
    return share


@op()
def global_average_pool(x: Tensor) -> Tensor:
    """Mean over all spatial axes, kept as ones."""
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


@op()
def global_max_pool(x: Tensor) -> Tensor:
    """Maximum over all spatial axes, kept as ones."""
    return torch.amax(x, dim=tuple(range(2, x.ndim)), keepdim=True)
