"""Data movement: any fixed permutation or selection of elements, concatenation and padding, for every element type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpqc.lowering.kernels.elementwise import TABLE_FORMS
from mpqc.lowering.kernels.elementwise_neon import LANES, look_up
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.layout import order, physical_shape, reordered, strides
from mpqc.lowering.kernels.tir import Expr, Nest, Param, T, bind, cast, function, load, loop, param, splat, store, symbol
from mpqc.lowering.kernels.walk import Walk, emit_transposition, transposition, walk, written
from mpqc.values.program import Concat, Move, Pad, Tensor


def positions(tensor: Tensor) -> np.ndarray:
    """Offset in memory of every element, in ONNX order: int64 of the tensor's shape."""
    grids = np.ix_(*(np.arange(size, dtype=np.int64) * step for size, step in zip(tensor.shape, strides(tensor), strict=True)))
    return np.asarray(sum(grids, np.zeros(tensor.shape, np.int64)))


def source_of(op: Move, x: Tensor, y: Tensor) -> np.ndarray:
    """For each element of `y` as it lies in memory, the offset in `x` that it comes from: int64 [elements]."""
    index = np.arange(int(np.prod(y.shape)), dtype=np.int64) if op.index is None else op.index.reshape(-1)
    return positions(x).reshape(-1)[index].reshape(y.shape).transpose(order(y)).reshape(-1)


def is_view(op: Move, x: Tensor, y: Tensor) -> bool:
    """Whether `op` leaves the bytes as they are, so that no kernel is needed."""
    source = source_of(op, x, y)
    return int(np.prod(x.shape)) == source.size and bool((source == np.arange(source.size)).all())


