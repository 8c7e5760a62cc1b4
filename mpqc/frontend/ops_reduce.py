"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mpqc.frontend.registry import op

Ints = Sequence[int]


def _dims(x: Tensor, axes: Ints | None, noop: int) -> tuple[int, ...]:
    """Axes to reduce: all where none are given, unless `noop` says none."""
    if axes:
        return tuple(axis % x.ndim for axis in axes)
    return () if noop else tuple(range(x.ndim))


@op(static=(1,))
def reduce_mean(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Mean."""
    dims = _dims(x, axes, noop_with_empty_axes)
    return x.mean(dims, keepdim=bool(keepdims)) if dims else x.clone()


@op(static=(1,))
def reduce_sum(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Sum, in x's type."""
    dims = _dims(x, axes, noop_with_empty_axes)
    return x.sum(dims, keepdim=bool(keepdims), dtype=x.dtype) if dims else x.clone()


@op(static=(1,))
def reduce_max(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Maximum."""
    dims = _dims(x, axes, noop_with_empty_axes)
    return torch.amax(x, dims, keepdim=bool(keepdims)) if dims else x.clone()


@op(static=(1,))
def reduce_min(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Minimum."""
    dims = _dims(x, axes, noop_with_empty_axes)
    return torch.amin(x, dims, keepdim=bool(keepdims)) if dims else x.clone()


@op(static=(1,))
def reduce_prod(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Product, in x's type."""
    for axis in sorted(_dims(x, axes, noop_with_empty_axes), reverse=True):
        x = torch.prod(x, axis, keepdim=bool(keepdims), dtype=x.dtype)
    return x


@op(static=(1,))
def reduce_l1(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Sum of absolute values."""
    return reduce_sum(torch.abs(x), axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes)


@op(static=(1,))
def reduce_sum_square(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Sum of squares."""
    return reduce_sum(x * x, axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes)


@op(static=(1,))
def reduce_l2(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Square root of the sum of squares."""
    return torch.sqrt(reduce_sum_square(x, axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes))


@op(static=(1,))
def reduce_log_sum(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Logarithm of the sum."""
    return torch.log(reduce_sum(x, axes, keepdims=keepdims, noop_with_empty_axes=noop_with_empty_axes))


@op(static=(1,))
def reduce_log_sum_exp(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Logarithm of the sum of exponentials, without overflow."""
    dims = _dims(x, axes, noop_with_empty_axes)
    return torch.logsumexp(x, dims, keepdim=bool(keepdims)) if dims else x.clone()


def _refuse_last(attributes: Mapping[str, Any]) -> str:
    return "select_last_index is not supported" if attributes.get("select_last_index") else ""


@op(refuse=_refuse_last)
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Index (int64) of the first maximum along `axis`."""
    return torch.argmax(x, dim=axis, keepdim=bool(keepdims))


@op(refuse=_refuse_last)
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Index (int64) of the first minimum along `axis`."""
    return torch.argmin(x, dim=axis, keepdim=bool(keepdims))


@op(static=(1,))
def cumulative_sum(x: Tensor, axis: int | Ints, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running sum along an axis, from the end where `reverse`, without the element itself where `exclusive`."""
    dim = axis if isinstance(axis, int) else axis[0]
    source = torch.flip(x, (dim,)) if reverse else x
    result = torch.cumsum(source, dim, dtype=x.dtype)
    result = result - source if exclusive else result
    return torch.flip(result, (dim,)) if reverse else result


@op(static=(1,), outputs=2)
def top_k(x: Tensor, k: Ints, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) values along `axis` and their indices (int64), in order; of equal values the first."""
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, k[0]), indices.narrow(axis, 0, k[0])
