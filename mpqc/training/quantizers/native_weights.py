"""LSQ of float32 weights and the record of their codes in one call each (weights.c), where zig can compile it; torch ops do the same."""

from __future__ import annotations

import torch
from torch import Tensor

from mpqc.training.quantizers.compiled import compiled, library
from mpqc.training.quantizers.steps import Levels


def suits(*tensors: Tensor) -> bool:
    """Whether the compiled functions take all of these: on the CPU, of one shape and layout, with rows (indices of axis 0) that are dense."""
    first = tensors[0]
    if first.device.type != "cpu" or first.ndim < 2 or not first.numel() or first.dtype is not torch.float32:
        return False
    dense = first.is_contiguous() or (first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last))
    same = all(item.shape == first.shape and item.stride() == first.stride() and item.device == first.device for item in tensors)
    return dense and same and library() is not None


def forward(x: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """`x` on the levels of `scale` [n] along axis 0, bit for bit as base.rounded_steps."""
    y = torch.empty_like(x)
    steps = scale.detach().contiguous()
    compiled().weights_forward(x.data_ptr(), y.data_ptr(), x.shape[0], x[0].numel(), steps.data_ptr(), levels.low, levels.high, levels.half)
    return y


def backward(gradient: Tensor, x: Tensor, scale: Tensor, levels: Levels, slope: float) -> tuple[Tensor, Tensor]:
    """The gradients to x and to `scale` [n], for a `gradient` with the layout of `x`."""
    for_x, for_scale, steps = torch.empty_like(x), torch.empty(x.shape[0]), scale.detach().contiguous()
    tensors, codes = (gradient, x, for_x, for_scale), (levels.low, levels.high, levels.margin, levels.half)
    compiled().weights_backward(*(item.data_ptr() for item in tensors), x.shape[0], x[0].numel(), steps.data_ptr(), *codes, slope)
    return for_x, for_scale


def watch(tensors: tuple[Tensor, ...], scale: Tensor, levels: Levels, momentum: float, threshold: float) -> None:
    """Move weight, codes, direction, frequency, average, frozen (bool) and kept by one step, in place (oscillation.py)."""
    weight, steps, codes = tensors[0], scale.detach().contiguous(), (levels.low, levels.high, levels.half)
    sizes = (weight.shape[0], weight[0].numel())
    compiled().weights_watch(*(item.data_ptr() for item in tensors), *sizes, steps.data_ptr(), *codes, momentum, threshold)
