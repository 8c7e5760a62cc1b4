"""What an ONNX node asks of a chip: the kind of kernel that runs it and the shape it runs at, in the terms of cost rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from mpqc.errors import TargetError
from mpqc.targets import OpKind, Shape
from mpqc.values.site import OpNode, SiteTable

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Ops whose output is the input's memory: no kernel runs, the runtime only renames it."""

_KINDS = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Min", "Max"), OpKind.BINARY),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool", "ReduceMax"), OpKind.MAX_POOL),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), OpKind.AVERAGE_POOL),
    **dict.fromkeys(("Resize", "Upsample"), OpKind.RESIZE),
    **dict.fromkeys(("Slice", "Split", "Gather", "Expand", "Tile"), OpKind.MOVE),
    **dict.fromkeys(("Transpose", "DepthToSpace", "SpaceToDepth"), OpKind.SHUFFLE),
    "Concat": OpKind.CONCAT,
    "Pad": OpKind.PAD,
    "QuantizeLinear": OpKind.QUANTIZE,
    "DequantizeLinear": OpKind.DEQUANTIZE,
}


@dataclass(frozen=True)
class Workload:
    """One kernel run. `macs` is 0 for kernels that multiply nothing."""

    kind: OpKind
    shape: Shape
    macs: int = 0
    weights: int = 0
    """Weight values"""


def workload(node: OpNode) -> Workload | None:
    """The kernel run of `node`, or None for a view, which runs nothing. Raises TargetError for an op that no kernel is known for."""
    if node.op_type in VIEWS:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        return _convolution(node)
    if node.op_type in ("Gemm", "MatMul"):
        return _product(node)
    kind = OpKind.NEAREST if node.mode == "nearest" else _KINDS.get(node.op_type)
    if kind is not None:
        return _unweighted(node, kind)
    if prod(node.input_shape) == prod(node.output_shape):
        return Workload(OpKind.TABLE, _values(node))
    raise TargetError(f"{node.op_type} has no kernel and no cost", where=node.name, hint="keep it float, or bound size, BOPs or bits instead")


def fused_additions(table: SiteTable) -> frozenset[str]:
    """Names of the Adds that the convolution before them does where the target's kernels can (mpqc.lowering.fusion decides for real):
    the later of two operands of one shape comes from a convolution that nothing else reads."""
    made = {name: index for index, node in enumerate(table.nodes) for name in (node.output, *node.extra_outputs)}
    reads = Counter(name for node in table.nodes for name in node.inputs)
    return frozenset(node.name for node in table.nodes if node.op_type == "Add" and _is_fused(node, table, made, reads))


def _is_fused(add: OpNode, table: SiteTable, made: Mapping[str, int], reads: Mapping[str, int]) -> bool:
    shapes = {table.by_name[name].shape for name in add.inputs if name in table.by_name} | {add.output_shape}
    if len(add.inputs) != 2 or len(shapes) != 1 or len(add.output_shape) not in (3, 4):
        return False
    first, last = sorted(add.inputs, key=lambda name: made.get(name, -1))
    if made.get(first, -1) == made.get(last, -1) or reads[last] != 1:
        return False
    conv = table.nodes[made[last]]
    depthwise = conv.groups > 1 and conv.weight_shape[1:2] == (1,)
    return conv.op_type == "Conv" and not depthwise and conv.weight_shape[0] // conv.groups >= NARROWEST


NARROWEST = 8
"""Output channels of a group from which a convolution stores whole vectors"""


def conversion(kind: OpKind, shape: tuple[int, ...]) -> Workload:
    """Quantizing or dequantizing a tensor of `shape` (ONNX order)."""
    extents = _nhwc(shape)
    return Workload(kind, Shape(*extents, *extents))


def _convolution(node: OpNode) -> Workload:
    in_h, in_w, in_c = _nhwc(node.input_shape)
    out_h, out_w, out_c = _nhwc(node.output_shape)
    kernel_h, kernel_w = _pair(node.kernel or node.weight_shape[2:])
    stride_h, stride_w = _pair(node.strides or (1, 1))
    groups = max(node.groups, 1)
    kind = OpKind.DEPTHWISE if groups > 1 and groups == in_c else OpKind.CONV
    shape = Shape(in_h, in_w, in_c, out_h, out_w, out_c, kernel_h, kernel_w, stride_h, stride_w, groups)
    return Workload(kind, shape, node.macs or shape.outputs * shape.taps, prod(node.weight_shape))


def _product(node: OpNode) -> Workload:
    rows, out_c = prod(node.output_shape[:-1]), node.output_shape[-1]
    in_c = node.input_shape[-1] if node.input_shape else max(node.macs // max(prod(node.output_shape), 1), 1)
    shape = Shape(in_h=rows, in_c=in_c, out_h=rows, out_c=out_c)
    macs = node.macs or rows * in_c * out_c
    if node.weight is None:
        return Workload(OpKind.MATMUL, shape, macs)
    return Workload(OpKind.GEMM, shape, macs, in_c * out_c)


def _unweighted(node: OpNode, kind: OpKind) -> Workload:
    shape = _values(node)
    if kind not in (OpKind.MAX_POOL, OpKind.AVERAGE_POOL):
        return Workload(kind, shape)
    kernel_h, kernel_w = _pair(node.kernel) if node.kernel else (max(shape.in_h // shape.out_h, 1), max(shape.in_w // shape.out_w, 1))
    stride_h, stride_w = _pair(node.strides or (1, 1))
    return Workload(kind, Shape(*_nhwc(node.input_shape), *_nhwc(node.output_shape), kernel_h, kernel_w, stride_h, stride_w))


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
