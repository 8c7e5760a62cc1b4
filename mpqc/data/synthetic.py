"""Pictures made of nothing, for networks that no data was given for: noise has no edges and no areas, and activations know the difference.

Things hide each other: discs whose radii have a density of r^-3, each of one colour, later ones in front (Lee, Mumford and Huang, "Occlusion models
for natural images", IJCV 2001); edges, areas and spectrum are much like those of natural pictures. Contrast and brightness vary.
"""

from __future__ import annotations

import numpy as np

SMALLEST = 16
"""Rows and columns from which an input is taken for a picture"""
CHANNELS = (1, 3, 4)
COLOUR = 0.35
"""How much of a channel is its own; the rest is brightness, which all channels share"""
DISCS = 300
LEAST_RADIUS = 2.0


def takes_pictures(shape: tuple[int, ...]) -> bool:
    """Whether an input of this shape (NCHW) is one."""
    return len(shape) == 4 and shape[1] in CHANNELS and min(shape[2:]) >= SMALLEST


def picture(shape: tuple[int, ...], generator: np.random.Generator, span: tuple[float, float] | None) -> np.ndarray:
    """float32 [C, H, W] (the last three extents of `shape`) within `span`; mean 0 and deviation 1 without it."""
    made = _discs(shape[-3:], generator)
    made = (made - made.mean()) / max(float(made.std()), 1e-6)
    if span is None:
        return made.astype(np.float32)
    low, high = span
    middle, contrast = generator.uniform(0.4, 0.6), generator.uniform(0.2, 0.5)
    return np.clip(low + (high - low) * (middle + contrast * made), low, high).astype(np.float32)


def _discs(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    channels, *extents = shape
    made = np.zeros(shape)
    most = max(extents) / 2
    for share in generator.random(DISCS):
        radius = (LEAST_RADIUS**-2 + share * (most**-2 - LEAST_RADIUS**-2)) ** -0.5
        center = generator.random(2) * extents
        box = tuple(slice(max(int(at - radius), 0), int(at + radius) + 1) for at in center)
        shades = generator.standard_normal(channels + 1)
        _paint(made, box, center, radius, (1 - COLOUR) * shades[:1] + COLOUR * shades[1:])
    return made


def _paint(made: np.ndarray, box: tuple[slice, ...], center: np.ndarray, radius: float, colour: np.ndarray) -> None:
    rows, columns = (np.arange(extent, dtype=float)[part] for extent, part in zip(made.shape[1:], box, strict=True))
    inside = (rows[:, None] - center[0]) ** 2 + (columns[None] - center[1]) ** 2 < radius**2
    part = made[:, box[0], box[1]]
    part[:, inside] = colour[:, None]
