"""Operators that TVM has no loops for, as nodes of operators that it has. Each function writes one; it returns False for what it cannot say.

Shapes and everything that decides them are known. The results are those of the operator, ties and empty positions included; sums of floats are
added in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from mpqc.facts.ops import STANDARD_DOMAINS
from mpqc.passes.lib.base import attribute
from mpqc.passes.lib.cropped_resize import cropped_resize
from mpqc.passes.lib.runtime_operators import DOMAIN, RUNTIME_RULES
from mpqc.passes.lib.writer import Writer

MOST_COMPARISONS = 1 << 26
"""Of a TopK, which compares every element with every other along its axis"""
MOST_CONSTANTS = 1 << 22
"""Elements of a matrix or an index that a rule may store"""
EXACT = 1 << 24
"""Integers up to here are exact in float32"""


def cumulative_sum(writer: Writer) -> bool:
    """log2(n) sums of the tensor with itself moved by 1, 2, 4, ... (Hillis and Steele, 1986)."""
    axis = writer.known(1)
    if axis is None:
        return False
    shape, node = writer.shape(), writer.node
    place, x = int(axis.reshape(-1)[0]) % len(shape), node.input[0]
    size = shape[place]
    backward = writer.store(np.arange(size)[::-1], "backward") if attribute(node, "reverse", 0) else ""
    x = writer.add("Gather", x, backward, axis=place) if backward else x
    if attribute(node, "exclusive", 0):
        x = writer.behind(writer.cut(x, place, size - 1), len(shape), place, 1) if size > 1 else writer.add("Sub", x, x)
    step = 1
    while step < size:
        x = writer.add("Add", x, writer.behind(writer.cut(x, place, size - step), len(shape), place, step))
        step *= 2
    x = writer.add("Gather", x, backward, axis=place) if backward else x
    writer.add("Identity", x, to=node.output[0])
    return True


def top_k(writer: Writer) -> bool:
    """Every element's rank is how many are ahead of it: larger ones, and equal ones in front of it. The k-th result is where the rank is k."""
    node, shape, count = writer.node, writer.shape(), writer.known(1)
    axis = int(attribute(node, "axis", -1)) % len(shape)
    size = shape[axis]
    if count is None or prod(shape) * size > MOST_COMPARISONS or size * size > MOST_CONSTANTS:
        return False
    rest = [1] * (len(shape) - axis - 1)
    here, there = (writer.add("Unsqueeze", node.input[0], writer.store(np.array([place]), "axis")) for place in (axis + 1, axis))
    ahead = writer.add("Greater" if attribute(node, "largest", 1) else "Less", there, here)
    earlier = writer.store(np.tri(size, k=-1, dtype=bool).reshape(size, size, *rest), "earlier")
    tie = writer.add("And", writer.add("Equal", there, here), earlier)
    counted = writer.add("Cast", writer.add("Or", ahead, tie), to_type=TensorProto.FLOAT)
    rank = writer.add("ReduceSum", counted, writer.store(np.array([axis + 1]), "axis"), keepdims=0)
    wanted = writer.store(np.arange(int(count.reshape(-1)[0]), dtype=np.float32).reshape(-1, 1, *rest), "places")
    match = writer.add("Equal", writer.add("Unsqueeze", rank, writer.store(np.array([axis]), "axis")), wanted)
    found = writer.add("Cast", match, to_type=TensorProto.FLOAT)
    second = node.output[1] if len(node.output) > 1 else ""
    places = writer.add("ArgMax", found, to=second, axis=axis + 1, keepdims=0)
    if node.output[0]:
        writer.add("GatherElements", node.input[0], places, to=node.output[0], axis=axis)
    return True


