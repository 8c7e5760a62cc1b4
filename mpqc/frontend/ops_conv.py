"""Convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mpqc.frontend.registry import op

Ints = Sequence[int]
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def torch_pads(pads: Ints) -> list[int]:
    """ONNX pads (all begins, then all ends) in the order of torch.nn.functional.pad (last axis first, begin and end)."""
    rank = len(pads) // 2
    return [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)]


def _refuse_conv(attributes: Mapping[str, Any]) -> str:
    rank = len(attributes["kernel_shape"])
    return "" if rank in _CONV else f"a convolution over {rank} axes is not supported"


@op(refuse=_refuse_conv)
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Ints,
    strides: Ints,
    pads: Ints,
    dilations: Ints,
    group: int = 1,
) -> Tensor:
    """Convolution of x [N, C, *spatial] with weight [O, C / group, *kernel]; pads may differ at both ends."""
    rank = weight.ndim - 2
    padding: Ints = pads[:rank]
    if list(pads[:rank]) != list(pads[rank:]):
        x, padding = F.pad(x, torch_pads(pads)), [0] * rank
    return _CONV[rank](x, weight, bias, tuple(strides), tuple(padding), tuple(dilations), group)


@op(refuse=_refuse_conv)
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Ints,
    strides: Ints,
    pads: Ints,
    dilations: Ints,
    output_padding: Ints | None = None,
    group: int = 1,
) -> Tensor:
    """Transposed convolution of x [N, C, *spatial] with weight [C, O / group, *kernel].

    Computed without padding; what the pads cut off (and output_padding adds, as bias alone) is done on the result, because torch
    takes neither unequal pads nor an output_padding as large as the stride.
    """
    rank = weight.ndim - 2
    extra = output_padding or [0] * rank
    ends = [extra[axis] - pads[rank + axis] for axis in range(rank)]
    full = _TRANSPOSED[rank](x, weight, None, tuple(strides), 0, 0, group, tuple(dilations))
    cut = F.pad(full, torch_pads([*(-size for size in pads[:rank]), *ends]))
    return cut if bias is None else cut + bias.reshape(-1, *[1] * rank)


@op()
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """alpha * A' B' + beta * C, A' [M, K], B' [K, N]."""
    product = (a.t() if transA else a) @ (b.t() if transB else b)
    product = product if alpha == 1.0 else product * alpha
    if c is None:
        return product
    return product + (c if beta == 1.0 else c * beta)


@op()
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """numpy.matmul."""
    return torch.matmul(a, b)


@op()
def einsum(*inputs: Tensor, equation: str) -> Tensor:
    """torch.einsum of the equation."""
    return torch.einsum(equation, *inputs)
