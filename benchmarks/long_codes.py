"""Kernels of 16-bit codes against the same kernels of 8-bit ones, in cycles of one core.

    python benchmarks/long_codes.py                  # the cores whose pricing tools there are
    python benchmarks/long_codes.py cortex-a53

Writes results/long_codes_CORE.md. Cycles are modelled (one thread, warm caches). Inputs and outputs have 16 bits. mpqc/cost/long_codes.py, from which
plans are priced, has the means.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

import numpy as np
from cost_pricing import pricer
from provenance import few, write_results

from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.layout import Placement
from mpqc.lowering.select import plan_steps
from mpqc.lowering.steps import Call
from mpqc.targets import Target, load_target
from mpqc.timing.program import grid_target, write_program
from mpqc.timing.weights import multipliers, weights
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

CORES = ("cortex-a76", "cortex-a72", "cortex-a53")
CONVS = (
    ((28, 28), 128, 128, 3, 1), ((32, 32), 16, 16, 3, 1), ((28, 28), 512, 128, 1, 1), ((56, 56), 24, 144, 1, 1), ((112, 112), 3, 64, 7, 2),
    ((14, 14), 384, 96, 1, 1), ((8, 8), 64, 64, 3, 1),
)  # fmt: skip
DEPTHWISES = (((56, 56), 144, 3, 1), ((14, 14), 384, 3, 1), ((28, 28), 120, 5, 1), ((32, 32), 16, 3, 1))
GEMMS = ((1, 640, 128), (1, 2048, 1000), (64, 64, 64), (99, 64, 256), (128, 512, 512))
MATMULS = ((1, 98, 64, 98), (4, 49, 49, 32), (3, 197, 64, 197))
PLANES = ((32, 16, 16), (64, 56, 56), (160, 7, 7))


@dataclass(frozen=True)
class Case:
    """One op at 8 and at 16 bits."""

    kind: str
    label: str
    kernels: tuple[Kernel, Kernel]


Make = Callable[[int], tuple[Op, list[Tensor]]]


def main() -> None:
    """Prices every op on every core and writes the table."""
    for core in sys.argv[1:] or few(CORES):
        target = load_target(core)
        rows = list(priced(few(cases(target), 4), target))
        means = (f"{kind} {mean_times(rows, kind):.2f}" for kind in dict.fromkeys(row["kernel"] for row in rows))
        note = f"Times the cycles at 8 bits on {core}: {', '.join(means)}."
        write_results(f"long_codes_{core.removeprefix('cortex-')}", "Kernels of 16-bit codes (modelled, one thread)", rows, [note])


def mean_times(rows: list[dict], kind: str) -> float:
    """Geometric mean of what the kernel takes at 16 bits over what it takes at 8."""
    return geometric_mean(row["times"] for row in rows if row["kernel"] == kind)


def priced(todo: list[Case], target: Target) -> Iterator[dict]:
    """A row for each case."""
    tool = pricer(target.name)
    with tempfile.TemporaryDirectory() as folder:
        program = write_program([kernel for case in todo for kernel in case.kernels], target.llvm_target, Path(folder), target.cores)
        for index, case in enumerate(todo):
            short, long = (tool.kernel(program, 2 * index + i) for i in (0, 1))
            print(f"{target.name} {case.kind} {case.label}: {long / short:.2f}", file=sys.stderr, flush=True)
            yield {"core": target.name, "kernel": case.kind, "shape": case.label, "a8": int(short), "a16": int(long), "times": round(long / short, 2)}


def cases(target: Target) -> Iterator[Case]:
    """Every op, some shapes."""
    chip = grid_target(target)
    for bits in (8, 4):
        for size, inputs, outputs, kernel, stride in CONVS if bits == 8 else CONVS[2:4]:
            yield case(
                f"conv w{bits}", f"{kernel}x{kernel} {inputs}-{outputs} @{size[0]}", conv(size, inputs, outputs, kernel, stride, 1, bits), chip
            )
        for rows, inputs, outputs in GEMMS if bits == 8 else GEMMS[1:4]:
            yield case(f"gemm w{bits}", f"{rows}x{inputs}-{outputs}", gemm(rows, inputs, outputs, bits), chip)
    for size, channels, kernel, stride in DEPTHWISES:
        yield case("depthwise", f"{kernel}x{kernel} {channels} @{size[0]}", conv(size, channels, channels, kernel, stride, channels, 8), chip)
    for batch, rows, depth, columns in MATMULS:
        yield case("matmul", f"{batch} x {rows}x{depth}x{columns}", matmul(batch, rows, depth, columns), chip)
    for plane in PLANES:
        for kind, make in elementwise(*plane):
            yield case(kind, "x".join(map(str, plane)), make, chip)


def case(kind: str, label: str, make: Make, chip: KernelTarget) -> Case:
    """The kernels as they lie inside a network."""
    return Case(kind, label, (kernel(*make(8), chip), kernel(*make(16), chip)))


def kernel(op: Op, tensors: list[Tensor], chip: KernelTarget) -> Kernel:
    """The kernel of `op`, images with their channels last."""
    program = Program((op,), {tensor.name: tensor for tensor in tensors}, op.inputs, op.outputs)
    layout = {one.name: (Placement.channels_last if one.qparams and len(one.shape) == 4 else Placement.plain)(one.shape) for one in tensors}
    return next(step.kernel for step in plan_steps(program, layout, chip) if isinstance(step, Call) and step.op == "op")


def codes(name: str, bits: int, *shape: int, zero: int = -3) -> Tensor:
    """Codes of so many bits."""
    return Tensor(name, shape, code_dtype(bits), QParams(QType(bits), np.asarray(0.05, np.float32), np.asarray(zero, np.int32)))


def ends(bits: int) -> tuple[int, int]:
    """Least and largest code."""
    return QType(bits).qmin, QType(bits).qmax


def conv(size: tuple[int, int], inputs: int, outputs: int, kernel: int, stride: int, groups: int, weight_bits: int) -> Make:
    """A convolution behind Relu, padded to keep its size."""
    out, pad = tuple((n - 1) // stride + 1 for n in size), (kernel - 1) // 2
    weight = weights(weight_bits, (outputs, inputs // groups, kernel, kernel))

    def make(bits: int) -> tuple[Op, list[Tensor]]:
        low, high = ends(bits)
        constants = (weight, weight_bits, np.zeros(outputs, np.int32), multipliers(weight))
        op = Conv("op", ("x",), ("y",), *constants, (stride, stride), (pad,) * 4, (1, 1), groups, low, high)
        return op, [codes("x", bits, 1, inputs, *size, zero=low), codes("y", bits, 1, outputs, *out, zero=low)]

    return make


def gemm(rows: int, inputs: int, outputs: int, weight_bits: int) -> Make:
    """A fully connected layer."""
    weight = weights(weight_bits, (outputs, inputs))

    def make(bits: int) -> tuple[Op, list[Tensor]]:
        op = Gemm("op", ("x",), ("y",), weight, weight_bits, np.zeros(outputs, np.int32), multipliers(weight), *ends(bits))
        return op, [codes("x", bits, rows, inputs), codes("y", bits, rows, outputs)]

    return make


def matmul(batch: int, rows: int, depth: int, columns: int) -> Make:
    """A product of two activations."""

    def make(bits: int) -> tuple[Op, list[Tensor]]:
        op = MatMul("op", ("a", "b"), ("y",), 1e-3, *ends(bits))
        return op, [codes("a", bits, batch, rows, depth), codes("b", bits, batch, depth, columns), codes("y", bits, batch, rows, columns)]

    return make


def elementwise(channels: int, height: int, width: int) -> Iterator[tuple[str, Make]]:
    """Everything that computes value by value, or moves values."""
    shape, count = (1, channels, height, width), channels * height * width
    zeros, ones = (0, 0, 0, 0), (1, 1)

    def planes(make: Callable[[int], Op], names: str, out: tuple[int, ...] = shape) -> Make:
        return lambda bits: (make(bits), [codes(name, bits, *(out if name == "y" else shape)) for name in names])

    yield "binary", planes(lambda bits: Binary("op", ("a", "b"), ("y",), "add", 1.0, 0.7, *ends(bits)), "aby")
    yield "table", planes(_table, "xy")
    yield "line", lambda bits: _line(bits, shape)
    yield "quantize", lambda bits: (Quantize("op", ("x",), ("y",)), [Tensor("x", shape, "float32"), codes("y", bits, *shape)])
    yield "dequantize", lambda bits: (Dequantize("op", ("x",), ("y",)), [codes("x", bits, *shape), Tensor("y", shape, "float32")])
    yield "concat", planes(lambda bits: Concat("op", ("a", "b"), ("y",), 1), "aby", (1, 2 * channels, height, width))
    padded = (1, channels, height + 2, width + 2)
    yield "pad", planes(lambda bits: Pad("op", ("x",), ("y",), (0, 0, 1, 1, 0, 0, 1, 1), -3), "xy", padded)
    half, m = (1, channels, height // 2, width // 2), np.asarray(0.25, np.float32)
    for kind in ("max", "average"):
        yield (
            f"{kind} pool",
            planes(lambda bits, kind=kind: Pool("op", ("x",), ("y",), kind, (2, 2), (2, 2), zeros, ones, m, *ends(bits)), "xy", half),
        )
    rows, columns = np.arange(2 * height) // 2, np.arange(2 * width) // 2
    double = (1, channels, 2 * height, 2 * width)
    yield "nearest", planes(lambda bits: Resize("op", ("x",), ("y",), "nearest", rows, columns), "xy", double)
    index = np.arange(count).reshape(channels, height, width)[:, ::2, ::2]
    yield "move", planes(lambda bits: Move("op", ("x",), ("y",), "Slice", index.reshape(-1)), "xy", (1, *index.shape))
    dealt = np.arange(count).reshape(2, channels // 2, height, width).transpose(1, 0, 2, 3).reshape(-1)
    yield "shuffle", planes(lambda bits: Move("op", ("x",), ("y",), "Transpose", dealt), "xy")


def _table(bits: int) -> Op:
    low, high = ends(bits)
    return Table("op", ("x",), ("y",), np.arange(low, high + 1).astype(code_dtype(bits)), "Tanh")


def _line(bits: int, shape: tuple[int, ...]) -> tuple[Op, list[Tensor]]:
    """A change of qparams: a table at 8 bits."""
    op = _table(8) if bits == 8 else Rescale("op", ("x",), ("y",), 0.9, 0.0, *ends(bits), "Requantize")
    return op, [codes(name, bits, *shape) for name in "xy"]


if __name__ == "__main__":
    main()
