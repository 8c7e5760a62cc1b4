"""Comparisons, logic and selection."""

from __future__ import annotations

import torch
from torch import Tensor

from mpqc.frontend.registry import op


@op()
def equal(a: Tensor, b: Tensor) -> Tensor:
    """a == b."""
    return torch.eq(a, b)


@op()
def greater(a: Tensor, b: Tensor) -> Tensor:
    """a > b."""
    return torch.gt(a, b)


@op()
def greater_or_equal(a: Tensor, b: Tensor) -> Tensor:
    """a >= b."""
    return torch.ge(a, b)


@op()
def less(a: Tensor, b: Tensor) -> Tensor:
    """a < b."""
    return torch.lt(a, b)


@op()
def less_or_equal(a: Tensor, b: Tensor) -> Tensor:
    """a <= b."""
    return torch.le(a, b)


@op()
def logical_and(a: Tensor, b: Tensor) -> Tensor:
    """Both."""
    return torch.logical_and(a, b)


@op()
def logical_or(a: Tensor, b: Tensor) -> Tensor:
    """Either."""
    return torch.logical_or(a, b)


@op()
def logical_xor(a: Tensor, b: Tensor) -> Tensor:
    """One, not both."""
    return torch.logical_xor(a, b)


@op()
def logical_not(a: Tensor) -> Tensor:
    """The opposite."""
    return torch.logical_not(a)


@op()
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where the condition holds, else b."""
    return torch.where(condition, a, b)
