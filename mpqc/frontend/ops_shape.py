"""Data movement that needs no index arithmetic: reshaping, permuting, joining and repeating."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from mpqc.frontend.registry import op

Ints = Sequence[int]


@op(static=(1,))
def reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """x in a new shape; 0 keeps the input's dimension (unless `allowzero`), -1 takes what is left."""
    dims = [x.shape[axis] if size == 0 and not allowzero else size for axis, size in enumerate(shape)]
    return x.reshape(dims)


@op()
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Two dimensions: those before `axis` and those from it on."""
    split = axis % x.ndim if axis < 0 else axis
    return x.reshape(prod(x.shape[:split]), -1) if x.numel() else x.reshape(prod(x.shape[:split]), prod(x.shape[split:]))


@op()
def transpose(x: Tensor, *, perm: Ints | None = None) -> Tensor:
    """Axes in the order `perm`; reversed where it is absent."""
    return x.permute(tuple(perm) if perm is not None else tuple(reversed(range(x.ndim))))


@op(static=(1,))
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Without the given axes of size 1, or without all of them."""
    if axes is None:
        return x.squeeze()
    dropped = {axis % x.ndim for axis in axes}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in dropped])


@op(static=(1,))
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """With new axes of size 1 at the given positions of the result."""
    rank, sizes = x.ndim + len(axes), iter(x.shape)
    new = {axis % rank for axis in axes}
    return x.reshape([1 if axis in new else next(sizes) for axis in range(rank)])


@op(static=(1,))
def expand(x: Tensor, shape: Ints) -> Tensor:
    """x broadcast with `shape` (in both directions)."""
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(shape)))


@op(static=(1,))
def tile(x: Tensor, repeats: Ints) -> Tensor:
    """x repeated along each axis."""
    return x.repeat(tuple(repeats))


@op()
def concat(*values: Tensor, axis: int) -> Tensor:
    """Values joined along `axis`."""
    return torch.cat(values, dim=axis)


@op(static=(1,), outputs=None)
def split(x: Tensor, sizes: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None) -> tuple[Tensor, ...]:
    """Parts of the given sizes along `axis`, or `num_outputs` equal ones (the last may be smaller)."""
    if sizes is not None:
        return torch.split(x, list(sizes), dim=axis)
    assert num_outputs is not None
    return torch.split(x, -(-x.shape[axis] // num_outputs), dim=axis)


@op(ignored=("seed",), absent=(2,), outputs=2)
def dropout(x: Tensor, ratio: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x and a mask that keeps all of it, as at inference."""
    return x, torch.ones(x.shape, dtype=torch.bool)


@op()
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """[N, C, H, W] -> [N, C / b^2, H b, W b]; DCR: the block index is the slow part of the channel, CRD: the fast one."""
    n, c, h, w = x.shape
    b, depth = blocksize, c // blocksize**2
    split, order = ((b, b, depth), (0, 3, 4, 1, 5, 2)) if mode == "DCR" else ((depth, b, b), (0, 1, 4, 2, 5, 3))
    blocks = x.reshape(n, *split, h, w).permute(order)
    return blocks.reshape(n, depth, h * b, w * b)


@op()
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """[N, C, H, W] -> [N, C b^2, H / b, W / b], the inverse of DepthToSpace in DCR mode."""
    n, c, h, w = x.shape
    b = blocksize
    blocks = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * b * b, h // b, w // b)


@op(static=(1,))
def trilu(x: Tensor, k: int = 0, *, upper: int = 1) -> Tensor:
    """Upper or lower triangle from the k-th diagonal on."""
    return torch.triu(x, int(k)) if upper else torch.tril(x, int(k))
