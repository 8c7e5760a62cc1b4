"""Max and average pooling over the spatial axes, global pooling included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from mpqc.facts.kernels import SHORT_WINDOW
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.layout import physical_shape, strides, types
from mpqc.lowering.kernels.tir import (
    Expr,
    Param,
    T,
    bind,
    cast,
    codes,
    function,
    load,
    loop,
    output_bounds,
    param,
    pieces,
    registers,
    splat,
    store,
    symbol,
)
from mpqc.values.program import Pool, Tensor


@dataclass(frozen=True)
class Window:
    """How output positions along one axis see the input."""

    size: int
    """Input positions"""
    outputs: int
    kernel: int
    stride: int
    pad: int
    dilation: int

    @property
    def leaves(self) -> bool:
        """Whether some window reaches into the padding."""
        return self.pad > 0 or (self.outputs - 1) * self.stride - self.pad + (self.kernel - 1) * self.dilation >= self.size

    @property
    def reaches(self) -> bool:
        """Whether every window has a tap inside the input."""
        taps = np.arange(self.outputs)[:, None] * self.stride - self.pad + np.arange(self.kernel) * self.dilation
        return bool(((taps >= 0) & (taps < self.size)).any(axis=1).all())

    def taps(self, position: Expr) -> tuple[Expr, Expr]:
        """First tap and one past the last tap that read inside the input at output `position`."""
        start = position * self.stride - self.pad
        reach = (self.outputs - 1) * self.stride - self.pad + (self.kernel - 1) * self.dilation
        first = 0 if self.pad == 0 else T.max(0, T.floordiv(self.dilation - 1 - start, self.dilation))
        last = self.kernel if reach < self.size else T.min(self.kernel, T.floordiv(self.size - start + self.dilation - 1, self.dilation))
        return first, last


@dataclass(frozen=True)
class Grid:
    """A tensor seen as N, C, H, W (H is 1 for rank 3): sizes and element strides."""

    sizes: tuple[int, int, int, int]
    steps: tuple[int, int, int, int]


def grid(tensor: Tensor) -> Grid:
    """`tensor` of rank 3 (N, C, W) or 4."""
    sizes, steps = list(tensor.shape), list(strides(tensor))
    if len(sizes) == 3:
        sizes.insert(2, 1)
        steps.insert(2, 0)
    return Grid(tuple(sizes), tuple(steps))  # type: ignore[arg-type]


def pool(op: Pool, x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """`op` on the codes of `x`; see program.Pool, numerics.max_pool and numerics.average_pool."""
    source, result = grid(x), grid(y)
    rows, columns = (_window(op, source, result, axis) for axis in (0, 1))
    average = op.kind == "average"
    scalars = np.array(output_bounds(y.zero_point if average else 0, op.low, op.high), np.float32)
    multiplier = np.asarray(op.multiplier, np.float32).reshape(-1)
    zeros = np.array([x.zero_point, y.zero_point], np.int32)
    bounds = np.array([op.low, op.high, y.zero_point], y.dtype)
    constants: tuple[np.ndarray, ...] = (scalars, multiplier, zeros, bounds) if average else (bounds,)
    few = op.kernel[0] * op.kernel[1] <= UNROLLED
    if average:
        inside = few and not (rows.leaves or columns.leaves)
        short = op.kernel[0] * op.kernel[1] <= SHORT_WINDOW and not x.is_long
        emit: _Average | _Max = _Average(multiplier.size > 1, inside, short, y.dtype)
    else:
        emit = _Max(few and rows.reaches and columns.reaches, x.dtype)

    def body(a: Expr, *rest: Expr) -> None:
        with loop(result.sizes[0] * result.sizes[2], x.shape[1] * columns.outputs * rows.kernel * columns.kernel) as i:
            n, oy = T.floordiv(i, result.sizes[2]), T.floormod(i, result.sizes[2])
            with T.serial(0, columns.outputs) as ox:
                for first, repeats, width in (
                    pieces(result.sizes[1], (8, 4, 2, 1) if x.is_long else (16, 8, 4, 2, 1))
                    if source.steps[1] == 1 == result.steps[1]
                    else [(0, result.sizes[1], 1)]
                ):
                    with T.serial(0, repeats) as block:
                        c = first + block * width
                        start = n * source.steps[0] + c * source.steps[1]
                        value = emit(a, start, (rows, columns), (oy, ox), (source.steps[2], source.steps[3]), width, rest[:-1])
                        at = n * result.steps[0] + c * result.steps[1] + oy * result.steps[2] + ox * result.steps[3]
                        store(rest[-1], at, value, width)

    names = [f"c{i}" for i in range(len(constants))]
    params = [
        Param("x", physical_shape(x), x.dtype),
        *(param(n, c) for n, c in zip(names, constants, strict=True)),
        Param("y", physical_shape(y), y.dtype),
    ]
    name = symbol(op.kind, "pool", *types(x, y), physical_shape(x), op.kernel, op.strides, op.pads, op.dilations, multiplier.size)
    return Kernel(name, function(name, params, body), constants, physical_shape(y), y.dtype, 0)


def _window(op: Pool, source: Grid, result: Grid, axis: int) -> Window:
    return Window(source.sizes[2 + axis], result.sizes[2 + axis], op.kernel[axis], op.strides[axis], op.pads[axis], op.dilations[axis])


UNROLLED = 25
"""Taps of a window up to which its loads are written out one by one"""


@dataclass(frozen=True)
class _Max:
    """Emits the largest code of one window, clamped."""

    unrolled: bool
    dtype: str

    def __call__(
        self, a: Expr, start: Expr, axes: tuple[Window, Window], at: tuple[Expr, Expr], steps: tuple[int, int], width: int, rest: tuple[Expr, ...]
    ) -> Expr:
        if self.unrolled:
            value = self._written_out(a, start, axes, at, steps, width)
        else:
            largest = registers(width, self.dtype)
            store(largest, 0, splat(tirx.min_value(self.dtype), width), width)
            with Taps(axes, at, steps) as offset:
                store(largest, 0, T.max(load(largest, 0, width), load(a, start + offset, width)), width)
            value = load(largest, 0, width)
        return T.min(T.max(value, splat(rest[0][0], width)), splat(rest[0][1], width))

    def _written_out(self, a: Expr, start: Expr, axes: tuple[Window, Window], at: tuple[Expr, Expr], steps: tuple[int, int], width: int) -> Expr:
        """A tap in the padding reads the nearest tap inside instead: a maximum does not mind seeing a code twice."""
        rows, columns = ([bind(offset) for offset in _clamped(*each)] for each in zip(axes, at, steps, strict=True))
        values = [load(a, start + row + column, width) for row in rows for column in columns]
        while len(values) > 1:
            values = [T.max(*values[i : i + 2]) if i + 1 < len(values) else values[i] for i in range(0, len(values), 2)]
        return values[0]


def _clamped(axis: Window, position: Expr, step: int) -> list[Expr]:
    """Element offsets of all taps along one axis, those outside the input moved to the nearest tap inside."""
    first, last = axis.taps(position)
    taps = [T.max(first, T.min(T.int32(k), last - 1)) if axis.leaves else T.int32(k) for k in range(axis.kernel)]
    return [(position * axis.stride - axis.pad + tap * axis.dilation) * step for tap in taps]


@dataclass(frozen=True)
class _Average:
    """Emits the requantized sum of one window."""

    per_position: bool
    unrolled: bool
    short: bool
    """Sums fit int16"""
    dtype: str
    """Of the codes written"""

    def __call__(
        self, a: Expr, start: Expr, axes: tuple[Window, Window], at: tuple[Expr, Expr], steps: tuple[int, int], width: int, rest: tuple[Expr, ...]
    ) -> Expr:
        scalars, multiplier, zeros, bounds = rest
        (y0, y1), (x0, x1) = axes[0].taps(at[0]), axes[1].taps(at[1])
        total = self._sum(a, start, axes, at, steps, width)
        centred = cast(total, "int32", width) - splat(bind(zeros[0] * ((y1 - y0) * (x1 - x0))), width)
        m = multiplier[at[0] * axes[1].outputs + at[1]] if self.per_position else multiplier[0]
        return codes(cast(centred, "float32", width) * splat(m, width), scalars[0], scalars[1], bounds[2], width, self.dtype)

    def _sum(self, a: Expr, start: Expr, axes: tuple[Window, Window], at: tuple[Expr, Expr], steps: tuple[int, int], width: int) -> Expr:
        dtype = "int16" if self.short else "int32"
        if self.unrolled:
            rows, columns = ([bind(offset) for offset in _clamped(*each)] for each in zip(axes, at, steps, strict=True))
            values = [cast(load(a, start + row + column, width), dtype, width) for row in rows for column in columns]
            return bind(sum(values[1:], values[0]))
        total = registers(width, dtype)
        store(total, 0, splat(T.cast(0, dtype), width), width)
        with Taps(axes, at, steps) as offset:
            store(total, 0, load(total, 0, width) + cast(load(a, start + offset, width), dtype, width), width)
        return bind(load(total, 0, width))


class Taps:
    """Loops over the taps that lie inside the input; enters with the element offset of the tap."""

    def __init__(self, axes: tuple[Window, Window], at: tuple[Expr, Expr], steps: tuple[int, int]) -> None:
        self.axes, self.at, self.steps = axes, at, steps
        self.frames: list[Any] = []
        self.taps: list[Expr] = []

    def __enter__(self) -> Expr:
        offsets: list[Expr] = []
        for axis, position, step in zip(self.axes, self.at, self.steps, strict=True):
            frame = T.serial(*axis.taps(position))
            tap = frame.__enter__()
            self.frames.append(frame)
            self.taps.append(tap)
            offsets.append((position * axis.stride - axis.pad + tap * axis.dilation) * step)
        return offsets[0] + offsets[1]

    def __exit__(self, *error: object) -> None:
        for frame in reversed(self.frames):
            frame.__exit__(*error)
