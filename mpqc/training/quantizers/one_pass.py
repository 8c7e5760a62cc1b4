"""BatchNorm, addition, ReLU and rounding of bfloat16 activations fused into as few passes over memory as there can be (fused.c).

Nothing between them is kept: backward computes it again from the inputs. Arithmetic is float32, so that values differ from those of the
separate ops by the roundings to bfloat16 that they make on the way.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpqc.training.quantizers import compiled, native
from mpqc.training.quantizers.base import like
from mpqc.training.quantizers.steps import OnePass


@dataclass(frozen=True, eq=False)
class Running:
    """The statistics of BatchNorm that a forward pass moves."""

    mean: Tensor
    variance: Tensor
    momentum: float
    epsilon: float


@dataclass(frozen=True, eq=False)
class _Work:
    """What the functions below take besides tensors."""

    grid: compiled.Grid
    gradients: Callable[[float, float, float], tuple[float, ...]] | None
    running: Running | None = None


class _NormFunction(torch.autograd.Function):
    """BatchNorm in training mode [, ReLU] [, rounding]."""

    @staticmethod
    def forward(ctx: Any, work: _Work, z: Tensor, gamma: Tensor, beta: Tensor, *parameters: Tensor) -> Tensor:
        running, channels = work.running, z.shape[1]
        assert running is not None
        y, saved = torch.empty_like(z), torch.empty(2, channels)
        tensors = (running.mean, running.variance, saved)
        compiled.compiled().norm_forward(
            z.data_ptr(),
            y.data_ptr(),
            z.numel(),
            channels,
            gamma.data_ptr(),
            beta.data_ptr(),
            running.epsilon,
            running.momentum,
            *(item.data_ptr() for item in tensors),
            ctypes.byref(work.grid),
            torch.get_num_threads(),
        )
        ctx.save_for_backward(z, gamma, beta, saved, *parameters)
        ctx.work = work
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, gamma, beta, saved, *parameters = ctx.saved_tensors
        gradient = like(gradients[0], z)
        for_z, for_gamma, for_beta, sums = torch.empty_like(z), torch.empty_like(gamma), torch.empty_like(beta), (ctypes.c_double * 3)()
        compiled.compiled().norm_backward(
            gradient.data_ptr(),
            z.data_ptr(),
            for_z.data_ptr(),
            z.numel(),
            z.shape[1],
            *(item.data_ptr() for item in (gamma, beta, saved, for_gamma, for_beta)),
            ctypes.addressof(sums),
            ctypes.byref(ctx.work.grid),
            torch.get_num_threads(),
        )
        return None, for_z, for_gamma, for_beta, *_shaped(ctx.work, sums, parameters)


class _RoundFunction(torch.autograd.Function):
    """[Addition] [, ReLU] [, rounding]."""

    @staticmethod
    def forward(ctx: Any, work: _Work, z: Tensor, skip: Tensor | None, *parameters: Tensor) -> Tensor:
        y = torch.empty_like(z)
        compiled.compiled().round_forward(z.data_ptr(), _address(skip), y.data_ptr(), z.numel(), ctypes.byref(work.grid), torch.get_num_threads())
        ctx.save_for_backward(z, skip, *parameters)
        ctx.work = work
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        z, skip, *parameters = ctx.saved_tensors
        gradient = like(gradients[0], z)
        for_z, sums = torch.empty_like(z), (ctypes.c_double * 3)()
        compiled.compiled().round_backward(
            gradient.data_ptr(),
            z.data_ptr(),
            _address(skip),
            for_z.data_ptr(),
            z.numel(),
            ctypes.addressof(sums),
            ctypes.byref(ctx.work.grid),
            torch.get_num_threads(),
        )
        return None, for_z, None if skip is None else for_z, *_shaped(ctx.work, sums, parameters)


def normalised(z: Tensor, gamma: Tensor, beta: Tensor, running: Running, rounding: OnePass | None, *, relu: bool) -> Tensor:
    """BatchNorm of `z` by its own statistics, then ReLU where asked for, then `rounding`; moves `running`. `takes_norm` says whether it can."""
    work = _Work(_grid(rounding, relu), None if rounding is None else rounding.gradients, running)
    return _NormFunction.apply(work, z, gamma, beta, *(rounding.parameters if rounding else ()))  # type: ignore[no-untyped-call,no-any-return]


def rounded(z: Tensor, skip: Tensor | None, rounding: OnePass | None, *, relu: bool) -> Tensor:
    """`rounding` of ReLU (where asked for) of z [+ skip]. native.suits must hold of both, and their layouts be one."""
    work = _Work(_grid(rounding, relu), None if rounding is None else rounding.gradients)
    return _RoundFunction.apply(work, z, skip, *(rounding.parameters if rounding else ()))  # type: ignore[no-untyped-call,no-any-return]


def takes_norm(z: Tensor, *parameters: Tensor) -> bool:
    """Whether `normalised` takes z: [n, c, h, w] with channels last, float32 parameters on the CPU."""
    if not native.suits(z) or z.ndim != 4 or not z.is_contiguous(memory_format=torch.channels_last) or z.numel() == z.shape[1]:
        return False
    return all(item.dtype is torch.float32 and item.device.type == "cpu" and item.is_contiguous() for item in parameters)


def _grid(rounding: OnePass | None, relu: bool) -> compiled.Grid:
    if rounding is None:
        return compiled.Grid(kind=0, relu=relu)
    first, second = rounding.first, rounding.second
    bottom = max(rounding.bottom, 0.0) if relu else rounding.bottom
    clamps = first.low >= 0 and (second is None or second.low >= 0)  # what ReLU would do is done
    made = compiled.Grid(kind=1, relu=relu and not clamps, bottom=bottom, top=rounding.top)
    made.inverse1, made.low1, made.high1, made.step1 = 1 / first.step, first.low, first.high, first.step
    made.weight1 = first.step * (1 - rounding.share)
    if second is not None:
        made.kind, made.inverse2, made.low2, made.high2, made.step2 = 2, 1 / second.step, second.low, second.high, second.step
        made.weight2 = second.step * rounding.share
    return made


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _shaped(work: _Work, sums: Any, parameters: list[Tensor]) -> list[Tensor]:
    if work.gradients is None:
        return []
    values = work.gradients(*sums)
    return [torch.full_like(parameter, value) for parameter, value in zip(parameters, values, strict=True)]
