"""Resize that crops first (tf_crop_and_resize), as one Gather an axis, or two and their weighted sum; what lies outside is a constant.

Source: ONNX Resize-19; positions are computed in float32, in the order of ONNX Runtime's upsample.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mpqc.passes.lib.base import attribute
from mpqc.passes.lib.writer import Writer

CROPPING = "tf_crop_and_resize"
_NEAREST: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda at: np.ceil(at - np.float32(0.5)),
    "round_prefer_ceil": lambda at: np.floor(at + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def cropped_resize(writer: Writer) -> bool:
    """Nearest and linear; cubic, antialiasing and kept aspect ratios stay."""
    node, shape, roi = writer.node, writer.shape(), writer.known(1)
    if attribute(node, "coordinate_transformation_mode", "") != CROPPING or roi is None:
        return False
    mode = attribute(node, "mode", "nearest")
    if mode not in ("nearest", "linear") or attribute(node, "antialias", 0) or attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    sizes = list(writer.shapes[node.output[0]])
    axes = [axis % len(shape) for axis in attribute(node, "axes", []) or range(len(shape))]
    outside = np.zeros(sizes, bool)
    x = node.input[0]
    for index, axis in enumerate(axes):
        at = _positions(roi[index], roi[index + len(axes)], shape[axis], sizes[axis])
        beyond = (at < 0) | (at > shape[axis] - 1)
        outside |= beyond.reshape([-1 if place == axis else 1 for place in range(len(sizes))])
        x = _taken(writer, x, axis, np.where(beyond, 0, at), shape[axis], mode)
    if outside.any():
        fill = writer.store(np.float32(attribute(node, "extrapolation_value", 0.0)), "outside")
        writer.add("Where", writer.store(outside, "mask"), fill, x, to=node.output[0])
    else:
        writer.add("Identity", x, to=node.output[0])
    return True


def _positions(start: float, end: float, size: int, count: int) -> np.ndarray:
    """Where each result along an axis lies in the input: float32 [count]."""
    first, last, span = np.float32(start), np.float32(end), np.float32(size - 1)
    if count == 1:
        return np.array([np.float32(0.5) * (first + last) * span], np.float32)
    return first * span + np.arange(count, dtype=np.float32) * (last - first) * span / np.float32(count - 1)


def _taken(writer: Writer, x: str, axis: int, at: np.ndarray, size: int, mode: str) -> str:
    if np.array_equal(at, np.arange(size)):
        return x
    if mode == "nearest":
        places = _NEAREST[attribute(writer.node, "nearest_mode", "round_prefer_floor")](at)
        return writer.add("Gather", x, writer.store(np.clip(places, 0, size - 1).astype(np.int64), "places"), axis=axis)
    low = np.clip(np.floor(at), 0, size - 1).astype(np.int64)
    rank = len(writer.shape())
    share = (at - low).astype(np.float32).reshape([-1] + [1] * (rank - axis - 1))
    parts = []
    for places, weight in ((low, 1 - share), (np.minimum(low + 1, size - 1), share)):
        part = writer.add("Gather", x, writer.store(places, "places"), axis=axis)
        parts.append(writer.add("Mul", part, writer.store(weight, "share")))
    return writer.add("Add", *parts)
