"""Fully connected layers: the product of a few or many input rows with a weight matrix."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from mpqc.lowering.kernels import requant as requantization
from mpqc.lowering.kernels.contraction import Contraction
from mpqc.lowering.kernels.conv import ConvSpec, Layer, assemble, long_product, plan
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.nibbles import PLAIN, Packing, packed
from mpqc.lowering.kernels.requant import INT8
from mpqc.values.program import Gemm, Tensor


def long_gemm(op: Gemm, x: Tensor, y: Tensor, target: KernelTarget, packing: Packing = PLAIN) -> Kernel:
    """The same where `x` or `y` or both have int16 codes."""
    channels, depth = op.weight.shape
    spec = ConvSpec((1, 1, prod(x.shape[:-1]), depth), channels, (1, 1), weight_bits=op.weight_bits, odd=op.odd)
    contraction = _named(long_product(op, spec, op.weight, (x, y), target), spec, op, x.shape)
    return packed(assemble(contraction, op, op.weight, (x.zero_point, y.zero_point), spec.macs), packing)


def _named(c: Contraction, spec: ConvSpec, op: Gemm, input_shape: tuple[int, ...]) -> Contraction:
    """With the shapes and the name of a fully connected layer."""
    channels = op.weight.shape[0]
    name = c.name.replace(spec.name, f"gemm_{'x'.join(map(str, input_shape))}_{channels}_w{op.weight_bits}{'odd' * op.odd}")
    return replace(c, name=name, input_shape=input_shape, output_shape=(*input_shape[:-1], channels))


def gemm(
    op: Gemm,
    input_shape: tuple[int, ...],
    zero_points: tuple[int, int],
    target: KernelTarget,
    codes: tuple[int, int] = INT8,
    packing: Packing = PLAIN,
) -> Kernel:
    """int8 codes x [..., K] times op.weight int8 [N, K] to int8 codes [..., N]: a pointwise convolution over the rows of x.

    out = requantize(op.bias + sum(x * w), op.multiplier, output zero point, op.low, op.high). zero_points: of input and output.
    codes: least and largest input.
    """
    channels, depth = op.weight.shape
    spec = ConvSpec((1, 1, prod(input_shape[:-1]), depth), channels, (1, 1), weight_bits=op.weight_bits, odd=op.odd)
    requants = requantization.choose(op.weight, op, zero_points[1], target.code("requantization", requantization.FORMS))
    contraction = plan(Layer(spec, op.weight, codes), requants, target, packing)
    return packed(assemble(_named(contraction, spec, op, input_shape), op, op.weight, zero_points, spec.macs), packing)
