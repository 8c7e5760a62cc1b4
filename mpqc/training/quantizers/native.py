"""LSQ on bfloat16 activations in one pass over memory (lsq.c), where zig can compile it; torch ops do the same in four to seven passes.

Arithmetic is float32 throughout, so that codes are those of the bfloat16 values exactly. Sums are added chunk by chunk in order: the result
does not depend on the number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpqc.training.quantizers.compiled import compiled, library

__all__ = ["backward", "forward", "library", "suits"]

LEAST = 1 << 10
"""Tensors below are left to torch"""


def suits(x: Tensor) -> bool:
    """Whether the compiled functions take `x`: bfloat16 on the CPU, dense, large, and there is a compiler."""
    if x.dtype is not torch.bfloat16 or x.device.type != "cpu" or x.numel() < LEAST:
        return False
    dense = x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return dense and library() is not None


def forward(x: Tensor, scale: float, low: int, high: int) -> Tensor:
    """clamp(rne(x / s), low, high) s, rounded to bfloat16 once; the layout of `x`."""
    y = torch.empty_like(x)
    compiled().lsq_forward(x.data_ptr(), y.data_ptr(), x.numel(), scale, low, high, torch.get_num_threads())
    return y


def backward(gradient: Tensor, x: Tensor, scale: float, low: int, high: int) -> tuple[Tensor, float]:
    """The gradient to x, and the sum of gradient times dy/ds, for a `gradient` with the layout of `x`."""
    for_x = torch.empty_like(x)
    tensors = (gradient.data_ptr(), x.data_ptr(), for_x.data_ptr())
    return for_x, compiled().lsq_backward(*tensors, x.numel(), scale, low, high, torch.get_num_threads())
