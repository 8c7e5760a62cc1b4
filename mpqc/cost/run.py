"""One run of a kernel, as what it costs is computed from it: shape, widths, caches, and what else of the core matters."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from mpqc.facts.kernels import PIXEL_TILES
from mpqc.targets import Shape
from mpqc.targets.schema import Caches
from mpqc.values.qtype import QType

Widths = tuple[int | None, int]
"""Containers of weights and activations, in bits."""


@dataclass(frozen=True)
class Context:
    """What a kernel run shares the caches with: bytes of weights of the whole network, read once between two runs of the kernel."""

    network_weight_bytes: float = 0.0


@dataclass(frozen=True)
class Run:
    """One kernel run: what the quantities are computed from."""

    shape: Shape
    widths: Widths
    caches: Caches
    context: Context = Context()
    form: str = "dotprod"
    """Of the product on this core (facts/features.py)"""
    cores: int = 1
    """That the kernels share their work among"""

    @property
    def pixel_tile(self) -> int:
        """Output pixels that the form of the product takes together."""
        return PIXEL_TILES[self.form]

    @property
    def stored_bits(self) -> int:
        """Bits that a weight has in memory; 0 where the kernel has none."""
        return 0 if self.widths[0] is None else QType(self.widths[0]).container

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights as stored."""
        return self.shape.out_c * self.shape.taps * self.stored_bits / 8

    @property
    def activation_bytes(self) -> float:
        """Bytes of inputs and outputs, each in whole bytes."""
        return float((self.shape.inputs + self.shape.outputs) * ceil(self.widths[1] / 8))

    def beyond(self, cache_bytes: int) -> float:
        """Bytes that this run fetches from beyond a cache of `cache_bytes`.

        Nothing while all that is read between two runs takes up to half the cache, everything from twice its size on (least
        recently used lines go first, pages crowd some sets before others), linear between.
        """
        own = self.weight_bytes + self.activation_bytes
        held = max(own, self.context.network_weight_bytes + self.activation_bytes)
        return self.weight_bytes * overflow(held, cache_bytes) + self.activation_bytes * overflow(own, cache_bytes)

    def overflow(self, cache_bytes: int) -> float:
        """Share of this run's own bytes that do not stay in a cache of `cache_bytes` from one run to the next."""
        return overflow(self.weight_bytes + self.activation_bytes, cache_bytes)


def overflow(used: float, cache_bytes: int) -> float:
    """Share of what is read that does not stay in a cache, where `used` bytes are read between two uses."""
    return min(max((used / cache_bytes - 0.5) / 1.5, 0.0), 1.0) if cache_bytes else 0.0
