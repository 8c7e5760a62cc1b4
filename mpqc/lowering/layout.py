"""One layout for the whole graph: where each tensor's axes lie in memory, decided before any code is made.

Quantized tensors of rank 4 are channels last (NHWC), as are the rank-3 tensors of one-dimensional convolutions (NLC); all
others, and the network's inputs and outputs, lie as ONNX writes them. Ops that work axis by axis have all their tensors in
one layout, so a group of such ops is decided as a whole. Nothing between two integer ops is ever converted, except where one
tensor feeds both a convolution and a fully connected op over its last axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mpqc.cost.layout import lying_channels_last
from mpqc.values.program import Binary, Concat, Conv, Gemm, MatMul, Op, Pad, Pool, Program, Rescale, Resize, Table, Tensor


@dataclass(frozen=True)
class Placement:
    """How one tensor lies in memory: physical axis i holds ONNX axis `order[i]`, contiguous."""

    shape: tuple[int, ...]
    """Physical shape"""
    order: tuple[int, ...]

    @classmethod
    def plain(cls, shape: tuple[int, ...]) -> Placement:
        """The layout of the ONNX file."""
        return cls(shape, tuple(range(len(shape))))

    @classmethod
    def channels_last(cls, shape: tuple[int, ...]) -> Placement:
        """ONNX [N, C, spatial...] as [N, spatial..., C]."""
        order = (0, *range(2, len(shape)), 1)
        return cls(tuple(shape[axis] for axis in order), order)

    @classmethod
    def like(cls, shape: tuple[int, ...], other: Placement) -> Placement:
        """The layout of `other` for a tensor of as many axes."""
        return cls(tuple(shape[axis] for axis in other.order), other.order)

    def axis(self, onnx_axis: int) -> int:
        """The physical axis that holds `onnx_axis` (negative: from the end)."""
        return self.order.index(onnx_axis % len(self.order))

    def arrange(self, values: np.ndarray) -> np.ndarray:
        """`values`, an array of the tensor's ONNX shape, as it lies in memory."""
        return np.ascontiguousarray(values.transpose(self.order))

    def restore(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `arrange`."""
        return np.ascontiguousarray(values.transpose(np.argsort(self.order)))

    @property
    def onnx_shape(self) -> tuple[int, ...]:
        """The shape in the ONNX file."""
        return tuple(self.shape[axis] for axis in np.argsort(self.order))


Layout = Mapping[str, Placement]


def plan_layout(program: Program) -> Layout:
    """The placement of every tensor of `program`."""
    fixed = {*program.inputs, *program.outputs}
    wanted = _channels_last(program)
    return {name: _place(tensor, name in wanted and name not in fixed) for name, tensor in program.tensors.items()}


def _place(tensor: Tensor, channels_last: bool) -> Placement:
    return Placement.channels_last(tensor.shape) if channels_last else Placement.plain(tensor.shape)


def _channels_last(program: Program) -> set[str]:
    """Names of the tensors that lie channels last."""
    ranks = {name: len(tensor.shape) for name, tensor in program.tensors.items() if tensor.qparams is not None}
    alike = [(op.inputs, op.outputs[0]) for op in program.ops if isinstance(op, (Table, Rescale, Binary, Concat, Pad, Conv, Pool, Resize))]
    spatial, rows = set(_touched(program, (Conv, Pool, Resize))), set(_touched(program, (Gemm, MatMul)))
    return set().union(*lying_channels_last(ranks, alike, spatial, rows))


def _touched(program: Program, kinds: tuple[type[Op], ...]) -> Iterable[str]:
    for op in program.ops:
        if isinstance(op, kinds):
            yield from (*op.inputs, *op.outputs)
