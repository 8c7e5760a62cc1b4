"""Strides, kernels and pads of windowed ops in the program's form: pairs, explicit pads, 1-D as height 1."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from mpqc.passes.lib.base import attribute

Pair = tuple[int, int]
Quad = tuple[int, int, int, int]


def pair(values: Sequence[int]) -> Pair:
    """(vertical, horizontal) of one or two values; a single one belongs to the width, the height then being 1."""
    return (1, int(values[0])) if len(values) == 1 else (int(values[0]), int(values[1]))


def quad(values: Sequence[int]) -> Quad:
    """(top, left, bottom, right) of ONNX pads for one or two axes."""
    if len(values) == 2:
        return (0, int(values[0]), 0, int(values[1]))
    top, left, bottom, right = values
    return (int(top), int(left), int(bottom), int(right))


def spatial(shape: Sequence[int]) -> Pair:
    """(height, width) of [N, C, H, W] or [N, C, W]."""
    return (1, shape[2]) if len(shape) == 3 else (shape[2], shape[3])


def declared_pads(node: NodeProto, x_shape: Sequence[int], y_shape: Sequence[int], kernel: Pair, strides: Pair, dilations: Pair) -> Quad:
    """The pads that the node asks for; auto_pad worked out from the shapes."""
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return quad(attribute(node, "pads", [0, 0, 0, 0]))
    if mode == "VALID":
        return (0, 0, 0, 0)
    total = [max(0, need) for need in _needed(x_shape, y_shape, kernel, strides, dilations)]
    small = [part // 2 for part in total]
    large = [part - half for part, half in zip(total, small, strict=True)]
    begin, end = (small, large) if mode == "SAME_UPPER" else (large, small)
    return (begin[0], begin[1], end[0], end[1])


def explicit_pads(node: NodeProto, x_shape: Sequence[int], y_shape: Sequence[int], kernel: Pair, strides: Pair, dilations: Pair) -> Quad:
    """Pads with which plain windowing gives exactly `y_shape`: those declared, with ceil_mode's extra rows and columns added at the end,
    or without those that only a window would need that ceil_mode leaves out."""
    top, left, bottom, right = declared_pads(node, x_shape, y_shape, kernel, strides, dilations)
    needed = _needed(x_shape, y_shape, kernel, strides, dilations)
    return (top, left, _end(bottom, needed[0] - top, strides[0]), _end(right, needed[1] - left, strides[1]))


def _end(declared: int, needed: int, stride: int) -> int:
    """The end padding: at least `needed`, and less than a stride more."""
    return max(needed, 0) if declared - needed >= stride else max(declared, needed)


def _needed(x_shape: Sequence[int], y_shape: Sequence[int], kernel: Pair, strides: Pair, dilations: Pair) -> list[int]:
    sizes = zip(spatial(x_shape), spatial(y_shape), kernel, strides, dilations, strict=True)
    return [(out - 1) * stride + (size - 1) * step + 1 - inside for inside, out, size, stride, step in sizes]
