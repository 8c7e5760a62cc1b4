"""Normalisations, with the statistics of inference."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from mpqc.frontend.registry import op


@op(ignored=("momentum", "training_mode"))
def batch_normalization(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """scale * (x - mean) / sqrt(variance + epsilon) + bias, per channel (axis 1)."""
    shape = [1, -1] + [1] * (x.ndim - 2)
    factor = scale / torch.sqrt(variance + epsilon)
    return (x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)


@op(ignored=("stash_type",))
def layer_normalization(x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """Zero mean and unit variance over the axes from `axis` on, then scale and bias (broadcast)."""
    dims = tuple(range(axis % x.ndim, x.ndim))
    centred = x - x.mean(dims, keepdim=True)
    normal = centred / torch.sqrt((centred * centred).mean(dims, keepdim=True) + epsilon) * scale
    return normal if bias is None else normal + bias


@op()
def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Zero mean and unit variance over the spatial axes, then scale and bias per channel."""
    dims, shape = tuple(range(2, x.ndim)), [1, -1] + [1] * (x.ndim - 2)
    centred = x - x.mean(dims, keepdim=True)
    normal = centred / torch.sqrt((centred * centred).mean(dims, keepdim=True) + epsilon)
    return normal * scale.reshape(shape) + bias.reshape(shape)


@op(ignored=("stash_type",))
def group_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Zero mean and unit variance within each group of channels, then scale and bias per channel."""
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@op()
def local_response_normalization(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta."""
    low, channels = (size - 1) // 2, x.shape[1]
    square = (x * x).reshape(x.shape[0], 1, channels, prod(x.shape[2:]))
    padded = F.pad(square, (0, 0, low, size - 1 - low))
    total = padded.unfold(2, size, 1).sum(-1).reshape(x.shape)
    return x / torch.pow(bias + alpha / size * total, beta)


@op()
def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """x over its p-norm along `axis`; 0 where that norm is 0."""
    norm = torch.linalg.vector_norm(x, ord=p, dim=axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)
