"""Data movement by index: slices, pads, gathers and scatters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mpqc.frontend.ops_conv import torch_pads
from mpqc.frontend.registry import op

Ints = Sequence[int]


@op(static=(1, 2, 3, 4))
def slice_axes(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    """x[start:end:step] along each axis, as numpy slices (negative steps included)."""
    for axis, start, end, step in zip(axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True):
        x = _slice(x, axis % x.ndim, start, end, step)
    return x


def _slice(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    size = x.shape[axis]
    stop = None if step < 0 and end < -size else end
    indices = range(size)[slice(start, stop, step)]
    if step == 1:
        return x.narrow(axis, indices.start, len(indices))
    if step > 0:
        return x[(slice(None),) * axis + (slice(indices.start, indices.stop, step),)]
    return x.index_select(axis, torch.tensor(list(indices), dtype=torch.int64))


def _refuse_pad(attributes: Mapping[str, Any]) -> str:
    mode = attributes.get("mode", "constant")
    return "" if mode in ("constant", "reflect", "edge", "wrap") else f"Pad mode {mode} is not supported"


@op(static=(1, 3), scalars=(2,), refuse=_refuse_pad)
def pad(x: Tensor, pads: Ints, value: float | Tensor | None = None, axes: Ints | None = None, *, mode: str = "constant") -> Tensor:
    """x with `pads` (all begins, then all ends, of `axes`) added; negative pads cut."""
    full = _all_axes(x.ndim, pads, axes)
    if mode == "constant":
        fill = value.item() if isinstance(value, Tensor) else value or 0
        return F.pad(x, torch_pads(full), value=fill)
    for axis in range(x.ndim):
        begin, end = full[axis], full[x.ndim + axis]
        if begin or end:
            x = x.index_select(axis, torch.from_numpy(_sources(x.shape[axis], begin, end, mode)))
    return x


def _all_axes(rank: int, pads: Ints, axes: Ints | None) -> list[int]:
    full = [0] * (2 * rank)
    chosen = range(rank) if axes is None else [axis % rank for axis in axes]
    for index, axis in enumerate(chosen):
        full[axis], full[rank + axis] = pads[index], pads[len(pads) // 2 + index]
    return full


def _sources(size: int, begin: int, end: int, mode: str) -> np.ndarray:
    """Source position of every position of a padded axis."""
    positions = np.arange(-begin, size + end)
    if mode == "edge":
        return positions.clip(0, size - 1)
    if mode == "wrap":
        return positions % size
    period = max(2 * (size - 1), 1)
    folded = np.abs(positions) % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(positions)


def _positive(indices: Tensor, size: int) -> Tensor:
    """Indices counted from the front, int64."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@op()
def gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """x taken at `indices` along `axis`, whose place the indices' shape takes."""
    dim = axis % x.ndim
    taken = x.index_select(dim, _positive(indices, x.shape[dim]).reshape(-1))
    return taken.reshape([*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :]])


@op()
def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """x at each index along `axis`, other coordinates those of the index."""
    return torch.gather(x, axis, _positive(indices, x.shape[axis]))


def _refuse_batch_dims(attributes: Mapping[str, Any]) -> str:
    return "GatherND with batch_dims is not supported" if attributes.get("batch_dims") else ""


@op(refuse=_refuse_batch_dims)
def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """x at coordinates in the last axis of `indices`."""
    return x[_coordinates(x, indices)]


def _coordinates(x: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
    return tuple(_positive(indices[..., axis], x.shape[axis]) for axis in range(indices.shape[-1]))


def _refuse_reduction(attributes: Mapping[str, Any]) -> str:
    reduction = attributes.get("reduction", "none")
    return "" if reduction in ("none", "add") else f"reduction {reduction} is not supported"


@op(refuse=_refuse_reduction)
def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """x with `updates` written (or added) at coordinates in the last axis of `indices`."""
    return x.index_put(_coordinates(x, indices), updates, accumulate=reduction == "add")


@op(refuse=_refuse_reduction)
def scatter_elements(x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """x with each update written (or added) at its index along `axis`."""
    where = _positive(indices, x.shape[axis])
    return x.scatter_add(axis, where, updates) if reduction == "add" else x.scatter(axis, where, updates)
