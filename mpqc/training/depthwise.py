"""Convolutions whose bfloat16 form on CPUs is far slower than their float32 one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from mpqc.frontend.ops_conv import conv

Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""x, weight, bias -> the convolution, with its attributes bound"""


def float32_where_faster(convolve: Convolve, x: Tensor, weight: Tensor, bias: Tensor | None, *, strides: Sequence[int], groups: int) -> Tensor:
    """convolve(x, weight, bias); where it is depthwise, has a stride and trains under bfloat16 autocast on a CPU, computed in float32.

    oneDNN's backward of those is several times slower in bfloat16 than in float32. The result is bfloat16 either way.
    """
    if not _slow_in_bfloat16(x, strides, groups):
        return convolve(x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        made = convolve(x.float(), weight.float(), None if bias is None else bias.float())
    return made.to(torch.bfloat16)


def use_float32_where_faster(root: fx.GraphModule) -> None:
    """Let the 2-D convolutions with groups of a graph be computed by float32_where_faster, in place."""
    for node in root.graph.nodes:
        if node.op == "call_function" and node.target is conv and node.kwargs.get("group", 1) > 1 and len(node.kwargs["kernel_shape"]) == 2:
            node.target = _conv
    root.recompile()


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    return float32_where_faster(partial(conv, **attributes), x, weight, bias, strides=attributes["strides"], groups=attributes["group"])


def _slow_in_bfloat16(x: Tensor, strides: Sequence[int], groups: int) -> bool:
    if x.device.type != "cpu" or groups == 1 or groups != x.shape[1] or max(strides) == 1 or not torch.is_grad_enabled():
        return False
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
