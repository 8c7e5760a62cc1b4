"""Small words for writing PrimFuncs with TVM's IR builder: functions, vectors, exact float steps and loop nests.

Every helper works for any CPU and gives the same bits on all of them; LLVM turns the vectors into NEON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

Expr = Any
"""A TIR expression (tvm.tirx.PrimExpr) or a Python number."""

MAGIC = 12582912.0
"""1.5 * 2^23: adding it to a float32 below 2^22 leaves round-half-even(x) in the low bits of the mantissa."""
MAGIC_BITS = 0x4B400000
PARALLEL_WORK = 1 << 14
"""Elements below which starting threads costs more than it saves."""


@dataclass(frozen=True)
class Param:
    """One buffer of a PrimFunc."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Elements."""
        return int(np.prod(self.shape, dtype=np.int64))


def param(name: str, array: np.ndarray) -> Param:
    """The parameter that takes the constant `array`."""
    return Param(name, array.shape, array.dtype.name)


def function(name: str, params: Sequence[Param], body: Callable[..., None]) -> tirx.PrimFunc:
    """A PrimFunc whose `body` is called with one flat buffer a parameter and emits the statements."""
    with IRBuilder() as builder, T.prim_func(is_private=False, s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tir.noalias": True})
        buffers = [T.arg(p.name, T.buffer(p.shape, p.dtype, align=1)) for p in params]
        with T.sblock("kernel"):
            T.reads()
            T.writes()
            body(*(_flat(buffer, p) for buffer, p in zip(buffers, params, strict=True)))
    return builder.get()


def _flat(buffer: tirx.Buffer, p: Param) -> tirx.Buffer:
    return buffer if len(p.shape) == 1 else T.decl_buffer((p.size,), p.dtype, data=buffer.data)


def symbol(*parts: object) -> str:
    """A name legal in C made of `parts`; tuples are joined with x, minus becomes m."""
    words = ("x".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in parts)
    return re.sub(r"\W", "_", "_".join(words).replace("-", "m"))


def registers(size: int, dtype: str) -> tirx.Buffer:
    """A scratch array below 1 KiB that is only indexed by constants: LLVM keeps it in registers."""
    return T.alloc_buffer((size,), dtype, scope="global")


def ramp(start: Expr, lanes: int, stride: int = 1) -> Expr:
    """Index of `lanes` elements from `start`."""
    if lanes == 1:
        return start
    return T.broadcast(start, lanes) if stride == 0 else T.ramp(start, stride, lanes)


def load(buffer: tirx.Buffer, start: Expr, lanes: int, stride: int = 1) -> Expr:
    """Vector of `lanes` elements of `buffer` from `start`; stride 0 repeats one element."""
    if stride == 0:
        return splat(buffer[start], lanes)
    return buffer[ramp(start, lanes, stride)]


def store(buffer: tirx.Buffer, start: Expr, value: Expr, lanes: int, stride: int = 1) -> None:
    """Writes the vector `value` from `start` on."""
    T.buffer_store(buffer, value, [ramp(start, lanes, stride)])


def splat(value: Expr, lanes: int) -> Expr:
    """`lanes` copies of a scalar."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def typed(dtype: str, lanes: int) -> str:
    """Name of the vector type: `int8x16`."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def cast(value: Expr, dtype: str, lanes: int) -> Expr:
    """Conversion lane by lane."""
    return T.cast(value, typed(dtype, lanes))


def reinterpret(value: Expr, dtype: str, lanes: int) -> Expr:
    """The same bits as another type."""
    return T.reinterpret(value, dtype=typed(dtype, lanes))


def joined(parts: Sequence[Expr], lanes: int) -> Expr:
    """Vectors of `lanes` elements, end to end."""
    return T.Shuffle(list(parts), [tirx.IntImm("int32", i) for i in range(lanes * len(parts))])


def intrinsic(name: str, dtype: str, *args: Expr) -> Expr:
    """A call of the LLVM intrinsic `name`."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *args, dtype=dtype)


def exact(value: Expr, lanes: int) -> Expr:
    """`value` (float32), kept from being merged into a fused multiply-add with what follows."""
    return intrinsic("llvm.arithmetic.fence", typed("float32", lanes), value)


def clamp(value: Expr, low: Expr, high: Expr, lanes: int) -> Expr:
    """float32 clamp to scalars low and high; NaN gives low."""
    dtype = typed("float32", lanes)
    return intrinsic("llvm.minnum", dtype, intrinsic("llvm.maxnum", dtype, value, splat(low, lanes)), splat(high, lanes))


def codes(value: Expr, low: Expr, high: Expr, zero: Expr, lanes: int, dtype: str = "int8") -> Expr:
    """Codes clamp(rne(value) + z) of type int8 or int16: `low` and `high` are the bounds less z as float32, `zero` is z in that type.

    Bounds are integers, so clamping before rounding changes nothing; then the low byte (two bytes) of value + MAGIC is rne(value) modulo 2^8 (2^16).
    z is added afterwards: MAGIC + z would round to the wrong side of a tie where z is odd.
    """
    bits = reinterpret(clamp(value, low, high, lanes) + splat(T.float32(MAGIC), lanes), "int32", lanes)
    return cast(bits, dtype, lanes) + splat(zero, lanes)


def output_bounds(zero_point: int, low: int, high: int) -> tuple[float, float]:
    """What `codes` takes as bounds for an output with this zero point and these extreme codes."""
    return float(low - zero_point), float(high - zero_point)


def byte(value: int) -> Expr:
    """The int8 with the low eight bits of `value`."""
    return T.int8((value + 128) % 256 - 128)


def bind(value: Expr) -> Expr:
    """`value` computed here once."""
    return T.Bind(value)


def loop(count: int, work: int) -> Any:
    """A loop over `count` steps of `work` elements each, on all threads where that pays."""
    return T.parallel(0, count) if count > 1 and count * work >= PARALLEL_WORK else T.serial(0, count)


def pieces(count: int, widths: Sequence[int] = (16, 8, 4, 2, 1)) -> list[tuple[int, int, int]]:
    """`count` elements as (first element, repeats, vector width), widest first."""
    found, at = [], 0
    for width in widths:
        repeats = (count - at) // width
        if repeats:
            found.append((at, repeats, width))
            at += repeats * width
    return found


@dataclass(frozen=True)
class Nest:
    """Loops over a grid: `sizes`, outermost first, and for each tensor its element strides along them."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def merged(self) -> Nest:
        """The same walk with as few loops as possible: size-1 loops dropped, neighbours joined where every tensor allows it."""
        sizes: list[int] = []
        columns: list[tuple[int, ...]] = []
        for size, column in zip(self.sizes, zip(*self.strides, strict=True), strict=True):
            if size == 1:
                continue
            if columns and all(outer == inner * size for outer, inner in zip(columns[-1], column, strict=True)):
                sizes[-1], columns[-1] = sizes[-1] * size, column
            else:
                sizes.append(size)
                columns.append(column)
        if not sizes:
            return Nest((1,), tuple((0,) for _ in self.strides))
        return Nest(tuple(sizes), tuple(zip(*columns, strict=True)))

    def emit(
        self,
        body: Callable[..., None],
        prepare: Callable[[list[Expr]], Any] = lambda _: None,
        *,
        widths: Sequence[int] = (16, 8, 4, 2, 1),
        threads: bool = True,
    ) -> None:
        """Emits the loops; `body(width, offsets, steps, prepared)` handles `width` elements of the innermost loop from `offsets`, `steps` apart.

        `prepare(offsets)` emits what comes before each innermost loop (constants bound to registers); its result is `prepared`.
        The outermost of several loops runs on all threads where that pays, unless `threads` is False.
        """
        nest = self.merged.chunked if threads else self.merged
        nest._outer(0, [0] * len(self.strides), lambda offsets: nest._inner(offsets, body, prepare(offsets), widths), threads)

    def offsets(self, index: Expr) -> list[Expr]:
        """Offsets in every tensor of step `index` of the walk."""
        totals: list[Expr] = [0 for _ in self.strides]
        for axis in reversed(range(len(self.sizes))):
            digit = T.floormod(index, self.sizes[axis])
            index = T.floordiv(index, self.sizes[axis])
            totals = [total + digit * s[axis] for total, s in zip(totals, self.strides, strict=True)]
        return totals

    @property
    def chunked(self) -> Nest:
        """One long loop split so that threads can share it."""
        if len(self.sizes) > 1 or self.sizes[0] < 2 * PARALLEL_WORK:
            return self
        size = next((d for d in range(4096, 255, -1) if self.sizes[0] % d == 0), 0)
        if not size:
            return self
        return Nest((self.sizes[0] // size, size), tuple((s[0] * size, s[0]) for s in self.strides))

    def _outer(self, axis: int, offsets: list[Expr], inner: Callable[[list[Expr]], None], threads: bool) -> None:
        if axis == len(self.sizes) - 1:
            inner(offsets)
            return
        work = int(np.prod(self.sizes[axis + 1 :]))
        with loop(self.sizes[axis], work) if threads and axis == 0 else T.serial(0, self.sizes[axis]) as i:
            self._outer(axis + 1, [o + i * s[axis] for o, s in zip(offsets, self.strides, strict=True)], inner, threads)

    def _inner(self, offsets: list[Expr], body: Callable[..., None], prepared: Any, widths: Sequence[int]) -> None:
        steps = [s[-1] for s in self.strides]
        for first, repeats, width in pieces(self.sizes[-1], widths):
            with T.serial(0, repeats) as i:
                body(width, [o + (first + i * width) * step for o, step in zip(offsets, steps, strict=True)], steps, prepared)
