"""Kernels of codes of more than 8 bits against numerics.py, bit for bit: every op, where 8 and 16 bits meet, awkward sizes, extreme codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from checking import ISAS, Expected, check, expected
from harness import core

from mpqc.lowering.kernels.conv import long_conv
from mpqc.lowering.kernels.depthwise import depthwise
from mpqc.lowering.kernels.elementwise import binary, rescale, table
from mpqc.lowering.kernels.gemm import long_gemm
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.matmul import matmul
from mpqc.lowering.kernels.move import concat, move, pad
from mpqc.lowering.kernels.pool import pool
from mpqc.lowering.kernels.quantize import dequantize, quantize
from mpqc.lowering.kernels.resize import resize
from mpqc.numerics.interpreter import interpret_op
from mpqc.values.program import (
    Binary,
    Concat,
    Conv,
    Dequantize,
    Gemm,
    MatMul,
    Move,
    Op,
    Pad,
    Pool,
    Program,
    Quantize,
    Rescale,
    Resize,
    Table,
    Tensor,
    code_dtype,
)
from mpqc.values.qtype import QParams, QType

Make = Callable[[Op, Sequence[Tensor], Tensor, KernelTarget], Kernel]
LOW, HIGH = -32768, 32767


def single(make: Callable[..., Kernel]) -> Make:
    """A kernel of one input."""
    return lambda op, x, y, target: make(op, x[0], y, target)


def tensor(name: str, shape: Sequence[int], bits: int = 16, zero: int | None = None, scale: float = 3e-4) -> Tensor:
    """Codes of `bits`; of 8 bits with 256 times the scale."""
    zero = (-1234 if bits > 8 else 5) if zero is None else zero
    step = np.float32(scale if bits > 8 else 256 * scale)
    return Tensor(name, tuple(shape), code_dtype(bits), QParams(QType(bits), step, np.int32(zero)))


def filled(of: Tensor, seed: int) -> np.ndarray:
    """Random codes of its width with the extremes among them; real values for a plain tensor."""
    rng = np.random.default_rng(seed)
    if of.qparams is None:
        return (rng.standard_normal(of.shape) * 4).astype(of.dtype)
    q = of.qparams.qtype
    values = rng.integers(q.qmin, q.qmax + 1, of.shape).astype(of.dtype)
    values.reshape(-1)[:2] = [q.qmin, q.qmax][: values.size]
    return values


@dataclass(frozen=True, eq=False)
class Step:
    """One op between tensors, and the kernel for it."""

    op: Op
    inputs: tuple[Tensor, ...]
    output: Tensor
    make: Make
    extreme: int | None = None
    """Fills the first input"""

    def on(self, isa: str, seed: int) -> Expected:
        values = {one.name: filled(one, seed + i) for i, one in enumerate(self.inputs)}
        if self.extreme is not None:
            values[self.inputs[0].name][...] = self.extreme
        tensors = {one.name: one for one in (*self.inputs, self.output)}
        found = interpret_op(Program((self.op,), tensors, self.op.inputs, self.op.outputs), self.op, values)
        kernel = self.make(self.op, self.inputs, self.output, core(isa))
        pairs = [(values[one.name], one) for one in self.inputs]
        return expected(kernel, pairs, (found[self.output.name], self.output), str(self.op.outputs))


def weights(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> np.ndarray:
    return rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape).astype(np.int8)


def folded(weight: np.ndarray, bias: np.ndarray, zero: int) -> np.ndarray:
    """As the reader stores it."""
    found = bias.astype(np.int64) - zero * weight.reshape(len(weight), -1).astype(np.int64).sum(axis=1)
    return found.astype(np.int32 if np.abs(found).max() < 2**31 else np.int64)


def conv(
    size: tuple[int, int, int],
    channels: int,
    kernel: tuple[int, int] = (1, 1),
    *,
    types: tuple[int, int] = (16, 16),
    bits: int = 8,
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    strides: tuple[int, int] = (1, 1),
    groups: int = 1,
    fill: int | None = None,
    bounds: tuple[int, int] | None = None,
    zero: int | None = None,
    extreme: int | None = None,
) -> Step:
    rng = np.random.default_rng(7)
    depth, height, width = size
    rows, columns = ((n + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i, n in enumerate((height, width)))
    x, y = tensor("x", (1, *size), types[0], zero), tensor("y", (1, channels, rows, columns), types[1])
    weight = weights(rng, (channels, depth // groups, *kernel), bits)
    weight = weight if fill is None else np.full_like(weight, fill)
    bias = rng.integers(-(10**6), 10**6, channels)
    reach = np.sqrt(weight[0].size) * (1 << (bits - 2)) * (2.0 ** (types[0] - 2)) + 1
    multiplier = (2.0 ** (types[1] - 2) / reach * rng.uniform(0.5, 1.5, channels)).astype(np.float32)
    least, most = bounds or (y.qparams.qtype.qmin, y.qparams.qtype.qmax)
    constants = (weight, bits, folded(weight, bias, x.zero_point), multiplier)
    op = Conv("conv", ("x",), ("y",), *constants, strides, pads, (1, 1), groups, least, most)
    depthwise_kernel = groups == depth > 1
    make = single(depthwise if depthwise_kernel else long_conv)
    return Step(op, (x,), y, make, extreme)


def gemm(
    shape: tuple[int, ...], width: int, types: tuple[int, int] = (16, 16), bits: int = 8, fill: int | None = None, extreme: int | None = None
) -> Step:
    one = conv((shape[-1], 1, 1), width, types=types, bits=bits, fill=fill)
    assert isinstance(one.op, Conv)
    x, y = replace(one.inputs[0], shape=shape), replace(one.output, shape=(*shape[:-1], width))
    conv_op = one.op
    op = Gemm("gemm", ("x",), ("y",), conv_op.weight[:, :, 0, 0], bits, conv_op.bias, conv_op.multiplier, conv_op.low, conv_op.high)
    return Step(op, (x,), y, single(long_gemm), extreme)


def products() -> Iterator[Step]:
    for types in ((16, 16), (16, 8), (8, 16)):
        yield conv((3, 7, 6), 10, (3, 3), types=types, pads=(1, 1, 1, 1))
    yield conv((16, 6, 5), 8, types=(12, 16))
    yield conv((32, 9, 9), 33, (3, 3), pads=(1, 0, 2, 1), strides=(2, 2), bits=4)
    yield conv((24, 5, 7), 12, bits=2, groups=2)
    yield conv((1, 1, 50), 3, (1, 5), pads=(0, 2, 0, 2))
    yield conv((5, 4, 4), 1, (2, 2), bounds=(-1234, HIGH), zero=LOW)
    yield conv((64, 3, 3), 16, (3, 3), zero=HIGH, bounds=(-300, 300))
    yield conv((20, 30, 3), 40)
    yield gemm((2, 9, 33), 17, (8, 16), 4)
    yield gemm((1, 7), 3)
    yield gemm((13, 48), 33, bits=2)


def extremes() -> Iterator[Step]:
    """Sums at and beyond what int32 holds: the second half is held in two parts."""
    for fill, extreme in ((-128, LOW), (127, LOW), (-128, HIGH), (127, HIGH)):
        yield gemm((1, 500), 9, fill=fill, extreme=extreme)
        yield gemm((5, 4096), 9, (16, 8), fill=fill, extreme=extreme)
    yield conv((512, 3, 3), 9, (3, 3), pads=(1, 1, 1, 1), fill=127, extreme=HIGH)


def depthwises() -> Iterator[Step]:
    for types in ((16, 16), (16, 8), (8, 16)):
        yield conv((19, 6, 5), 19, (3, 3), types=types, pads=(1, 1, 1, 1), groups=19)
    yield conv((3, 7, 9), 6, (5, 3), strides=(2, 1), groups=3, bits=4)
    yield conv((8, 24, 24), 8, (24, 24), groups=8, fill=127, extreme=HIGH, zero=LOW)


def elementwise() -> Iterator[Step]:
    shape = (1, 5, 3, 4)
    for kind in ("add", "sub", "mul"):
        for widths in ((16, 16, 16), (16, 8, 16), (8, 16, 8), (16, 16, 8), (8, 8, 16)):
            a, b, y = (tensor(name, shape, bits) for name, bits in zip("aby", widths, strict=True))
            factors = 0.7 * 2.0 ** (widths[2] - widths[0]), 0.4 * 2.0 ** (widths[2] - widths[1])
            if kind == "mul":
                factors = 2.0 ** (widths[2] - 1.3) / 2.0 ** (sum(widths[:2]) - 2), 1.0
            q = y.qparams.qtype
            yield Step(Binary(kind, ("a", "b"), ("y",), kind, *factors, q.qmin, q.qmax), (a, b), y, _binary)
    a, y = tensor("a", shape), tensor("y", shape)
    constant = np.arange(-2, 3, dtype=np.int8).reshape(5, 1, 1)
    yield Step(Binary("c", ("a",), ("y",), "mul", 0.4, 1.0, LOW, HIGH, constant, 1), (a,), y, _binary)
    far = tensor("a", shape, zero=LOW), tensor("b", shape, zero=LOW)
    yield Step(Binary("far", ("a", "b"), ("y",), "mul", 1e-5, 1.0, LOW, HIGH), far, y, _binary, HIGH)
    for widths in ((16, 16), (16, 8), (8, 16), (12, 16), (16, 12)):
        x, out = (tensor(name, (2, 7), bits) for name, bits in zip("xy", widths, strict=True))
        q = out.qparams.qtype
        scale = 0.8 * 2.0 ** (widths[1] - widths[0])
        yield Step(Rescale("r", ("x",), ("y",), scale, 0.0, q.qmin, q.qmax, "Requantize"), (x,), out, single(rescale))
        yield Step(Rescale("o", ("x",), ("y",), -scale, 11.5, q.qmin // 2, q.qmax, "Mul"), (x,), out, single(rescale))
        entries = np.random.default_rng(3).integers(q.qmin, q.qmax + 1, 1 << widths[0]).astype(out.dtype)
        yield Step(Table("t", ("x",), ("y",), entries, "Tanh"), (x,), out, single(table))


def _binary(op: Op, x: Sequence[Tensor], y: Tensor, target: KernelTarget) -> Kernel:
    return binary(op, x[0], x[1] if len(x) > 1 else None, y, target)


def matmuls() -> Iterator[Step]:
    for widths in ((16, 16, 16), (16, 8, 16), (8, 16, 8), (8, 8, 16)):
        for (a_shape, b_shape), zero in ((((1, 2, 3, 5, 7), (1, 2, 3, 7, 9)), None), (((6, 40), (40, 3)), -1)):
            a, b = tensor("a", a_shape, widths[0], zero), tensor("b", b_shape, widths[1], zero)
            y = tensor("y", (*a_shape[:-1], b_shape[-1]), widths[2])
            q = y.qparams.qtype
            m = 2.0 ** (widths[2] - 1) / (2.0 ** (widths[0] + widths[1] - 3) * np.sqrt(a_shape[-1]))
            yield Step(MatMul("m", ("a", "b"), ("y",), float(np.float32(m)), q.qmin, q.qmax), (a, b), y, _matmul)


def _matmul(op: Op, x: Sequence[Tensor], y: Tensor, target: KernelTarget) -> Kernel:
    return matmul(op, x[0], x[1], y, target)


def moves() -> Iterator[Step]:
    x = tensor("x", (1, 9, 6, 7))
    for kind in ("max", "average"):
        for bits, bounds in ((16, (LOW, 20000)), (8, (-128, 127))):
            if kind == "max" and bits == 8:
                continue
            y = tensor("y", (1, 9, 3, 3), bits)
            m = np.array(2.0 ** (bits - 16) / 9, np.float32)
            op = Pool(kind, ("x",), ("y",), kind, (3, 3), (2, 2), (1, 0, 0, 0), (1, 1), m, *bounds)
            yield Step(op, (x,), y, single(pool))
    whole = Pool("global", ("x",), ("y",), "average", (6, 7), (1, 1), (0, 0, 0, 0), (1, 1), np.array(1 / 42, np.float32), LOW, HIGH)
    yield Step(whole, (x,), tensor("y", (1, 9, 1, 1)), single(pool))
    parts = tensor("a", (1, 2, 3, 4)), tensor("b", (1, 5, 3, 4))
    yield Step(Concat("concat", ("a", "b"), ("y",), 1), parts, tensor("y", (1, 7, 3, 4)), concat)
    padded = Pad("pad", ("x",), ("y",), (0, 0, 1, 2, 0, 0, 0, 1), -777)
    yield Step(padded, (x,), tensor("y", (1, 9, 7, 10)), single(pad))
    index = np.arange(9 * 42).reshape(1, 9, 6, 7).transpose(0, 2, 1, 3).copy()
    turned = Move("move", ("x",), ("y",), "Transpose", index.reshape(-1), (0, 2, 1, 3))
    yield Step(turned, (x,), tensor("y", (1, 6, 9, 7)), single(move))
    rows, columns, shares = np.arange(12) // 2, np.arange(14) // 2, np.full(12, 0.25, np.float32)
    near = Resize("near", ("x",), ("y",), "nearest", rows, columns)
    blend = Resize("blend", ("x",), ("y",), "linear", rows, columns, shares, np.full(14, 0.75, np.float32), 0.9, LOW, HIGH)
    for op in (near, blend):
        yield Step(op, (x,), tensor("y", (1, 9, 12, 14)), single(resize))
    for shape in ((1, 3, 5, 7), (1, 20, 4, 6), (4, 11)):
        for bits in (16, 12):
            real, held = Tensor("r", shape, "float32"), tensor("q", shape, bits)
            yield Step(Quantize("q", ("r",), ("q",)), (real,), held, lambda op, x, y, target: quantize(x[0], y, target))
            yield Step(Dequantize("d", ("q",), ("r",)), (held,), real, lambda op, x, y, target: dequantize(x[0], y, target))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("steps", [products, extremes, depthwises, elementwise, matmuls, moves])
def test_long_codes_are_exact(steps: Callable[[], Iterator[Step]], isa: str) -> None:
    check([step.on(isa, seed) for seed, step in enumerate(steps())], isa, threads=(3,))
