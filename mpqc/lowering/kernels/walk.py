"""Lists of element positions as loops: what a data movement reads, found from its index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpqc.lowering.kernels.tir import Expr, Nest, load, store
from mpqc.lowering.kernels.transpose import TILE, interleaved, tiles, transposed


@dataclass(frozen=True, eq=False)
class Walk:
    """A list of positions as a table of starts and affine loops inside: positions = starts[...] + sum(i_k * steps[k])."""

    starts: np.ndarray
    sizes: tuple[int, ...]
    """Outermost first"""
    steps: tuple[int, ...]


def walk(positions: np.ndarray) -> Walk:
    """The shortest table for `positions` (int64 [n]): affine loops are peeled off from the inside while they fit."""
    sizes: list[int] = []
    steps: list[int] = []
    while positions.size > 1 and (size := _run(positions)) > 1:
        steps.insert(0, int(positions[1] - positions[0]))
        sizes.insert(0, size)
        positions = positions[::size]
    return Walk(positions, tuple(sizes), tuple(steps))


def _run(positions: np.ndarray) -> int:
    """Largest size that divides `positions` into runs of one common step."""
    differences = np.diff(positions)
    breaks = np.flatnonzero(differences != differences[0])
    longest = int(breaks[0]) + 1 if breaks.size else positions.size
    for size in range(longest, 1, -1):
        if positions.size % size == 0 and (np.diff(positions.reshape(-1, size), axis=1) == differences[0]).all():
            return size
    return 1


def written(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Steps of loops of `sizes` that write one element after the other."""
    return tuple(int(np.prod(sizes[i + 1 :], dtype=np.int64)) for i in range(len(sizes)))


def transposition(path: Walk) -> int | None:
    """The loop along which the source is contiguous, where the innermost one is not: its tiles are better transposed in registers.

    None where no such loop is long enough: both need TILE elements, or the innermost 2 to 4 and the contiguous one right around it.
    """
    if len(path.sizes) < 2 or path.steps[-1] == 1:
        return None
    found = next((i for i, (size, step) in enumerate(zip(path.sizes[:-1], path.steps, strict=False)) if step == 1 and size >= TILE), None)
    innermost = path.sizes[-1]
    if found is not None and (innermost >= TILE or (2 <= innermost <= 4 and found == len(path.sizes) - 2)):
        return found
    return None


def emit_transposition(nest: Nest, axis: int, source: Expr, start: Expr, out: Expr, base: Expr, threads: bool) -> None:
    """Emits the copy of one-byte elements of `nest` (output and source strides), contiguous in the source along loop `axis`."""
    rest = [i for i in range(len(nest.sizes) - 1) if i != axis]
    outer = Nest(tuple(nest.sizes[i] for i in rest), (tuple(nest.strides[0][i] for i in rest), tuple(nest.strides[1][i] for i in rest)))
    inner, step, out_step = nest.sizes[-1], nest.strides[1][-1], nest.strides[0][axis]

    def tile(matrix: Expr, row: Expr, column: Expr) -> None:
        to, come = outer.offsets(matrix)
        count = min(inner, TILE)
        rows = [load(source, start + come + (column + i) * step + row, TILE) for i in range(count)]
        if count < TILE:
            store(out, base + to + row * out_step, interleaved(rows, TILE), TILE * count)
            return
        for j, vector in enumerate(transposed(rows)):
            store(out, base + to + (row + j) * out_step + column, vector, TILE)

    tiles(int(np.prod(outer.sizes, dtype=np.int64)), nest.sizes[axis], max(inner, TILE), tile, threads=threads)
