"""LSQ on bfloat16 activations in one pass over memory (lsq.c), where zig can compile it; torch ops do the same in four to seven passes.

Arithmetic is float32 throughout, so that codes are those of the bfloat16 values exactly. Sums are added chunk by chunk in order: the result
does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from mpqc.training.quantizers.compiled import compiled, library

__all__ = ["backward", "forward", "library", "suits"]

CHUNK = 1 << 18
"""Values that one call treats"""
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
    function = compiled().lsq_forward
    _each_chunk(x.numel(), lambda start, count: function(_at(x, start), _at(y, start), count, scale, low, high))
    return y


def backward(gradient: Tensor, x: Tensor, scale: float, low: int, high: int) -> tuple[Tensor, float]:
    """The gradient to x, and the sum of gradient times dy/ds, for a `gradient` with the layout of `x`."""
    for_x = torch.empty_like(x)
    function = compiled().lsq_backward
    parts = _each_chunk(x.numel(), lambda start, count: function(_at(gradient, start), _at(x, start), _at(for_x, start), count, scale, low, high))
    return for_x, sum(parts)


def _at(x: Tensor, start: int) -> int:
    return x.data_ptr() + 2 * start


def _each_chunk(count: int, work: Callable[[int, int], float]) -> list[float]:
    """What `work` gives for (start, length) of every chunk, in order; on torch's number of threads."""
    starts = range(0, count, CHUNK)
    lengths = [min(CHUNK, count - start) for start in starts]
    if torch.get_num_threads() == 1 or len(lengths) == 1:
        return list(map(work, starts, lengths))
    return list(_pool(torch.get_num_threads()).map(work, starts, lengths))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="mpqc-lsq")