def move(op: Move, x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """out.flat = in.flat[index] in ONNX order, between the memory layouts of `x` and `y`."""
    return _gather(symbol("move", x.dtype, physical_shape(x), physical_shape(y)), walk(source_of(op, x, y)), x, y)


def relayout(x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """The same values in another memory layout: `x` and `y` have one shape and type, one of them NHWC."""
    return move(Move("relayout", (x.name,), (y.name,), "Identity"), x, y, target)


def _gather(name: str, path: Walk, x: Tensor, y: Tensor) -> Kernel:
    """Copies runs of elements; the output is written in order."""
    sizes, inner = path.sizes or (1,), int(np.prod(path.sizes, dtype=np.int64))
    nest = Nest(sizes, (written(sizes), path.steps or (0,)))
    table = path.starts.astype(np.int32)
    affine = table.size == 1
    columns = transposition(path) if np.dtype(x.dtype).itemsize == 1 and x.dtype != "bool" else None

    def body(source: Expr, *rest: Expr) -> None:
        def runs(base: Expr, start: Expr, threads: bool) -> None:
            def copy(width: int, at: list[Expr], by: list[int], _: None) -> None:
                pairs = by[1] == 2 and width >= EVERY_SECOND and np.dtype(x.dtype).itemsize == 1 and x.dtype != "bool"
                values = every_second(source, at[1] + start, width) if pairs else load(source, at[1] + start, width, by[1])
                store(rest[-1], at[0] + base, values, width, by[0])

            if columns is None:
                nest.emit(copy, widths=_widths(x.dtype), threads=threads)
            else:
                emit_transposition(nest, columns, source, start, rest[-1], base, threads)

        if affine:
            runs(0, int(table[0]), True)
            return
        with loop(table.size, inner) as i:
            runs(i * inner, bind(rest[0][i]), False)

    constants = () if affine else (table,)
    name = symbol(name, path.sizes, path.steps, int(table[0]) if affine else f"table{table.size}")
    params = [Param("x", physical_shape(x), x.dtype), *(param("starts", c) for c in constants), Param("y", physical_shape(y), y.dtype)]
    return Kernel(name, function(name, params, body), constants, physical_shape(y), y.dtype, 0)


EVERY_SECOND = 8
"""Lanes from which on a vector of every second element is put together from two loads"""


def every_second(source: Expr, start: Expr, lanes: int) -> Expr:
    """Elements start, start + 2, ... of `source`: even lanes of one load and odd lanes of another, which ends with the last element."""
    halves = [bind(load(source, start, lanes)), bind(load(source, start + lanes - 1, lanes))]
    return T.Shuffle(halves, [*range(0, lanes, 2), *range(lanes + 1, 2 * lanes, 2)])


def _widths(dtype: str) -> tuple[int, ...]:
    """Vector widths for copies: at most 16 bytes; bool, which LLVM packs, one by one."""
    size = np.dtype(dtype).itemsize
    return (1,) if dtype == "bool" else tuple(w for w in (16, 8, 4, 2, 1) if w * size <= 16)


ENTRIES = 256


@dataclass(frozen=True)
class Entries:
    """A table of 256 codes among those in `tables`."""

    tables: Expr
    start: int
    in_registers: bool
    """Whether the target looks up sixteen codes at once"""

    def rows(self, length: int) -> list[Expr]:
        """The table in sixteen registers, for loops of `length` steps; empty where they are too short or the target does without."""
        if not self.in_registers or length < LANES:
            return []
        return [bind(load(self.tables, self.start + LANES * i, LANES)) for i in range(ENTRIES // LANES)]

    def of(self, codes: Expr, width: int, rows: list[Expr]) -> Expr:
        """The entries of `width` codes; `rows` is what `rows()` gave."""
        if rows and width == LANES:
            return look_up(codes, rows)
        return self.tables[cast(codes, "int32", width) + splat(self.start + ENTRIES // 2, width)]


@dataclass(frozen=True)
class Part:
    """A box of one tensor copied to a box of another: sizes, strides and offsets in memory order of the output."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], tuple[int, ...]]
    """Of the output, of the input"""
    starts: tuple[int, int]

    def emit(self, out: Expr, source: Expr, dtype: str, entries: Entries | None = None) -> None:
        """Emits the copy, of what `entries` has for the codes where it is given."""

        def copy(width: int, at: list[Expr], by: list[int], rows: list[Expr]) -> None:
            value = load(source, at[1] + self.starts[1], width, by[1])
            store(out, at[0] + self.starts[0], value if entries is None else entries.of(value, width, rows), width, by[0])

        if all(self.sizes):
            nest = Nest(self.sizes, self.strides)
            nest.emit(copy, lambda _: [] if entries is None else entries.rows(nest.merged.sizes[-1]), widths=_widths(dtype))


def _part(shape: Sequence[int], y: Tensor, x: Tensor, to: Sequence[int], come: Sequence[int]) -> Part:
    """The box of `shape` at `come` in `x`, put at `to` in `y` (all in ONNX order)."""
    starts = [sum(i * step for i, step in zip(corner, strides(t), strict=True)) for corner, t in ((to, y), (come, x))]
    return Part(reordered(tuple(shape), y), (reordered(strides(y), y), reordered(strides(x), y)), (starts[0], starts[1]))


def concat(op: Concat, xs: Sequence[Tensor], y: Tensor, target: KernelTarget) -> Kernel:
    """`xs` one after the other along `op.axis`, through their tables where they have any; all of one type and layout."""
    axis = op.axis % len(y.shape)
    tables = [(index, table) for index in range(len(xs)) if (table := op.table(index)) is not None]
    places = {index: place for place, (index, _) in enumerate(tables)}
    constants = (np.concatenate([table for _, table in tables]).astype(np.int8),) if tables else ()
    parts, at = [], 0
    for x in xs:
        corner = tuple(at if i == axis else 0 for i in range(len(y.shape)))
        parts.append(_part(x.shape, y, x, corner, (0,) * len(y.shape)))
        at += x.shape[axis]

    def body(*buffers: Expr) -> None:
        for index, (part, source) in enumerate(zip(parts, buffers, strict=False)):
            entries = Entries(buffers[len(xs)], ENTRIES * places[index], target.code("table", TABLE_FORMS)) if index in places else None
            part.emit(buffers[-1], source, y.dtype, entries)

    inputs = [Param(f"x{i}", physical_shape(x), x.dtype) for i, x in enumerate(xs)]
    params = [*inputs, *(param("tables", values) for values in constants), Param("y", physical_shape(y), y.dtype)]
    name = symbol("concat", y.dtype, physical_shape(y), order(y).index(axis), *(x.shape[axis] for x in xs), *(f"t{index}" for index in places))
    return Kernel(name, function(name, params, body), constants, physical_shape(y), y.dtype, 0)


def pad(op: Pad, x: Tensor, y: Tensor, target: KernelTarget) -> Kernel:
    """`x` inside a box of `op.value`; negative pads crop."""
    rank = len(x.shape)
    begins, value = op.pads[:rank], np.array([op.value], y.dtype)
    come, to = tuple(max(-b, 0) for b in begins), tuple(max(b, 0) for b in begins)
    sizes = [max(0, min(x.shape[i] - come[i], y.shape[i] - to[i])) for i in range(rank)]
    part = _part(sizes, y, x, to, come)

    def body(source: Expr, v: Expr, out: Expr) -> None:
        def fill(width: int, at: list[Expr], by: list[int], _: None) -> None:
            store(out, at[0], splat(v[0], width), width)

        Nest((int(np.prod(y.shape)),), ((1,),)).emit(fill, widths=_widths(y.dtype))
        part.emit(out, source, y.dtype)

    params = [Param("x", physical_shape(x), x.dtype), param("value", value), Param("y", physical_shape(y), y.dtype)]
    name = symbol("pad", y.dtype, physical_shape(x), op.pads)
    return Kernel(name, function(name, params, body), (value,), physical_shape(y), y.dtype, 0)
