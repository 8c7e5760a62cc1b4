"""Small pieces of TIR that every kernel uses: vectors, copies, and the AArch64 instructions LLVM has to be told by name.

All of it is called inside a TVM IRBuilder; buffers are flat, offsets are expressions in elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

Expr = Any
"""A tirx expression or a Python int"""
Buffer = Any


def ramp(start: Expr, lanes: int) -> Expr:
    """The index of `lanes` neighbours from `start`."""
    return start if lanes == 1 else tirx.Ramp(tirx.convert(start), tirx.IntImm("int32", 1), lanes)


def load(buffer: Buffer, start: Expr, lanes: int) -> Expr:
    """`lanes` neighbouring elements as one vector."""
    return buffer[ramp(start, lanes)]


def store(buffer: Buffer, start: Expr, lanes: int, value: Expr) -> None:
    """Writes one vector to neighbouring elements."""
    T.buffer_store(buffer, value, [ramp(start, lanes)])


def splat(value: Expr, lanes: int) -> Expr:
    """A vector of equal lanes."""
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def bits(value: Expr, dtype: str) -> Expr:
    """The same bits as another type."""
    return T.reinterpret(dtype, value)


def joined(parts: Sequence[Expr], lanes: int) -> Expr:
    """Vectors of `lanes` each, end to end."""
    return parts[0] if len(parts) == 1 else tirx.Shuffle(list(parts), list(range(lanes * len(parts))))


def neon(name: str, dtype: str, *operands: Expr) -> Expr:
    """A pure AArch64 vector instruction by its LLVM name, e.g. `sqxtn.v8i8`."""
    return T.call_llvm_pure_intrin(dtype, f"llvm.aarch64.neon.{name}", *operands)


def store_run(buffer: Buffer, start: Expr, values: Sequence[Expr], *, paired: bool) -> None:
    """int8x16 vectors to neighbouring places. paired: two by two by ST1 (AArch64)."""
    if not paired:
        for n, value in enumerate(values):
            store(buffer, start + n * 16, 16, value)
        return
    for n in range(0, len(values), 2):
        place = buffer.access_ptr("w", offset=start + n * 16)
        T.evaluate(T.call_llvm_intrin("void", "llvm.aarch64.neon.st1x2.v16i8.p0", values[n], values[n + 1], place))


def scratch(size: int, dtype: str, align: int = 64) -> Buffer:
    """A temporary: registers or stack when small and indexed by constants, else workspace memory."""
    return T.alloc_buffer((size,), dtype, align=align)


def copy(target: Buffer, target_at: Expr, source: Buffer, source_at: Expr, count: int) -> None:
    """`count` bytes from one int8 buffer to another; never touches a byte outside."""
    vectors = count // 16
    if vectors:
        with T.serial(vectors) as v:
            store(target, target_at + v * 16, 16, load(source, source_at + v * 16, 16))
    _rest(count, lambda at, lanes: store(target, target_at + at, lanes, load(source, source_at + at, lanes)))


def fill(target: Buffer, target_at: Expr, value: Expr, count: int) -> None:
    """`count` bytes of an int8 buffer set to the scalar `value`."""
    vectors = count // 16
    if vectors:
        with T.serial(vectors) as v:
            store(target, target_at + v * 16, 16, splat(value, 16))
    _rest(count, lambda at, lanes: store(target, target_at + at, lanes, splat(value, lanes)))


@dataclass(frozen=True)
class Planes:
    """A copy of int16 codes x = 256 h + l + 128 as two int8 ones: h from the start, l from `second` on."""

    buffer: Buffer
    second: int

    def split(self, at: Expr, source: Buffer, source_at: Expr, count: int) -> None:
        """`count` codes of an int16 buffer to place `at` of both planes; never touches one outside."""
        vectors = count // 16
        if vectors:
            with T.serial(vectors) as v:
                self._store(at + v * 16, load(source, source_at + v * 16, 16), 16)
        _rest(count, lambda offset, lanes: self._store(at + offset, load(source, source_at + offset, lanes), lanes))

    def fill(self, at: Expr, code: Expr, count: int) -> None:
        """`count` places of both planes set to the int16 scalar `code`."""
        fill(self.buffer, at, self._high(code, 1), count)
        fill(self.buffer, at + self.second, self._low(code, 1), count)

    def _store(self, at: Expr, codes: Expr, lanes: int) -> None:
        store(self.buffer, at, lanes, self._high(codes, lanes))
        store(self.buffer, at + self.second, lanes, self._low(codes, lanes))

    @staticmethod
    def _high(codes: Expr, lanes: int) -> Expr:
        return T.cast(T.shift_right(codes, splat(T.int16(8), lanes)), _bytes(lanes))

    @staticmethod
    def _low(codes: Expr, lanes: int) -> Expr:
        return T.bitwise_xor(T.cast(codes, _bytes(lanes)), splat(T.int8(-128), lanes))


def _bytes(lanes: int) -> str:
    return "int8" if lanes == 1 else f"int8x{lanes}"


def _rest(count: int, move: Any) -> None:
    """The bytes after the last whole vector: one more vector that overlaps, or single bytes where there is no whole one."""
    if count % 16 == 0:
        return
    if count > 16:
        move(count - 16, 16)
        return
    at = 0
    for lanes in (8, 4, 2, 1):
        if count & lanes:
            move(at, lanes)
            at += lanes


def flat(buffer: Buffer) -> Buffer:
    """The same memory with one index."""
    size = 1
    for extent in buffer.shape:
        size *= int(extent)
    return T.decl_buffer((size,), buffer.dtype, data=buffer.data)
