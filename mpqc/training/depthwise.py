"""Convolutions whose bfloat16 form on CPUs is far slower than their float32 one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from mpqc.frontend.ops_conv import conv


def float32_where_faster(
    x: Tensor, weight: Tensor, bias: Tensor | None, strides: Sequence[int], padding: Sequence[int] | str, dilations: Sequence[int], groups: int
) -> Tensor:
    """torch.nn.functional.conv2d; where it is depthwise, has a stride and trains under bfloat16 autocast on a CPU, computed in float32.

    oneDNN's backward of those takes 150 to 230 ms in bfloat16 for 128 images where float32 takes 8 to 38.
    """
    arguments: Any = (tuple(strides), padding if isinstance(padding, str) else tuple(padding), tuple(dilations), groups)
    if not _slow_in_bfloat16(x, strides, groups):
        return F.conv2d(x, weight, bias, *arguments)
    with torch.autocast("cpu", enabled=False):
        made = F.conv2d(x.float(), weight.float(), None if bias is None else bias.float(), *arguments)
    return made.to(torch.bfloat16)


def use_float32_where_faster(root: fx.GraphModule) -> None:
    """Let the depthwise convolutions of a graph that has a stride be computed by float32_where_faster, in place."""
    for node in root.graph.nodes:
        if node.op == "call_function" and node.target is conv and node.kwargs.get("group", 1) > 1 and len(node.kwargs["kernel_shape"]) == 2:
            node.target = _conv
    root.recompile()


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **attributes: Any) -> Tensor:
    pads, group = attributes["pads"], attributes.get("group", 1)
    if not _slow_in_bfloat16(x, attributes["strides"], group) or list(pads[:2]) != list(pads[2:]):
        return conv(x, weight, bias, **attributes)
    return float32_where_faster(x, weight, bias, attributes["strides"], pads[:2], attributes["dilations"], group)


def _slow_in_bfloat16(x: Tensor, strides: Sequence[int], groups: int) -> bool:
    if x.device.type != "cpu" or groups == 1 or groups != x.shape[1] or max(strides) == 1 or not torch.is_grad_enabled():
        return False
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
