"""Windows of convolutions and pools, written out: kernel_shape, strides, dilations, pads always there; no auto_pad, no ceil_mode.

SAME_UPPER/SAME_LOWER: out = ceil(in / stride), total padding = (out - 1) * stride + (kernel - 1) * dilation + 1 - in, at least 0, the odd
cell at the end (UPPER) or the beginning (LOWER). ConvTranspose: out = in * stride, total = (in - 1) * stride + output_padding +
(kernel - 1) * dilation + 1 - out; with output_shape the same formula from the asked-for out. Source: ONNX Conv-11, ConvTranspose-11.

ceil_mode becomes end padding up to where the last window ends. That is exact for MaxPool (padding never wins) and for AveragePool that does
not count padding; AveragePool that does count it gets its own padding as a Pad node in front, because the extra cells never count.
A window that would start behind the input and its begin padding is left out, as ONNX Runtime does (ONNX writes it down from MaxPool-22 on).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mpqc.errors import ModelError

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
POOLS = frozenset({"MaxPool", "AveragePool"})
Ints = Sequence[int]


def is_windowed(node: onnx.NodeProto) -> bool:
    """Whether `write_out` has something to say about the node."""
    return node.op_type in CONVOLUTIONS | POOLS and node.domain in ("", "ai.onnx")


def write_out(node: onnx.NodeProto, shape: Ints, weight: Ints) -> list[onnx.NodeProto]:
    """Nodes that say the same with every attribute explicit.

    Args:
        node: a Conv, ConvTranspose, MaxPool or AveragePool.
        shape: shape of its input.
        weight: shape of the weight, empty for pools.

    Raises ModelError where kernel and input do not match.
    """
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    _check_channels(node, given, shape, weight)
    window = _window(node, given, shape[2:], list(given.get("kernel_shape") or weight[2:]))
    if weight and list(weight[2:]) != list(window.kernel):
        raise ModelError("its kernel_shape is not that of its weight", where=f"{node.op_type} {node.name!r}")
    pads = _pads(node, window, given.pop("auto_pad", b"NOTSET").decode(), given)
    if node.op_type == "ConvTranspose" and min(pads, default=0) < 0:
        pads = _more_output(window, pads, given)
    _check_extent(node, window, pads)
    before: list[onnx.NodeProto] = []
    if given.pop("ceil_mode", 0):
        before, pads = _without_ceil(node, window, pads, given)
    given.pop("output_shape", None)
    given.update(kernel_shape=window.kernel, strides=window.strides, dilations=window.dilations, pads=pads)
    if node.op_type in CONVOLUTIONS:
        given.setdefault("group", 1)
    explicit = helper.make_node(node.op_type, before[-1].output[:1] + node.input[1:] if before else node.input, node.output, node.name)
    explicit.attribute.extend(helper.make_attribute(name, given[name]) for name in sorted(given))
    return [*before, explicit]


def _check_channels(node: onnx.NodeProto, given: dict[str, Any], shape: Ints, weight: Ints) -> None:
    convolution = node.op_type in CONVOLUTIONS
    if len(shape) < 3 or (convolution and len(weight) != len(shape)):
        raise ModelError("its input has too few dimensions", where=f"{node.op_type} {node.name!r}", why=f"input {list(shape)}, weight {list(weight)}")
    if not convolution:
        return
    group = given.get("group", 1)
    wanted = weight[1] * group if node.op_type == "Conv" else weight[0]
    if group < 1 or shape[1] != wanted or weight[0] % group:
        why = f"input {list(shape)}, weight {list(weight)}, group {group}"
        raise ModelError("its input does not fit its weight", where=f"{node.op_type} {node.name!r}", why=why)


def _check_extent(node: onnx.NodeProto, window: _Window, pads: Ints) -> None:
    rank = len(window.kernel)
    for axis in range(rank):
        room = window.size[axis] + pads[axis] + pads[rank + axis]
        if node.op_type != "ConvTranspose" and window.extent(axis) > room:
            raise ModelError("its window is larger than its padded input", where=f"{node.op_type} {node.name!r}", why=f"input {list(window.size)}")


def _window(node: onnx.NodeProto, given: dict[str, Any], size: Ints, kernel: Ints) -> _Window:
    rank = len(kernel)
    lists = [list(given.get(name) or [default] * rank) for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0))]
    if any(len(values) != len(size) for values in (kernel, *lists)) or min((*kernel, *lists[0], *lists[1]), default=1) < 1:
        raise ModelError("its window does not fit its input", where=f"{node.op_type} {node.name!r}", why=f"kernel {list(kernel)}, input {list(size)}")
    return _Window(size, list(kernel), *lists)


@dataclass(frozen=True)
class _Window:
    size: Ints
    kernel: Ints
    strides: Ints
    dilations: Ints
    output_padding: Ints

    def extent(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1


def _pads(node: onnx.NodeProto, window: _Window, auto: str, given: dict[str, Any]) -> list[int]:
    rank = len(window.kernel)
    if node.op_type == "ConvTranspose" and (given.get("output_shape") or auto.startswith("SAME")):
        return _split(_transposed_totals(window, given.get("output_shape")), auto == "SAME_UPPER")
    if auto == "NOTSET":
        return list(given.get("pads") or [0] * 2 * rank)
    if auto == "VALID":
        return [0] * 2 * rank
    totals = [_same_total(window, axis) for axis in range(rank)]
    return _split(totals, auto == "SAME_UPPER")


def _same_total(window: _Window, axis: int) -> int:
    out = -(-window.size[axis] // window.strides[axis])
    return max((out - 1) * window.strides[axis] + window.extent(axis) - window.size[axis], 0)


def _transposed_totals(window: _Window, output_shape: Ints | None) -> list[int]:
    totals = []
    for axis, size in enumerate(window.size):
        out = output_shape[-len(window.kernel) + axis] if output_shape else size * window.strides[axis]
        totals.append((size - 1) * window.strides[axis] + window.output_padding[axis] + window.extent(axis) - out)
    return totals


def _more_output(window: _Window, pads: Ints, given: dict[str, Any]) -> list[int]:
    """Pads of at least 0: an output larger than what the windows reach gets the rest at its end, as ONNX Runtime gives it."""
    rank = len(window.kernel)
    totals = [pads[axis] + pads[rank + axis] for axis in range(rank)]
    given["output_padding"] = [extra - min(total, 0) for extra, total in zip(window.output_padding, totals, strict=True)]
    return [0 if totals[axis % rank] < 0 else pads[axis] for axis in range(2 * rank)]


def _split(totals: Ints, upper: bool) -> list[int]:
    """The odd cell at the end for SAME_UPPER, at the beginning otherwise."""
    begins = [total // 2 if upper else total - total // 2 for total in totals]
    return [*begins, *(total - begin for total, begin in zip(totals, begins, strict=True))]


def output_size(size: int, extent: int, stride: int, begin: int, end: int) -> int:
    """Number of windows along an axis in ceil mode."""
    count = -(-(size + begin + end - extent) // stride) + 1
    return count - 1 if (count - 1) * stride >= size + begin else count


def floor_window(node: onnx.NodeProto, shape: Ints) -> list[int]:
    """Pads with which a pool has the same windows without ceil_mode. `shape`: that of its input. Raises ModelError where they do not match."""
    given = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    _check_channels(node, given, shape, ())
    window = _window(node, given, shape[2:], list(given.get("kernel_shape") or ()))
    pads = _pads(node, window, given.get("auto_pad", b"NOTSET").decode(), given)
    _check_extent(node, window, pads)
    return [*pads[: len(window.size)], *_floor_ends(window, pads)]


def _floor_ends(window: _Window, pads: Ints) -> list[int]:
    """End pads up to where the last window of ceil_mode ends."""
    rank, ends = len(window.size), []
    for axis, stride in enumerate(window.strides):
        begin, end, extent = pads[axis], pads[rank + axis], window.extent(axis)
        count = output_size(window.size[axis], extent, stride, begin, end)
        plain = (window.size[axis] + begin + end - extent) // stride + 1
        ends.append(end if count == plain else max((count - 1) * stride + extent - window.size[axis] - begin, 0))
    return ends


def _without_ceil(node: onnx.NodeProto, window: _Window, pads: Ints, given: dict[str, Any]) -> tuple[list[onnx.NodeProto], list[int]]:
    rank, ends = len(window.kernel), _floor_ends(window, pads)
    if not given.get("count_include_pad") or ends == list(pads[rank:]):
        return [], [*pads[:rank], *ends]
    given["count_include_pad"] = 0
    if not any(pads):
        return [], [*pads[:rank], *ends]
    return _pad_first(node, pads), [0] * rank + [end - pad for end, pad in zip(ends, pads[rank:], strict=True)]


def _pad_first(node: onnx.NodeProto, pads: Ints) -> list[onnx.NodeProto]:
    rank = len(pads) // 2
    full = np.array([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64)
    names = f"{node.output[0]}_pads", f"{node.output[0]}_padded"
    stored = helper.make_node("Constant", [], [names[0]], names[0], value=numpy_helper.from_array(full, names[0]))
    return [stored, helper.make_node("Pad", [node.input[0], names[0]], [names[1]], names[1])]