def _turns(rows: int, length: int, bins: int, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sign * sin of 2 pi t f / length, [rows, bins]; the angle is reduced exactly, in integers."""
    angle = 2 * np.pi * (np.outer(np.arange(rows), np.arange(bins)) % length) / length
    return np.cos(angle), sign * np.sin(angle)


def fourier(writer: Writer) -> bool:
    """DFT as a product with a matrix of cosines and sines."""
    node, shape = writer.node, writer.shape()
    length, axis = writer.known(1), writer.known(2)
    inverse, onesided = bool(attribute(node, "inverse", 0)), bool(attribute(node, "onesided", 0))
    if (writer.input(1) and length is None) or (writer.input(2) and axis is None) or (inverse and onesided):
        return False
    place = int(-2 if axis is None else axis.reshape(-1)[0]) % len(shape)
    size = shape[place]
    full = size if length is None else int(length.reshape(-1)[0])
    rows, parts, bins = min(size, full), shape[-1], full // 2 + 1 if onesided else full
    if rows * parts * bins * 2 > MOST_CONSTANTS:
        return False
    order = [axis for axis in range(len(shape) - 1) if axis != place] + [place, len(shape) - 1]
    x = writer.cut(node.input[0], place, rows) if rows < size else node.input[0]
    x = writer.add("Transpose", x, perm=order)
    outer = [shape[axis] for axis in order[:-2]]
    product = writer.add(
        "MatMul", writer.reshape(x, [*outer, rows * parts]), writer.store(_fourier_matrix(rows, full, bins, parts, inverse), "turns")
    )
    back = writer.reshape(product, [*outer, bins, 2])
    writer.add("Transpose", back, to=node.output[0], perm=list(np.argsort(order)))
    return True


def _fourier_matrix(rows: int, length: int, bins: int, parts: int, inverse: bool) -> np.ndarray:
    """[rows * parts, bins * 2]: real and imaginary parts beside each other on both sides."""
    cos, sin = _turns(rows, length, bins, 1 if inverse else -1)
    matrix = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)][:parts], 1)
    return (matrix / (length if inverse else 1)).reshape(rows * parts, bins * 2).astype(np.float32)


def short_time_fourier(writer: Writer) -> bool:
    """STFT of a real signal as a convolution whose kernels are windowed cosines and sines."""
    node, shape = writer.node, writer.shape()
    step, window, length = writer.known(1), writer.known(2), writer.known(3)
    if step is None or (writer.input(2) and window is None) or (writer.input(3) and length is None) or (len(shape) == 3 and shape[2] != 1):
        return False
    if window is None and length is None:
        return False
    size = int(length.reshape(-1)[0]) if length is not None else len(window)  # type: ignore[arg-type]
    bins = size // 2 + 1 if attribute(node, "onesided", 1) else size
    if size * bins * 2 > MOST_CONSTANTS:
        return False
    cos, sin = _turns(size, size, bins, -1)
    kernels = np.stack([cos, sin], -1) * (np.ones(size) if window is None else window.astype(np.float64)).reshape(-1, 1, 1)
    stored = writer.store(kernels.reshape(size, 1, bins * 2).transpose(2, 1, 0).astype(np.float32), "kernels")
    stride = int(step.reshape(-1)[0])
    frames = (shape[1] - size) // stride + 1
    made = writer.add("Conv", writer.reshape(node.input[0], [shape[0], 1, shape[1]]), stored, strides=[stride], kernel_shape=[size])
    turned = writer.add("Transpose", made, perm=[0, 2, 1])
    writer.reshape(turned, [shape[0], frames, bins, 2], to=node.output[0])
    return True


def compress(writer: Writer) -> bool:
    """What a constant condition keeps is a Gather."""
    condition, axis = writer.known(1), attribute(writer.node, "axis", None)
    if condition is None:
        return False
    kept = writer.store(np.flatnonzero(condition), "kept")
    x = writer.node.input[0] if axis is not None else writer.reshape(writer.node.input[0], [-1])
    writer.add("Gather", x, kept, to=writer.node.output[0], axis=0 if axis is None else axis)
    return True


def centre_crop_pad(writer: Writer) -> bool:
    """CenterCropPad as a Slice and a Pad of known sizes."""
    node, shape = writer.node, writer.shape()
    sizes = list(writer.shapes[node.output[0]])
    first = [(old - new) // 2 if old > new else 0 for old, new in zip(shape, sizes, strict=True)]
    ends = [begin + min(old, new) for begin, old, new in zip(first, shape, sizes, strict=True)]
    x = writer.add("Slice", node.input[0], writer.store(np.array(first), "begin"), writer.store(np.array(ends), "end"))
    begins = [max(new - old, 0) // 2 for old, new in zip(shape, sizes, strict=True)]
    rest = [max(new - old, 0) - begin for begin, old, new in zip(begins, shape, sizes, strict=True)]
    writer.add("Pad", x, writer.store(np.array([*begins, *rest], np.int64), "pads"), to=node.output[0])
    return True


def reverse_sequence(writer: Writer) -> bool:
    """Every position reads where its value comes from."""
    node, shape, lengths = writer.node, writer.shape(), writer.known(1)
    time, batch = int(attribute(node, "time_axis", 0)), int(attribute(node, "batch_axis", 1))
    if lengths is None or prod(shape) > MOST_CONSTANTS:
        return False
    steps = np.arange(shape[time])
    table = np.stack([np.where(steps < length, length - 1 - steps, steps) for length in lengths])
    order = [1] * len(shape)
    order[time], order[batch] = shape[time], shape[batch]
    index = (table if batch < time else table.T).reshape(order)
    writer.add("GatherElements", node.input[0], writer.store(np.broadcast_to(index, shape).astype(np.int64), "index"), to=node.output[0], axis=time)
    return True


def conv_integer(writer: Writer) -> bool:
    """ConvInteger as float convolutions of integers so small that all sums are exact: weights in two halves where one is too much."""
    node, weight, zero = writer.node, writer.known(1), writer.known(3)
    offset = writer.known(2)
    if weight is None or (writer.input(3) and zero is None) or (writer.input(2) and (offset is None or offset.size != 1)):
        return False
    centred = weight.astype(np.int32) - (
        0 if zero is None else zero.astype(np.int32).reshape([-1] + [1] * (weight.ndim - 1) if zero.size > 1 else ())
    )
    largest = 255 * prod(weight.shape[1:])
    if largest * 16 > EXACT:
        return False
    halves = [(centred, 1)] if largest * 255 <= EXACT else [(centred >> 4, 16), (centred & 15, 1)]
    x = writer.add("Cast", node.input[0], to_type=TensorProto.FLOAT)
    if offset is not None and offset.any():
        x = writer.add("Sub", x, writer.store(offset.astype(np.float32).reshape(()), "zero"))
    options = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    sums = []
    for codes, factor in halves:
        made = writer.add("Conv", x, writer.store(codes.astype(np.float32), "codes"), **options)
        exact = writer.add("Cast", made, to_type=TensorProto.INT32)
        sums.append(exact if factor == 1 else writer.add("Mul", exact, writer.store(np.int32(factor), "factor")))
    writer.add("Add" if len(sums) > 1 else "Identity", *sums, to=node.output[0])
    return True


RULES: Mapping[str, Callable[[Writer], bool]] = {
    "CenterCropPad": centre_crop_pad,
    "Compress": compress,
    "ConvInteger": conv_integer,
    "CumSum": cumulative_sum,
    "DFT": fourier,
    "Resize": cropped_resize,
    "ReverseSequence": reverse_sequence,
    "STFT": short_time_fourier,
    "TopK": top_k,
}


def written_out(node: NodeProto, shapes: Mapping[str, Sequence[int]], constants: Mapping[str, np.ndarray]) -> Writer | None:
    """The nodes that say what `node` says, None where there is no rule or it cannot say it."""
    rules = RUNTIME_RULES if node.domain == DOMAIN else RULES if node.domain in STANDARD_DOMAINS else {}
    rule = rules.get(node.op_type)
    if rule is None:
        return None
    writer = Writer(node, shapes, constants)
    return writer if rule(writer) else None


def typed(nodes: Sequence[NodeProto]) -> Sequence[NodeProto]:
    """Casts say their type under ONNX's name of it, which Python's `to` is not free for."""
    for node in nodes:
        for item in node.attribute:
            item.name = "to" if item.name == "to_type" else item.name
    return nodes


def model_with(model: onnx.ModelProto, replaced: Mapping[int, Writer]) -> onnx.ModelProto:
    """A copy where the nodes at these places are replaced."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    for place, node in enumerate(model.graph.node):
        copy.graph.node.extend(typed(replaced[place].nodes) if place in replaced else [node])
    copy.graph.initializer.extend(tensor for writer in replaced.values() for tensor in writer.stored)
    return copy
