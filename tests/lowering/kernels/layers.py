"""Convolutions and fully connected layers of any shape with seeded weights, and what they must give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from harness import Case, Machine, core, run

from mpqc.lowering.kernels.conv import ConvSpec, conv2d
from mpqc.lowering.kernels.gemm import gemm
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.numerics import integer
from mpqc.values.program import Conv, Gemm


@dataclass(frozen=True, eq=False)
class Layer:
    """An op, its input, what it must give, and how it is run."""

    op: Conv | Gemm
    x: np.ndarray
    """Codes as they lie in memory: NHWC, or [..., K]"""
    zero_points: tuple[int, int] = (-128, 0)
    threads: int = 1
    cores: int = 4

    def kernel(self, isa: str) -> Kernel:
        make = conv2d if isinstance(self.op, Conv) else gemm
        zero = self.zero_points[0]
        codes = min(zero, int(self.x.min())), max(zero, int(self.x.max()))
        return make(self.op, self.x.shape, self.zero_points, core(isa, self.cores), codes)

    def expected(self) -> np.ndarray:
        """By the definitions in numerics/integer.py."""
        op = self.op
        if isinstance(op, Gemm):
            acc = integer.gemm(self.x, op.weight, op.bias)
            return integer.requantize(acc, op.multiplier, self.zero_points[1], op.low, op.high).astype(np.int8)
        shape = {"strides": op.strides, "pads": op.pads, "dilations": op.dilations, "groups": op.groups}
        acc = integer.conv2d(self.x.transpose(0, 3, 1, 2), op.weight, op.bias, pad_value=self.zero_points[0], **shape)
        codes = integer.requantize(acc, op.multiplier[:, None, None], self.zero_points[1], op.low, op.high)
        return codes.transpose(0, 2, 3, 1).astype(np.int8)


def check(layers: Sequence[Layer], isa: str, machine: Machine, folder: Path) -> None:
    """Fails unless every layer gives exactly what it must."""
    got = run([Case(layer.kernel(isa), (layer.x,), layer.threads) for layer in layers], machine, folder)
    for layer, result in zip(layers, got, strict=True):
        np.testing.assert_array_equal(result, layer.expected(), err_msg=f"{layer.kernel(isa).name} {layer.zero_points}", strict=True)


def conv(spec: ConvSpec, seed: int = 0, *, zero_points: tuple[int, int] = (-128, 0), bounds: tuple[int, int] = (-128, 127)) -> Layer:
    """A convolution whose outputs use most of int8 and saturate now and then."""
    rng = np.random.default_rng(seed)
    weight = codes(rng, (spec.channels, spec.depth, *spec.kernel), spec.weight_bits)
    weight = 2 * weight + 1 if spec.odd else weight
    bias, multiplier = _scaling(rng, weight.reshape(spec.channels, -1), zero_points[0], spec.weight_bits)
    op = Conv(
        name="conv", inputs=("x",), outputs=("y",), weight=weight, weight_bits=spec.weight_bits, bias=bias, multiplier=multiplier,
        strides=spec.strides, pads=spec.pads, dilations=spec.dilations, groups=spec.groups, low=bounds[0], high=bounds[1],
    )  # fmt: skip
    return Layer(op, codes(rng, spec.input_shape, 8), zero_points)


def linear(
    shape: tuple[int, ...], channels: int, seed: int = 0, *, bits: int = 8, odd: bool = False, zero_points: tuple[int, int] = (3, -4)
) -> Layer:
    """A fully connected layer on an input of `shape`."""
    rng = np.random.default_rng(seed)
    weight = codes(rng, (channels, shape[-1]), bits)
    weight = 2 * weight + 1 if odd else weight
    bias, multiplier = _scaling(rng, weight, zero_points[0], bits)
    op = Gemm("gemm", ("x",), ("y",), weight=weight, weight_bits=bits, bias=bias, multiplier=multiplier, low=-128, high=127)
    return Layer(op, codes(rng, shape, 8), zero_points)


def with_op(layer: Layer, **changes: object) -> Layer:
    """The layer with other constants."""
    return replace(layer, op=replace(layer.op, **changes))


def codes(rng: np.random.Generator, shape: Sequence[int], bits: int) -> np.ndarray:
    """Any codes of `bits` bits, as int8."""
    return rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), tuple(shape)).astype(np.int8)


def _scaling(rng: np.random.Generator, weight: np.ndarray, zero_point: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    spread = 74 * 0.58 * (1 << (bits - 1)) * np.sqrt(weight.shape[1])
    bias = rng.integers(-1000, 1000, weight.shape[0]) - zero_point * weight.sum(axis=1, dtype=np.int64)
    return bias.astype(np.int32), (rng.uniform(0.5, 1.5, weight.shape[0]) * 60 / spread).astype(np.float32)
