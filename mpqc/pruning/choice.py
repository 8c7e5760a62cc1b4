"""Which channels go first: a greedy ranking by what a removal is expected to cost for each weight that it saves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

MULTIPLE = 4
"""Channels that a layer keeps come in fours: dot products take four inputs at a time and vectors hold four sums, so kernels pad others"""
LEAST_SHARE = 0.25
"""Part of its channels that a layer keeps: beyond, the estimate of what one removal costs has nothing left that it was made for"""


@dataclass(frozen=True)
class Layer:
    """A layer whose output channels may go, before any did."""

    channels: int
    elements: int
    """Of its weight"""
    reader: str
    """Name of the layer that reads the channels"""
    reader_elements: int
    between: int = 0
    """Elements of depthwise weights on the way"""

    @property
    def least(self) -> int:
        """Channels that stay in any case."""
        return min(self.channels, max(MULTIPLE, MULTIPLE * math.ceil(LEAST_SHARE * self.channels / MULTIPLE)))


@dataclass(frozen=True)
class Unit:
    """Channels of one layer that go together, and the weights that this saves where what was ranked before is gone."""

    layer: str
    channels: tuple[int, ...]
    saved: float
    loss: float


@dataclass(eq=False)
class _State:
    layers: Mapping[str, Layer]
    losses: Mapping[str, np.ndarray]
    """Of every channel; those that are gone count nothing"""
    waiting: dict[str, list[int]]
    """Channels that are there still, the least important first"""
    producers: dict[str, str] = field(default_factory=dict)

    def next(self, name: str) -> Unit | None:
        """What goes next from a layer."""
        waiting, layer = self.waiting[name], self.layers[name]
        count = len(waiting) % MULTIPLE or MULTIPLE
        if len(waiting) - count < layer.least:
            return None
        channels = tuple(waiting[:count])
        return Unit(name, channels, count * self._saving(name), float(sum(self.losses[name][channel] for channel in channels)))

    def _saving(self, name: str) -> float:
        """Weights that one channel is read and made by."""
        layer = self.layers[name]
        made = layer.elements * self._kept(self.producers.get(name, "")) + layer.between
        return (made + layer.reader_elements * self._kept(layer.reader)) / layer.channels

    def _kept(self, name: str) -> float:
        return len(self.waiting[name]) / self.layers[name].channels if name in self.layers else 1.0


def ranked(layers: Mapping[str, Layer], losses: Mapping[str, np.ndarray], gone: Mapping[str, frozenset[int]]) -> Iterator[Unit]:
    """All that may go after `gone`, in the order in which it should: the smallest loss a saved weight first.

    `losses` has one value a channel that a layer had at first. Ties fall to the layer that comes first.
    """
    waiting = {name: _waiting(losses[name], gone.get(name, frozenset())) for name in layers}
    state = _State(layers, losses, waiting, {layer.reader: name for name, layer in layers.items()})
    while units := [unit for name in layers if (unit := state.next(name)) is not None]:
        unit = min(units, key=lambda unit: unit.loss / max(unit.saved, 1e-30))
        del state.waiting[unit.layer][: len(unit.channels)]
        yield unit


def _waiting(losses: np.ndarray, gone: frozenset[int]) -> list[int]:
    return [int(channel) for channel in np.argsort(losses, kind="stable") if int(channel) not in gone]
