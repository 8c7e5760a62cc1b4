"""Turning planes of one channel into pixels of all channels and back, sixteen by sixteen codes in registers."""

from __future__ import annotations

from collections.abc import Callable

from mpqc.lowering.kernels.tir import Expr, T, bind, loop

TILE = 16


def transposed(rows: list[Expr]) -> list[Expr]:
    """The columns of sixteen int8x16 rows: four rounds of ZIP1 and ZIP2 between rows i and i + 8."""
    for _ in range(4):
        rows = [bind(_zip(rows[i], rows[i + 8], half)) for i in range(8) for half in (0, 1)]
    return rows


def _zip(a: Expr, b: Expr, half: int) -> Expr:
    return T.Shuffle([a, b], [i for k in range(8 * half, 8 * half + 8) for i in (k, 16 + k)])


def interleaved(planes: list[Expr], lanes: int) -> Expr:
    """One vector a0 b0 c0 a1 b1 c1 ... of planes a, b, c: stored, it becomes ST2, ST3 or ST4."""
    return T.Shuffle(planes, [p * lanes + i for i in range(lanes) for p in range(len(planes))])


def tiles(outer: int, rows: int, columns: int, body: Callable[[Expr, Expr, Expr], None], *, threads: bool = True) -> None:
    """Loops over `outer` matrices and their tiles; the last tile of a row or column overlaps its neighbour. `rows`, `columns` >= TILE."""
    blocks = -(-rows // TILE)
    total = outer * blocks
    with loop(total, TILE * columns if threads else 0) as i:
        matrix, block = T.floordiv(i, blocks), T.floormod(i, blocks)
        row = bind(_start(block, rows))
        with T.serial(0, -(-columns // TILE)) as j:
            body(matrix, row, bind(_start(j, columns)))


def _start(block: Expr, size: int) -> Expr:
    return block * TILE if size % TILE == 0 else T.min(block * TILE, size - TILE)
