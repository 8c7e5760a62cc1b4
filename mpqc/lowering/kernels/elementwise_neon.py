"""Binary operations and tables on sixteen codes at a time with NEON."""

from __future__ import annotations

from dataclasses import dataclass

from mpqc.lowering.kernels.narrow import Narrower, Narrowing, part, real
from mpqc.lowering.kernels.tir import MAGIC_BITS, Expr, T, bind, byte, cast, exact, intrinsic, load, splat

LANES = 16


@dataclass(frozen=True)
class Operand:
    """Where one operand's codes come from."""

    buffer: Expr
    step: int
    """Elements between neighbours in the innermost loop; 0: one code for all of it"""
    zero: Expr
    multiplier: Expr


class Sum:
    """Add or subtract: |a * m_a +- b * m_b| rounded to codes; each operand's products once where its code does not change."""

    def __init__(self, kind: str, operands: tuple[Operand, Operand], at: list[Expr], narrower: Narrower, fused: int | None) -> None:
        self.kind, self.operands, self.narrower, self.fused = kind, operands, narrower, fused
        self.biases = [bind(splat(T.int32(MAGIC_BITS) - o.zero, 4)) for o in operands]
        self.multipliers = [bind(splat(o.multiplier, 4)) for o in operands]
        self.fixed = [self._fixed(o, start) if o.step == 0 else None for o, start in zip(operands, at, strict=True)]

    @staticmethod
    def _fixed(o: Operand, at: Expr) -> Expr:
        centred = cast(o.buffer[at], "int32", 1) - o.zero
        return bind(splat(exact(cast(centred, "float32", 1) * o.multiplier, 1), 4))

    def codes(self, at: list[Expr]) -> Expr:
        """int8x16."""
        if self.fused is not None:
            return self._fused_codes(at, self.fused)
        a, b = (self._products(i, start) for i, start in enumerate(at))
        return self.narrower.codes([x - y if self.kind == "sub" else x + y for x, y in zip(a, b, strict=True)])

    def _fused_codes(self, at: list[Expr], first: int) -> Expr:
        """The sum where the product of operand `first` need not be rounded before it is added."""
        rounded, multiplier = self._products(1 - first, at[1 - first]), self.multipliers[first]
        reals = self._reals(first, at[first])
        return self.narrower.codes([intrinsic("llvm.fma", "float32x4", x, multiplier, y) for x, y in zip(reals, rounded, strict=True)])

    def _reals(self, index: int, at: Expr) -> list[Expr]:
        """Sixteen codes less their zero point."""
        halves = _shorts(self.operands[index], at)
        return [real(cast(part(half, i, 4), "int32", 4) + self.biases[index]) for half in halves for i in (0, 4)]

    def _products(self, index: int, at: Expr) -> list[Expr]:
        fixed = self.fixed[index]
        if fixed is not None:
            return [fixed] * 4
        return [exact(value * self.multipliers[index], 4) for value in self._reals(index, at)]


class Product:
    """Multiply: the integer product, then one float multiplication."""

    def __init__(self, operands: tuple[Operand, Operand], at: list[Expr], narrower: Narrower) -> None:
        self.operands, self.narrower = operands, narrower
        self.zeros = [bind(splat(cast(o.zero, "int16", 1), 8)) for o in operands]
        self.multiplier = bind(splat(operands[0].multiplier, 4))
        self.fixed = [self._centred(i, start) if o.step == 0 else None for i, (o, start) in enumerate(zip(operands, at, strict=True))]

    def _centred(self, index: int, at: Expr) -> list[Expr]:
        return [bind(half - self.zeros[index]) for half in _shorts(self.operands[index], at)]

    def codes(self, at: list[Expr]) -> Expr:
        """int8x16."""
        a, b = (self._centred(i, start) if fixed is None else fixed for i, (start, fixed) in enumerate(zip(at, self.fixed, strict=True)))
        pairs = [(cast(part(x, i, 4), "int32", 4), cast(part(y, i, 4), "int32", 4)) for x, y in zip(a, b, strict=True) for i in (0, 4)]
        return self.narrower.codes([real(x * y + splat(T.int32(MAGIC_BITS), 4)) * self.multiplier for x, y in pairs])


def _shorts(o: Operand, at: Expr) -> list[Expr]:
    """Sixteen codes as two int16x8: two loads of eight bytes, as LLVM makes long shuffles of a wider one."""
    return [bind(cast(load(o.buffer, at + i * o.step, 8, o.step), "int16", 8)) for i in (0, 8)]


def largest(kind: str, zeros: tuple[int, int], m_a: float, m_b: float) -> float:
    """Bound of the real result in output steps."""
    a, b = (max(127 - zero, zero + 128) for zero in zeros)
    return abs(a * b * m_a) if kind == "mul" else abs(a * m_a) + abs(b * m_b)


def arithmetic(
    kind: str, operands: tuple[Operand, Operand], at: list[Expr], narrowing: Narrowing, constants: tuple[Expr, ...], fused: int | None = None
) -> Sum | Product:
    """Binds the constants of one innermost loop whose operands start `at`. fused: the operand whose product need not be rounded."""
    narrower = Narrower(narrowing, constants[0], constants[1], constants[2], LANES)
    return Product(operands, at, narrower) if kind == "mul" else Sum(kind, operands, at, narrower, fused)


def look_up(x: Expr, rows: list[Expr]) -> Expr:
    """entries[x + 128] of sixteen codes: four 64-byte TBL/TBX, where an index outside 0..63 leaves the result as it was."""
    unsigned = bind(x + splat(byte(128), LANES))
    found = intrinsic("llvm.aarch64.neon.tbl4.v16i8", "int8x16", *rows[:4], unsigned)
    for i in (1, 2, 3):
        index = unsigned - splat(byte(64 * i), LANES)
        found = intrinsic("llvm.aarch64.neon.tbx4.v16i8", "int8x16", found, *rows[4 * i : 4 * i + 4], index)
    return found
