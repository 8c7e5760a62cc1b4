"""Pools, Pad, Resize and Concat of quantized tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto

from mpqc.numerics import integer
from mpqc.passes.lib.base import attribute
from mpqc.qdq.read.builder import UNQUANTIZED, Builder, Codes, Target, are_long, recoding
from mpqc.qdq.read.geometry import Pair, Quad, declared_pads, explicit_pads, pair, spatial
from mpqc.values.program import Concat, Move, Op, Pad, Pool, Resize

_LINEAR_MODES = {"linear", "bilinear"}
LONG_WINDOW = 32767
"""Codes of 16 bits whose sum, less their zero point, fits int32"""
_TOO_LONG = f"the mean of more than {LONG_WINDOW} codes of 16 bits may overflow int32"


def match_average(builder: Builder, node: NodeProto, target: Target) -> list[Op] | str:
    """AveragePool, GlobalAveragePool or ReduceMean over the spatial axes as an average Pool, or the reason why not."""
    x = builder.codes.get(node.input[0])
    if x is None:
        return UNQUANTIZED
    if node.op_type == "AveragePool":
        return _windowed_average(builder, node, x, target)
    if node.op_type == "ReduceMean" and not reduces_space(builder, node, x):
        return "ReduceMean over other axes than the spatial ones has no integer kernel"
    return _global_average(builder, node, x, target)


def reduces_space(builder: Builder, node: NodeProto, x: Codes) -> bool:
    """Whether the reduction runs over exactly the axes behind the channels of a 3-D or 4-D tensor."""
    given = attribute(node, "axes", None)
    if len(node.input) > 1 and node.input[1]:
        values = builder.source.constants.get(node.input[1])
        given = None if values is None else values.reshape(-1).tolist()
    return len(x.shape) in (3, 4) and given is not None and sorted(axis % len(x.shape) for axis in given) == list(range(2, len(x.shape)))


def _windowed_average(builder: Builder, node: NodeProto, x: Codes, target: Target) -> list[Op] | str:
    if len(x.shape) not in (3, 4):
        return f"{len(x.shape) - 2}-D pooling has no integer kernel"
    kernel, strides, dilations = (pair(attribute(node, key, default)) for key, default in _window(node))
    pads = explicit_pads(node, x.shape, target.shape, kernel, strides, dilations)
    declared = declared_pads(node, x.shape, target.shape, kernel, strides, dilations)
    if kernel[0] * kernel[1] > LONG_WINDOW and are_long(x.coding):
        return _TOO_LONG
    counts = _counts(x, kernel, strides, dilations, pads, declared if attribute(node, "count_include_pad", 0) else (0, 0, 0, 0))
    if (counts == 0).any():
        return "a window lies wholly in the padding"
    count = counts if (counts != counts.flat[0]).any() else counts.flat[0]
    m = integer.average_multiplier(x.qparams.scale, target.qparams.scale, count)
    return [Pool(node.name, (x.name,), (target.name,), "average", kernel, strides, pads, dilations, m, target.low, target.high)]


def _window(node: NodeProto) -> tuple[tuple[str, list[int]], ...]:
    return (("kernel_shape", []), ("strides", [1]), ("dilations", [1]))


def _counts(x: Codes, kernel: Pair, strides: Pair, dilations: Pair, pads: Quad, counted: Quad) -> np.ndarray:
    """Elements that each window's average divides by, [oh, ow]: the input's, and of the padding those in `counted`."""
    height, width = spatial(x.shape)
    ones = np.pad(np.ones((height, width), dtype=np.int64), ((counted[0], counted[2]), (counted[1], counted[3])), constant_values=1)
    rest = tuple(full - part for full, part in zip(pads, counted, strict=True))
    padded = np.pad(ones, ((rest[0], max(rest[2], 0)), (rest[1], max(rest[3], 0))))
    padded = padded[: height + pads[0] + pads[2], : width + pads[1] + pads[3]]
    return integer.windows(padded, kernel, strides, dilations).sum(axis=(-2, -1))


def _global_average(builder: Builder, node: NodeProto, x: Codes, target: Target) -> list[Op] | str:
    if len(x.shape) not in (3, 4):
        return f"{len(x.shape) - 2}-D pooling has no integer kernel"
    kernel = spatial(x.shape)
    if kernel[0] * kernel[1] > LONG_WINDOW and are_long(x.coding):
        return _TOO_LONG
    m = integer.average_multiplier(x.qparams.scale, target.qparams.scale, kernel[0] * kernel[1])
    full = x.shape[:2] + (1,) * (len(x.shape) - 2)
    window = ((1, 1), (0, 0, 0, 0), (1, 1), m, target.low, target.high)
    if target.shape == full:
        return [Pool(node.name, (x.name,), (target.name,), "average", kernel, *window)]
    kept = builder.new_codes(f"{target.name}_pooled", full, target.coding)
    return [Pool(node.name, (x.name,), (kept.name,), "average", kernel, *window), Move(node.name, (kept.name,), (target.name,), "Reshape")]


def max_pool(builder: Builder, node: NodeProto, x: Codes, y: Codes) -> Op | str:
    """MaxPool or GlobalMaxPool on codes: maxima of codes are codes of maxima."""
    if len(x.shape) not in (3, 4):
        return f"{len(x.shape) - 2}-D pooling has no integer kernel"
    if len([name for name in node.output if name]) > 1:
        return "MaxPool with indices has no integer kernel"
    ones, limits = np.ones((), dtype=np.float32), (x.qparams.qtype.qmin, x.qparams.qtype.qmax)
    if node.op_type == "GlobalMaxPool":
        return Pool(node.name, (x.name,), (y.name,), "max", spatial(x.shape), (1, 1), (0, 0, 0, 0), (1, 1), ones, *limits)
    kernel, strides, dilations = (pair(attribute(node, key, default)) for key, default in _window(node))
    pads = explicit_pads(node, x.shape, y.shape, kernel, strides, dilations)
    return Pool(node.name, (x.name,), (y.name,), "max", kernel, strides, pads, dilations, ones, *limits)


def match_concat(builder: Builder, node: NodeProto, target: Target) -> list[Op] | str:
    """Concat of quantized tensors, each brought to the output's qparams where it has others: by a table of codes, or by a step before it where
    codes have more than 8 bits."""
    parts = [codes for name in node.input if (codes := builder.codes.get(name)) is not None]
    if len(parts) < len(node.input):
        return "an input is not a quantized activation"
    before: list[Op] = []
    for index, part in enumerate(parts):
        if are_long(part.coding, target.coding):
            steps, parts[index] = builder.brought(part, target.clamped, f"{target.name}_part{index}", node.name)
            before += steps
    tables = tuple(recoding(part, target.clamped) for part in parts)
    axis = attribute(node, "axis", 0) % len(target.shape)
    kept = () if all(table is None for table in tables) else tables
    return [*before, Concat(node.name, tuple(part.name for part in parts), (target.name,), axis, kept)]


def match_pad(builder: Builder, node: NodeProto, target: Target) -> list[Op] | str:
    """Constant Pad by non-negative amounts as Pad, behind a step more where the qparams change; other modes are moves."""
    x = builder.codes.get(node.input[0])
    if x is None:
        return UNQUANTIZED
    pads, value = pad_amounts(builder, node, len(x.shape)), _pad_value(builder, node)
    if pads is None or value is None:
        return "pads are not constant"
    if min(pads, default=0) < 0:
        return "negative pads have no integer kernel"
    code = int(np.clip(integer.quantize(np.array(value, dtype=np.float32), target.qparams), target.low, target.high))
    before, same = builder.brought(x, target.clamped, f"{target.name}_unpadded", node.name)
    return [*before, Pad(node.name, (same.name,), (target.name,), pads, code)]


def pad_amounts(builder: Builder, node: NodeProto, rank: int) -> tuple[int, ...] | None:
    """All begins then all ends for every axis, or None where they are computed at run time."""
    if len(node.input) < 2:
        return tuple(attribute(node, "pads", []))
    values = builder.source.constants.get(node.input[1])
    if values is None:
        return None
    if len(node.input) < 4 or not node.input[3]:
        return tuple(int(value) for value in values)
    axes = [int(axis) % rank for axis in builder.source.constants[node.input[3]]]
    full = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[axis], full[rank + axis] = int(values[i]), int(values[i + len(axes)])
    return tuple(full)


def _pad_value(builder: Builder, node: NodeProto) -> float | None:
    if len(node.input) < 3 or not node.input[2]:
        return float(attribute(node, "value", 0.0))
    value = builder.source.real(node.input[2])
    return None if value is None else float(value.reshape(()))


def resize_nearest(builder: Builder, node: NodeProto, x: Codes, y: Codes) -> Op | str:
    """Nearest Resize of the last two axes of a 4-D tensor, with positions found by resizing their own numbers."""
    fault = _resize_fault(node, x, y.shape)
    if fault:
        return fault
    rows, columns = (np.rint(line).astype(np.int64) for line in _resized(builder, node, x, np.arange))
    return Resize(node.name, (x.name,), (y.name,), "nearest", rows, columns)


def match_linear(builder: Builder, node: NodeProto, target: Target) -> list[Op] | str:
    """Linear Resize of the last two axes of a 4-D tensor of codes, requantized from the blend itself."""
    x = builder.codes.get(node.input[0])
    if x is None:
        return UNQUANTIZED
    fault = _resize_fault(node, x, target.shape)
    if fault:
        return fault
    rows, columns = (np.floor(line).astype(np.int64) for line in _resized(builder, node, x, np.arange))
    down, across = _resized(builder, node, x, _odd)
    shares = _upper_share(rows, down), _upper_share(columns, across)
    m = float(np.float32(x.qparams.scale) / np.float32(target.qparams.scale))
    return [Resize(node.name, (x.name,), (target.name,), "linear", rows, columns, *shares, m, target.low, target.high)]


def _odd(count: int) -> np.ndarray:
    """0, 1, 0, 1, ...: a blend of neighbours in it is the weight of the odd one, however far from the start."""
    return np.arange(count) % 2


def _upper_share(lower: np.ndarray, odd: np.ndarray) -> np.ndarray:
    """Weight of the upper neighbour, of which `odd` is the blend of 0 for even and 1 for odd places. float32"""
    return np.where(lower % 2 == 0, odd, np.float32(1) - odd).astype(np.float32)


def _resize_fault(node: NodeProto, x: Codes, shape: tuple[int, ...]) -> str:
    mode = attribute(node, "mode", "nearest")
    if len(x.shape) != 4 or x.shape[:2] != shape[:2]:
        return "Resize of other axes than height and width has no integer kernel"
    if mode not in _LINEAR_MODES | {"nearest"} or attribute(node, "antialias", 0):
        return f"Resize with mode {mode}{' and antialias' if attribute(node, 'antialias', 0) else ''} has no integer kernel"
    if attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return "Resize with tf_crop_and_resize has no integer kernel"
    return ""


def _resized(builder: Builder, node: NodeProto, x: Codes, line: Callable[[int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """`line(height)` down the rows and `line(width)` across the columns, as float32: what the node makes of them along each axis."""
    from mpqc.qdq.read.moves import run_node

    height, width = x.shape[2:]
    plane = np.zeros((*x.shape[:2], height, width), dtype=np.float32)
    down = run_node(builder, node, plane + line(height).astype(np.float32)[:, None])[0]
    across = run_node(builder, node, plane + line(width).astype(np.float32))[0]
    return down[0, 0, :, 0], across[0, 0, 0, :]
