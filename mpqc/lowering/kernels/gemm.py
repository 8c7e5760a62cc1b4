"""Fully connected layers: the product of a few or many input rows with a weight matrix."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from mpqc.lowering.kernels import requant as requantization
from mpqc.lowering.kernels.conv import ConvSpec, Layer, assemble, plan
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.nibbles import PLAIN, Packing, packed
from mpqc.lowering.kernels.requant import INT8
from mpqc.values.program import Gemm


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
    name = contraction.name.replace(spec.name, f"gemm_{'x'.join(map(str, input_shape))}_{channels}_w{op.weight_bits}{'odd' * op.odd}")
    contraction = replace(contraction, name=name, input_shape=input_shape, output_shape=(*input_shape[:-1], channels))
    return packed(assemble(contraction, op, op.weight, zero_points, spec.macs), packing)
