"""Resize, by explicit source positions and weights for each axis.

Positions are worked out in float32, as ONNX Runtime does, so that nearest picks the same neighbour. Source: ONNX Resize-19.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpqc.frontend.registry import op

Ints = Sequence[int]
Floats = Sequence[float]
COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")


def _refuse(attributes: Mapping[str, Any]) -> str:
    mode = attributes.get("coordinate_transformation_mode", "half_pixel")
    if mode not in COORDINATES:
        return f"Resize with coordinates {mode} is not supported"
    if attributes.get("antialias"):
        return "Resize with antialias is not supported"
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "Resize with keep_aspect_ratio_policy is not supported"
    return ""


@op(static=(1, 2, 3), ignored=("extrapolation_value",), refuse=_refuse)
def resize(
    x: Tensor,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    axes: Ints | None = None,
    antialias: int = 0,
    keep_aspect_ratio_policy: str = "stretch",
) -> Tensor:
    """x with `axes` (all by default) brought to `sizes` or scaled by `scales`."""
    chosen = [axis % x.ndim for axis in axes] if axes is not None else list(range(x.ndim))
    for index, axis in enumerate(chosen):
        size = x.shape[axis]
        scale = np.float32(scales[index]) if scales else np.float32(sizes[index]) / np.float32(size)  # type: ignore[index]
        target = int(sizes[index]) if sizes else int(np.floor(np.float32(size) * scale))
        if target == size and scale == 1.0:
            continue
        positions = source_positions(size, target, scale, coordinate_transformation_mode)
        indices, weights = taps(positions, size, mode, nearest_mode, cubic_coeff_a, bool(exclude_outside))
        x = _blend(x, axis, indices, weights)
    return x


def source_positions(size: int, target: int, scale: np.float32, coordinates: str) -> np.ndarray:
    """Position (float32) in an axis of length `size` that each of the `target` outputs looks at."""
    out, one, half = np.arange(target, dtype=np.float32), np.float32(1), np.float32(0.5)
    if coordinates == "asymmetric":
        return out / scale
    if coordinates == "align_corners":
        return out * np.float32(size - 1) / np.float32(target - 1) if target > 1 else np.zeros_like(out)
    if coordinates == "pytorch_half_pixel" and target == 1:
        return np.zeros_like(out)
    positions = (out + half) / scale
    if coordinates == "half_pixel_symmetric":
        adjustment = np.float32(target) / (scale * np.float32(size))
        positions = np.float32(size) / 2 * (one - adjustment) + positions
    return (positions - half).astype(np.float32)


def taps(positions: np.ndarray, size: int, mode: str, nearest: str, coefficient: float, exclude: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Source indices [target, taps] within the axis, and their weights (float32), None for nearest."""
    if mode == "nearest":
        return NEAREST[nearest](positions).astype(np.int64).clip(0, size - 1)[:, None], None
    if mode == "linear":
        inside = positions.clip(0, size - 1)
        low = np.floor(inside).astype(np.int64)
        upper = (inside - low).astype(np.float32)
        return np.stack([low, np.minimum(low + 1, size - 1)], 1), np.stack([1 - upper, upper], 1)
    return _cubic(positions, size, np.float32(coefficient), exclude)


def _cubic(positions: np.ndarray, size: int, a: np.float32, exclude: bool) -> tuple[np.ndarray, np.ndarray]:
    """Four taps of Keys' cubic convolution (R. Keys, 1981, equation 15 with parameter a)."""
    low = np.floor(positions).astype(np.int64)
    t = (positions - low).astype(np.float32)
    distances = np.stack([t + 1, t, 1 - t, 2 - t], 1)
    near = ((a + 2) * distances - (a + 3)) * distances * distances + 1
    far = ((a * distances - 5 * a) * distances + 8 * a) * distances - 4 * a
    weights = np.where(distances <= 1, near, far).astype(np.float32)
    indices = low[:, None] + np.arange(-1, 3)
    if exclude:
        weights = np.where((indices < 0) | (indices >= size), np.float32(0), weights)
        weights = weights / weights.sum(1, keepdims=True)
    return indices.clip(0, size - 1), weights


NEAREST: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda p: np.ceil(p - np.float32(0.5)),
    "round_prefer_ceil": lambda p: np.floor(p + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _blend(x: Tensor, axis: int, indices: np.ndarray, weights: np.ndarray | None) -> Tensor:
    parts = [x.index_select(axis, torch.from_numpy(np.ascontiguousarray(column))) for column in indices.T]
    if weights is None:
        return parts[0]
    shape = [-1 if dim == axis else 1 for dim in range(x.ndim)]
    factors = [torch.from_numpy(np.ascontiguousarray(column)).to(x.dtype).reshape(shape) for column in weights.T]
    return sum((part * factor for part, factor in zip(parts[1:], factors[1:], strict=True)), parts[0] * factors[0])
