"""Which kernel does what: every op of the program, on tensors that lie as the layout says, as a list of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mpqc.errors import LoweringError
from mpqc.facts.kernels import is_depthwise
from mpqc.lowering.fusion import Fusion, Join, plan_fusion
from mpqc.lowering.kernels.conv import conv2d, long_conv
from mpqc.lowering.kernels.depthwise import depthwise
from mpqc.lowering.kernels.elementwise import binary, rescale, table
from mpqc.lowering.kernels.gemm import gemm, long_gemm
from mpqc.lowering.kernels.kernel import Kernel, KernelTarget
from mpqc.lowering.kernels.layout import physical_shape
from mpqc.lowering.kernels.matmul import matmul
from mpqc.lowering.kernels.move import concat, is_view, move, pad
from mpqc.lowering.kernels.nibbles import Packing, packed
from mpqc.lowering.kernels.pool import pool
from mpqc.lowering.kernels.quantize import dequantize, quantize
from mpqc.lowering.kernels.residual import Residual
from mpqc.lowering.kernels.resize import resize
from mpqc.lowering.kernels.winograd import winograd
from mpqc.lowering.layout import Layout, Placement
from mpqc.lowering.present import present, present_axis, present_constant, present_pads
from mpqc.lowering.product_forms import code_ranges
from mpqc.lowering.steps import Call, Region, Step, View
from mpqc.lowering.storage import Storage
from mpqc.numerics.winograd import FormName
from mpqc.values.program import (
    Binary,
    Concat,
    Conv,
    Dequantize,
    Float,
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
)


def plan_steps(
    program: Program, layout: Layout, target: KernelTarget, storage: Storage | None = None, forms: Mapping[str, FormName] | None = None
) -> tuple[Step, ...]:
    """The steps of `program` in its order. forms: of convolutions that are not computed directly (product_forms.py).

    Raises LoweringError naming the op that has no kernel.
    """
    planner = Planner(program, layout, target, plan_fusion(program, layout, target), storage or Storage(), forms or {})
    for op in program.ops:
        planner.add(op)
    return tuple(planner.steps)


@dataclass
class Planner:
    """Collects steps; knows how every value lies."""

    program: Program
    layout: Layout
    target: KernelTarget
    fusion: Fusion
    storage: Storage
    forms: Mapping[str, FormName]
    steps: list[Step] = field(default_factory=list)

    def add(self, op: Op) -> None:
        """Appends the steps of one op."""
        if any(op is join.add for join in self.fusion.values()):
            return
        if isinstance(op, Conv) and op.outputs[0] in self.fusion:
            self._join(op, self.fusion[op.outputs[0]])
        elif isinstance(op, Float):
            self.steps.append(Region(op, op.inputs, op.outputs))
        elif isinstance(op, Move):
            self._move(op)
        else:
            self._kernel(op)

    def _join(self, op: Conv, join: Join) -> None:
        name, x = self._input(op, op.inputs[0])
        made = self.program.tensors[op.outputs[0]]
        packing = self.storage.packing((name, join.other), join.add.outputs[0])
        kernel = self._convolution(op, x, made, packing, join.residual)
        self.steps.append(Call(op.name, kernel, (name, join.other), join.add.outputs[0], (join.add.name,)))

    def _convolution(self, op: Conv, x: Tensor, y: Tensor, packing: Packing, added: Residual | None = None) -> Kernel:
        """In the form that was chosen for it."""
        form = self.forms.get(op.name)
        if form is None:
            return conv2d(op, _image(x), (x.zero_point, y.zero_point), self.target, self._codes(op), added, packing)
        return packed(winograd(op, _image(x), self.ranges[op.inputs[0]], (x.zero_point, y.zero_point), self.target, form, added), packing)

    def _codes(self, op: Op) -> tuple[int, int]:
        """Least and largest code that `op` reads from its first input, padding included."""
        (low, high), tensor = self.ranges[op.inputs[0]], self.program.tensors[op.inputs[0]]
        return (low, high) if tensor.qparams is None else (min(low, tensor.zero_point), max(high, tensor.zero_point))

    @cached_property
    def ranges(self) -> Mapping[str, tuple[int, int]]:
        """Codes of every tensor, see product_forms.py."""
        return code_ranges(self.program)

    def _move(self, op: Move) -> None:
        x, y = self._tensor(op.inputs[0]), self._tensor(op.outputs[0])
        self._moved(op, op.name, x, y, op.inputs[0], op.outputs[0])

    def _moved(self, op: Move, name: str, x: Tensor, y: Tensor, source: str, output: str, *, relayout: bool = False) -> None:
        if is_view(op, x, y):
            self.steps.append(View(name, source, output))
        else:
            self.steps.append(Call(name, move(op, x, y, self.target), (source,), output, relayout=relayout))

    def _kernel(self, op: Op) -> None:
        make = MAKERS.get(type(op))
        if make is None:
            raise LoweringError(f"{type(op).__name__} has no kernel", where=op.name)
        output = op.outputs[0]
        names, tensors = zip(*(self._input(op, name) for name in op.inputs), strict=True)
        placement = self._demanded(op, output) or self.layout[output]
        made = output if placement == self.layout[output] else f"{output} as computed"
        result = present(self.program.tensors[output], placement)
        packing = self.storage.packing(names, made)
        if isinstance(op, Conv) and op.name in self.forms:
            kernel = self._convolution(op, tensors[0], result, packing)
        else:
            kernel = make(op, tensors, result, Around(placement, self.target, packing, self._codes(op)))
        self.steps.append(Call(op.name, kernel, names, made))
        if made != output:
            self._relayout(output, result, self._tensor(output), made, output)

    def _demanded(self, op: Op, name: str) -> Placement | None:
        """The layout in which the kernel of `op` insists to have the tensor `name`; None: any."""
        shape = self.program.tensors[name].shape
        if isinstance(op, (Conv, Pool, Resize)):
            return Placement.channels_last(shape)
        if isinstance(op, (Gemm, MatMul)):
            return Placement.plain(shape)
        result = self.layout[op.outputs[0]]
        alike = isinstance(op, (Binary, Concat, Pad, Rescale, Table)) and len(result.order) == len(shape)
        return Placement.like(shape, result) if alike else None

    def _input(self, op: Op, name: str) -> tuple[str, Tensor]:
        """The value `name` as `op` demands it (a copy where it lies otherwise), and the tensor that says so."""
        tensor, placement = self.program.tensors[name], self.layout[name]
        demanded = self._demanded(op, name) or placement
        if demanded == placement:
            return name, present(tensor, placement)
        changed, copied = present(tensor, demanded), f"{name} as {demanded.order}"
        if not any(getattr(step, "output", None) == copied for step in self.steps):
            self._relayout(name, present(tensor, placement), changed, name, copied)
        return copied, changed

    def _relayout(self, name: str, x: Tensor, y: Tensor, source: str, output: str) -> None:
        self._moved(Move("layout", (source,), (output,), "Identity"), f"layout of {name}", x, y, source, output, relayout=True)

    def _tensor(self, name: str) -> Tensor:
        return present(self.program.tensors[name], self.layout[name])


@dataclass(frozen=True)
class Around:
    """What a maker needs to know beside an op and its tensors."""

    placement: Placement
    """Of the output"""
    target: KernelTarget
    packing: Packing
    codes: tuple[int, int]
    """Least and largest code of the first input"""


Maker = Callable[[Any, tuple[Tensor, ...], Tensor, Around], Kernel]
WholeMaker = Callable[[Any, tuple[Tensor, ...], Tensor, Placement, KernelTarget], Kernel]


def _conv(op: Conv, x: tuple[Tensor, ...], y: Tensor, around: Around) -> Kernel:
    if is_depthwise(op.groups, x[0].shape[1]):
        return packed(depthwise(op, x[0], y, around.target, around.codes), around.packing)
    if x[0].is_long or y.is_long:
        return long_conv(op, x[0], y, around.target, around.packing)
    return conv2d(op, _image(x[0]), (x[0].zero_point, y.zero_point), around.target, around.codes, packing=around.packing)


def _image(x: Tensor) -> tuple[int, int, int, int]:
    """NHWC."""
    images, rows, columns, channels = physical_shape(x)
    return images, rows, columns, channels


def _gemm(op: Gemm, x: tuple[Tensor, ...], y: Tensor, around: Around) -> Kernel:
    if x[0].is_long or y.is_long:
        return long_gemm(op, x[0], y, around.target, around.packing)
    return gemm(op, x[0].shape, (x[0].zero_point, y.zero_point), around.target, around.codes, around.packing)


def _whole(make: WholeMaker) -> Maker:
    """A maker of kernels over bytes, whose loads and stores are packed afterwards."""
    return lambda op, x, y, around: packed(make(op, x, y, around.placement, around.target), around.packing)


def _matmul(op: MatMul, x: tuple[Tensor, ...], y: Tensor, placement: Placement, target: KernelTarget) -> Kernel:
    return matmul(op, x[0], x[1], y, target)


def _binary(op: Binary, x: tuple[Tensor, ...], y: Tensor, placement: Placement, target: KernelTarget) -> Kernel:
    if op.constant is not None:
        op = replace(op, constant=present_constant(op.constant, placement))
    return binary(op, x[0], x[1] if len(x) > 1 else None, y, target)


def _concat(op: Concat, x: tuple[Tensor, ...], y: Tensor, placement: Placement, target: KernelTarget) -> Kernel:
    return concat(replace(op, axis=present_axis(op.axis, placement)), x, y, target)


def _table(op: Table, x: tuple[Tensor, ...], y: Tensor, placement: Placement, target: KernelTarget) -> Kernel:
    along = None if op.axis is None else present_axis(op.axis, placement)
    return table(replace(op, axis=along), x[0], y, target)


def _pad(op: Pad, x: tuple[Tensor, ...], y: Tensor, placement: Placement, target: KernelTarget) -> Kernel:
    return pad(replace(op, pads=present_pads(op.pads, placement)), x[0], y, target)


def _simple(make: Callable[..., Kernel]) -> Maker:
    """A maker for kernels that take op, one input and the output."""
    return _whole(lambda op, x, y, placement, target: make(op, x[0], y, target))


def _quantize(op: Quantize, x: tuple[Tensor, ...], y: Tensor, placement: Placement, target: KernelTarget) -> Kernel:
    return quantize(replace(x[0], shape=y.shape), y, target)


def _dequantize(op: Dequantize, x: tuple[Tensor, ...], y: Tensor, placement: Placement, target: KernelTarget) -> Kernel:
    return dequantize(x[0], replace(y, shape=x[0].shape), target)


MAKERS: dict[type[Op], Maker] = {
    Binary: _whole(_binary),
    Concat: _whole(_concat),
    Conv: _conv,
    Dequantize: _whole(_dequantize),
    Gemm: _gemm,
    MatMul: _whole(_matmul),
    Pad: _whole(_pad),
    Pool: _simple(pool),
    Quantize: _whole(_quantize),
    Rescale: _simple(rescale),
    Resize: _simple(resize),
    Table: _whole(_table),
}
