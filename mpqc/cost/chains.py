"""Quantities of kernels that multiply by SMULL and add products up in int16 (cores without SDOT): what they cost follows weight plus activation bits.

One multiplication gives eight products whatever their widths; how many of them a lane of int16 takes before SADALP adds it to int32 depends
on both widths (`chain_products`). So prices of a unit are the same for all widths, and are fitted to the rows of all widths together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

from mpqc.cost.run import Run
from mpqc.facts.kernels import (
    CHANNEL_TILE,
    LANES,
    LARGE_BLOCK_BYTES,
    LARGE_WEIGHT_BYTES,
    VECTOR,
    WRITTEN_BLOCK_BYTES,
    chain_products,
    gathers,
    longest_chain,
)

UNPACKED = (2, 4)
"""Widths of stored weights that are widened before they are multiplied"""


@dataclass(frozen=True)
class Chains:
    """How a convolution or fully connected layer is summed."""

    run: Run

    @property
    def outputs(self) -> int:
        """Outputs, channels of each group in whole tiles."""
        shape = self.run.shape
        return shape.pixels * ceil(shape.out_c // shape.groups / CHANNEL_TILE) * CHANNEL_TILE * shape.groups

    @property
    def segments(self) -> int:
        """Runs of neighbouring input bytes."""
        shape = self.run.shape
        if self.is_gathered:
            return 1
        return shape.kernel_h * (1 if shape.groups == 1 else shape.kernel_w)

    @property
    def is_gathered(self) -> bool:
        """Whether the rows of each window are copied one behind the other."""
        shape = self.run.shape
        return shape.groups == 1 and gathers(shape.kernel_h, shape.kernel_w * shape.in_c)

    @property
    def steps(self) -> int:
        """Multiplications of a segment, for one output."""
        return ceil(self.run.shape.taps / self.segments / LANES)

    @property
    def chain(self) -> int:
        """Vectors that are surely summed in int16: all, or so many of a segment; 0 for less than one."""
        weights, inputs = self.run.widths
        most = chain_products(weights or inputs, inputs)
        return longest_chain(self.segments, self.vectors, lambda vectors: self._products(vectors) <= most)

    def _products(self, vectors: int) -> int:
        """Products of a lane in a chain of so many vectors; the last vector of a segment may be half a one."""
        whole = self.segments * self.vectors
        return self.segments * self.steps if vectors >= whole else min(2 * vectors, self.steps)

    @property
    def vectors(self) -> int:
        """Vectors of a segment, a half one counted whole."""
        return ceil(self.steps * LANES / VECTOR)

    @property
    def widenings(self) -> int:
        """Additions to int32, for one output."""
        if self.chain >= self.segments * self.vectors:
            return 1
        return self.segments * (ceil(self.vectors / self.chain) if self.chain else self.steps)

    @property
    def is_long(self) -> bool:
        """Whether int16 sums have registers of their own, so that int32 ones have not."""
        return self.chain > 2 and self.widenings > 1

    @property
    def tiles(self) -> float:
        """Register tiles."""
        return ceil(self.run.shape.pixels / self.run.pixel_tile) * self.outputs / self.run.shape.pixels / CHANNEL_TILE

    @property
    def is_large(self) -> bool:
        """Whether weights are read so seldom that outputs do not stay in L1."""
        return self.run.shape.out_c * self.run.shape.taps > LARGE_WEIGHT_BYTES

    @property
    def blocks(self) -> float:
        """How often weights are read, and widened."""
        shape = self.run.shape
        return max(1.0, shape.inputs / LARGE_BLOCK_BYTES if self.is_large else (shape.inputs + shape.outputs) / WRITTEN_BLOCK_BYTES)


def _of(take: Callable[[Chains], float]) -> Callable[[Run], float]:
    return lambda run: take(Chains(run))


def _unpacked(bits: int) -> Callable[[Run], float]:
    def values(run: Run) -> float:
        chains = Chains(run)
        return run.shape.out_c * run.shape.taps * chains.blocks if run.stored_bits == bits else 0.0

    return values


def _padded(run: Run) -> float:
    shape = run.shape
    return shape.inputs if (shape.out_h - 1) * shape.stride_h + shape.kernel_h > shape.in_h or shape.taps % VECTOR else 0.0


def _gathered_rows(run: Run) -> float:
    shape = run.shape
    return shape.pixels * shape.kernel_h * ceil(shape.kernel_w * shape.in_c / VECTOR) if Chains(run).is_gathered else 0.0


STORES: Mapping[str, Callable[[Run], float]] = {
    "outputs beyond L1": lambda run: run.shape.outputs * run.overflow(run.caches.l1d_bytes),
}
"""Of every kernel: these cores wait for a store that misses L1"""
MATRIX: Mapping[str, Callable[[Run], float]] = {
    "multiplications": _of(lambda chains: chains.outputs * chains.segments * chains.steps),
    "sums widened": _of(lambda chains: chains.outputs * chains.widenings),
    "sums of long chains widened": _of(lambda chains: chains.outputs * chains.widenings if chains.is_long else 0),
    "outputs": _of(lambda chains: chains.outputs),
    **STORES,
    "outputs of large layers": _of(lambda chains: chains.outputs if chains.is_large else 0),
    "multiplications of few pixels": _of(lambda chains: chains.outputs * chains.segments * chains.steps if chains.run.shape.pixels < 3 else 0),
    "tiles": _of(lambda chains: chains.tiles),
    "rows of tiles": _of(lambda chains: chains.tiles * chains.segments),
    "input values copied": _padded,
    "rows of windows copied": _gathered_rows,
    **{f"weight values of {bits} bits unpacked": _unpacked(bits) for bits in UNPACKED},
}
"""Of convolutions and fully connected layers, beside what every kernel has"""


def _runs_of_taps(run: Run) -> float:
    weights, inputs = run.widths
    taps = run.shape.kernel_h * run.shape.kernel_w
    return run.shape.outputs * ceil(taps / chain_products(weights or inputs, inputs))


def _copied(run: Run) -> float:
    """Input values that one patch after the other would read, were each patch the whole image; padding included."""
    shape = run.shape
    rows, columns = ((out - 1) * stride + kernel for out, stride, kernel in _axes(run))
    return shape.out_c * rows * columns


def _axes(run: Run) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    shape = run.shape
    return (shape.out_h, shape.stride_h, shape.kernel_h), (shape.out_w, shape.stride_w, shape.kernel_w)


WINDOW: Mapping[str, Callable[[Run], float]] = {
    "sums widened": _runs_of_taps,
    **STORES,
    "input values copied": _copied,
    "rows of outputs": lambda run: run.shape.out_c * run.shape.out_h,
}
"""Of depthwise convolutions, beside what they have on all cores"""
