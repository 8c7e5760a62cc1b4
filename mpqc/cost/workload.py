"""What an ONNX node asks of a chip: the kind of kernel that runs it and the shape it runs at, in the terms of cost rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from mpqc.errors import TargetError
from mpqc.facts.float_kernels import FREE
from mpqc.facts.float_kernels import KINDS as FLOAT_KINDS
from mpqc.facts.kernels import is_depthwise
from mpqc.facts.kinds import OpKind
from mpqc.facts.ops import Role, facts
from mpqc.targets import Shape
from mpqc.values.site import FILL, FloatNode, OpNode


@dataclass(frozen=True)
class Workload:
    """One kernel run. `macs` is 0 for kernels that multiply nothing."""

    kind: OpKind
    shape: Shape
    macs: int = 0
    weights: int = 0
    """Weight values"""
    runs: int = 1
    """How often the kernel runs: once for each output"""


def kind_of(node: OpNode) -> OpKind | None:
    """The kind of kernel that runs `node`, None for a view, which runs none. Raises TargetError for an op that has no integer kernel."""
    row = facts(node.op_type)
    if row.role is Role.VIEW:
        return None
    if not row.kinds:
        raise TargetError(f"{node.op_type} has no kernel and no cost", where=node.name, hint="keep it float, or bound size, BOPs or bits instead")
    if node.is_table:
        return OpKind.TABLE
    kind = row.kinds[0]
    if kind is OpKind.CONV and is_depthwise(node.groups, _nhwc(node.input_shape)[2]):
        return OpKind.DEPTHWISE
    if kind is OpKind.GEMM and node.weight is None:
        return OpKind.MATMUL
    if kind is OpKind.RESIZE and node.mode == "nearest":
        return OpKind.NEAREST
    return OpKind.MOVE if kind is OpKind.PAD and node.mode not in ("", FILL) else kind


def workload(node: OpNode) -> Workload | None:
    """The kernel run of `node`, or None for a view, which runs nothing. Raises TargetError for an op that no kernel is known for."""
    kind = kind_of(node)
    if kind is None:
        return None
    if kind in (OpKind.CONV, OpKind.DEPTHWISE):
        return _convolution(node, kind)
    if kind in (OpKind.GEMM, OpKind.MATMUL):
        return _product(node, kind)
    return _pooling(node, kind) if kind in (OpKind.MAX_POOL, OpKind.AVERAGE_POOL) else _elements(node, kind)


def float_workload(node: FloatNode) -> Workload | None:
    """The kernel run of a node that stays float; None for one that takes no time.

    Raises TargetError for an operator that no family is known for, and for a tensor whose shape the graph does not say.
    """
    if node.op_type in FREE:
        return None
    kind = FLOAT_KINDS.get(node.op_type)
    if kind is None or not node.output_shape:
        why = "its shape is not known" if kind else f"{node.op_type} is priced nowhere"
        raise TargetError("no cost of a float node", where=node.name, why=why)
    return Workload(kind, float_shape(node.read, node.output_shape, node.depth), prod(node.output_shape) * node.depth)


def float_shape(read: int, made: tuple[int, ...], depth: int = 0) -> Shape:
    """How cost rows of float kernels say their sizes: rows of the output, and what is read, or the depth of products."""
    rows, columns = max(prod(made[:-1]), 1), max(made[-1], 1)
    inputs = (rows, depth) if depth else (max(read, 1), 1)
    return Shape(in_h=inputs[0], in_c=inputs[1], out_h=rows, out_c=columns)


def conversion(kind: OpKind, shape: tuple[int, ...]) -> Workload:
    """Quantizing or dequantizing a tensor of `shape` (ONNX order)."""
    extents = _nhwc(shape)
    return Workload(kind, Shape(*extents, *extents))


def _convolution(node: OpNode, kind: OpKind) -> Workload:
    in_h, in_w, in_c = _nhwc(node.input_shape)
    out_h, out_w, out_c = _nhwc(node.output_shape)
    kernel_h, kernel_w = _pair(node.kernel or node.weight_shape[2:])
    stride_h, stride_w = _pair(node.strides or (1, 1))
    groups = max(node.groups, 1)
    shape = Shape(in_h, in_w, in_c, out_h, out_w, out_c, kernel_h, kernel_w, stride_h, stride_w, groups)
    return Workload(kind, shape, node.macs or shape.outputs * shape.taps, prod(node.weight_shape))


def _product(node: OpNode, kind: OpKind) -> Workload:
    rows, out_c = prod(node.output_shape[:-1]), node.output_shape[-1]
    in_c = node.input_shape[-1] if node.input_shape else max(node.macs // max(prod(node.output_shape), 1), 1)
    shape = Shape(in_h=rows, in_c=in_c, out_h=rows, out_c=out_c)
    macs = node.macs or rows * in_c * out_c
    return Workload(kind, shape, macs, in_c * out_c if kind is OpKind.GEMM else 0)


def _pooling(node: OpNode, kind: OpKind) -> Workload:
    shape = _values(node)
    kernel_h, kernel_w = _pair(node.kernel) if node.kernel else (max(shape.in_h // shape.out_h, 1), max(shape.in_w // shape.out_w, 1))
    stride_h, stride_w = _pair(node.strides or (1, 1))
    return Workload(kind, Shape(*_nhwc(node.input_shape), *_nhwc(node.output_shape), kernel_h, kernel_w, stride_h, stride_w))


def _elements(node: OpNode, kind: OpKind) -> Workload:
    """Outputs of different sizes (Split) count as so many of the mean size."""
    runs = 1 + len(node.extra_outputs)
    parts = zip(node.input_shape, node.output_shape, strict=False)
    output = tuple(ceil(whole / runs) if part != whole else whole for whole, part in parts) if runs > 1 else node.output_shape
    return Workload(kind, Shape(*_nhwc(node.input_shape), *_nhwc(output)), runs=runs)


def _values(node: OpNode) -> Shape:
    return Shape(*_nhwc(node.input_shape), *_nhwc(node.output_shape))


def _nhwc(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height (times batch), width and channels of an ONNX tensor: NCHW, NCW, or rows of values."""
    if len(shape) == 4:
        return shape[0] * shape[2], shape[3], shape[1]
    if len(shape) == 3:
        return shape[0], shape[2], shape[1]
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    return 1, 1, max(prod(shape), 1)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return (values[0], values[1]) if len(values) == 2 else (1, values[0] if values else 1)
