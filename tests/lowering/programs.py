"""Small integer programs for tests: a builder that keeps shapes and qparams straight, and noise for their inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mpqc.numerics import integer
from mpqc.values.program import Binary, Concat, Conv, Dequantize, Float, Gemm, MatMul, Move, Op, Pad, Pool, Program, Quantize, Resize, Table, Tensor
from mpqc.values.qtype import QParams, QType


def qparams(scale: float, zero_point: int) -> QParams:
    """Per-tensor int8."""
    return QParams(QType(8), np.array(scale, np.float32), np.array(zero_point, np.int32))


@dataclass
class Net:
    """Adds ops one by one; every method returns the name of the tensor that it makes."""

    seed: int = 0
    ops: list[Op] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def program(self, *outputs: str) -> Program:
        """What was built so far."""
        return Program(tuple(self.ops), dict(self.tensors), tuple(self.inputs), outputs)

    def input(self, *shape: int, dtype: str = "float32", q: QParams | None = None) -> str:
        """A network input: float32, or codes where `q` is given."""
        name = self._tensor(shape, q) if q else self._plain(shape, dtype)
        self.inputs.append(name)
        return name

    def quantize(self, x: str, scale: float = 0.03, zero_point: int = 3) -> str:
        y = self._tensor(self.shape(x), qparams(scale, zero_point))
        return self._add(Quantize("quantize", (x,), (y,)))

    def dequantize(self, x: str) -> str:
        return self._add(Dequantize("dequantize", (x,), (self._plain(self.shape(x)),)))

    def image(self, *shape: int) -> str:
        """A float input, quantized."""
        return self.quantize(self.input(*shape))

    def conv(
        self,
        x: str,
        channels: int,
        kernel: tuple[int, int] = (3, 3),
        *,
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (1, 1, 1, 1),
        groups: int = 1,
        bits: int = 8,
    ) -> str:
        n, depth, *size = self.shape(x)
        high, wide = size if len(size) == 2 else (1, size[0])
        rows, columns = ((s + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i, s in enumerate((high, wide)))
        shape = (n, channels, rows, columns) if len(size) == 2 else (n, channels, columns)
        weight = self._codes((channels, depth // groups, *kernel), bits)
        y = self._tensor(shape, qparams(0.05, int(self.random.integers(-100, 100))))
        bias, multiplier = self._scaling(x, y, weight)
        dilations = (1, 1)
        return self._add(Conv("conv", (x,), (y,), weight, bits, bias, multiplier, strides, pads, dilations, groups, -128, 127))

    def gemm(self, x: str, width: int, bits: int = 8) -> str:
        weight = self._codes((width, self.shape(x)[-1]), bits)
        y = self._tensor((*self.shape(x)[:-1], width), qparams(0.04, 5))
        bias, multiplier = self._scaling(x, y, weight)
        return self._add(Gemm("gemm", (x,), (y,), weight, bits, bias, multiplier, -128, 127))

    def matmul(self, a: str, b: str) -> str:
        lead = np.broadcast_shapes(self.shape(a)[:-2], self.shape(b)[:-2])
        y = self._tensor((*lead, self.shape(a)[-2], self.shape(b)[-1]), qparams(0.04, 5))
        return self._add(MatMul("matmul", (a, b), (y,), 0.02 / self.shape(a)[-1] ** 0.5, -128, 127))

    def binary(self, kind: str, a: str, b: str) -> str:
        shape = np.broadcast_shapes(self.shape(a), self.shape(b))
        y = self._tensor(shape, qparams(0.05, -7))
        m_a = 0.01 if kind == "mul" else 0.6
        return self._add(Binary(kind, (a, b), (y,), kind, m_a, 0.7, -128, 127))

    def constant(self, kind: str, a: str, *shape: int) -> str:
        y = self._tensor(self.shape(a), qparams(0.05, -7))
        codes = self._codes(shape, 8)
        return self._add(Binary(kind, (a,), (y,), kind, 0.5, 0.4, -128, 127, codes, 4))

    def table(self, x: str) -> str:
        entries = self.random.permutation(np.arange(-128, 128)).astype(np.int8)
        return self._add(Table("table", (x,), (self._like(x),), entries, "Shuffle"))

    def pool(self, x: str, kind: str, kernel: tuple[int, int], strides: tuple[int, int] = (2, 2)) -> str:
        n, c, *size = self.shape(x)
        high, wide = size if len(size) == 2 else (1, size[0])
        rows, columns = (high - kernel[0]) // strides[0] + 1, (wide - kernel[1]) // strides[1] + 1
        y = self._tensor((n, c, rows, columns) if len(size) == 2 else (n, c, columns), self.tensors[x].qparams)
        m = np.array(1.0 / (kernel[0] * kernel[1]) if kind == "average" else 1.0, np.float32)
        return self._add(Pool("pool", (x,), (y,), kind, kernel, strides, (0, 0, 0, 0), (1, 1), m, -128, 127))

    def concat(self, axis: int, *xs: str) -> str:
        shape = list(self.shape(xs[0]))
        shape[axis] = sum(self.shape(x)[axis] for x in xs)
        return self._add(Concat("concat", xs, (self._tensor(tuple(shape), self.tensors[xs[0]].qparams),), axis))

    def pad(self, x: str, pads: tuple[int, ...], value: int = 7) -> str:
        rank = len(pads) // 2
        shape = tuple(size + pads[i] + pads[rank + i] for i, size in enumerate(self.shape(x)))
        return self._add(Pad("pad", (x,), (self._tensor(shape, self.tensors[x].qparams),), pads, value))

    def resize(self, x: str, factor: int) -> str:
        n, c, high, wide = self.shape(x)
        rows, columns = (np.repeat(np.arange(size), factor) for size in (high, wide))
        y = self._tensor((n, c, high * factor, wide * factor), self.tensors[x].qparams)
        return self._add(Resize("resize", (x,), (y,), "nearest", rows, columns))

    def move(self, x: str, change: Callable[[np.ndarray], np.ndarray], kind: str = "Move") -> str:
        """Whatever `change` does to an array of positions."""
        positions = np.arange(int(np.prod(self.shape(x)))).reshape(self.shape(x))
        moved = change(positions)
        y = replace(self.tensors[x], name=f"t{len(self.tensors)}", shape=moved.shape)
        self.tensors[y.name] = y
        same = np.array_equal(moved.ravel(), positions.ravel())
        return self._add(Move(kind.lower(), (x,), (y.name,), kind, None if same else moved.ravel()))

    def float_region(self, x: str, shapes: Sequence[tuple[int, ...]], make: Callable[..., bytes], kinds: tuple[str, ...]) -> tuple[str, ...]:
        """`make(x, *outputs)` gives the serialized ONNX model for these tensor names."""
        outputs = tuple(self._plain(shape) for shape in shapes)
        self.ops.append(Float("region", (x,), outputs, make(x, *outputs), kinds, "has no integer kernel"))
        return outputs

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def _add(self, op: Op) -> str:
        op = replace(op, name=f"{op.name}_{len(self.ops)}")
        self.ops.append(op)
        return op.outputs[0]

    def _tensor(self, shape: tuple[int, ...], q: QParams | None) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = Tensor(name, tuple(shape), "int8", q)
        return name

    def _plain(self, shape: tuple[int, ...], dtype: str = "float32") -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = Tensor(name, tuple(shape), dtype)
        return name

    def _like(self, x: str) -> str:
        return self._tensor(self.shape(x), self.tensors[x].qparams)

    def _codes(self, shape: tuple[int, ...], bits: int) -> np.ndarray:
        return self.random.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape).astype(np.int8)

    def _scaling(self, x: str, y: str, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bias with the zero point folded in, and multipliers that bring most sums into the codes."""
        flat = weight.reshape(weight.shape[0], -1).astype(np.int64)
        bias = self.random.integers(-500, 500, weight.shape[0]) - self.tensors[x].zero_point * flat.sum(1)
        spread = 70.0 * np.sqrt((flat**2).sum(1) + 1.0)
        scale = (60.0 / spread * self.random.uniform(0.5, 1.5, weight.shape[0])).astype(np.float32)
        one = np.ones((), np.float32)
        return bias.astype(np.int32), integer.multiplier(one, scale, one)


def noise(program: Program, seed: int = 0, samples: int = 1) -> dict[str, np.ndarray]:
    """Inputs for `program`, `samples` stacked along the first dimension."""
    random = np.random.default_rng(seed)
    arrays = {}
    for name in program.inputs:
        tensor = program.tensors[name]
        shape = (tensor.shape[0] * samples, *tensor.shape[1:])
        codes = random.integers(-128, 128, shape)
        arrays[name] = (random.standard_normal(shape) if tensor.dtype == "float32" else codes).astype(tensor.dtype)
    return arrays
