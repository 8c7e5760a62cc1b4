"""float32 matrix products: register tiles of 8 rows by 8 columns, one column panel packed for many rows.

FMLA by lane on a Cortex-A76: a tile takes 8 + 8 loads and 64 FMLA for four steps of the reduction, 32 cycles. The panel of
the second operand [K, 8] is copied to scratch once for up to ROWS rows; a single row streams the second operand instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from mpqc.lowering.kernels.batch import batch
from mpqc.lowering.kernels.tir import Expr, Param, T, bind, function, load, loop, pieces, registers, splat, store

PANEL = 8
"""Columns of a tile"""
TILE_ROWS = 8
ROWS = 64
"""Rows that share one packed panel"""
STREAM = 32
"""Columns that a single row is multiplied with at a time"""

Pack = Callable[[Expr, Expr, int], None]
"""pack(scratch, panel, columns): writes the panel as [K, 8]"""


@dataclass(frozen=True)
class Product:
    """`batch` products of [rows, depth] with [depth, columns]; offsets of each batch in the three buffers."""

    batch: int
    rows: int
    depth: int
    columns: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.batch * self.rows * self.depth * self.columns


def emit_rows(a: tuple[Expr, Expr], panel: Expr, out: tuple[Expr, Expr], shape: tuple[int, int, int], pitch: int, columns: int) -> None:
    """Rows of the output for one packed panel. a: buffer and offset; shape: rows, depth, pitch of a; `pitch` of the output."""
    rows, depth, a_pitch = shape

    def some(first: Expr, count: int) -> None:
        _tile((a[0], a[1] + first * a_pitch), panel, (out[0], out[1] + first * pitch), (count, depth, a_pitch), pitch, columns)

    whole = rows // TILE_ROWS
    if whole:
        with T.serial(0, whole) as i:
            some(i * TILE_ROWS, TILE_ROWS)
    if rows % TILE_ROWS:
        some(whole * TILE_ROWS, rows % TILE_ROWS)


def _tile(a: tuple[Expr, Expr], panel: Expr, out: tuple[Expr, Expr], shape: tuple[int, int, int], pitch: int, columns: int) -> None:
    rows, depth, a_pitch = shape
    acc = registers(rows * PANEL, "float32")
    for i in range(2 * rows):
        store(acc, 4 * i, splat(T.float32(0), 4), 4)
    for first, repeats, width in pieces(depth, (4, 1)):
        with T.serial(0, repeats) as block:
            k = first + block * width
            left = registers(rows * width, "float32")
            for i in range(rows):
                store(left, i * width, load(a[0], a[1] + i * a_pitch + k, width), width)
            for step in range(width):
                right = [bind(load(panel, (k + step) * PANEL + 4 * j, 4)) for j in (0, 1)]
                for i in range(rows):
                    lane = splat(left[i * width + step], 4)
                    for j in (0, 1):
                        at = i * PANEL + 4 * j
                        store(acc, at, load(acc, at, 4) + lane * right[j], 4)
    for i in range(rows):
        for first, repeats, width in pieces(columns, (4, 2, 1)):
            for n in range(repeats):
                at = first + n * width
                store(out[0], out[1] + i * pitch + at, load(acc, i * PANEL + at, width), width)


def pack_columns(source: Expr, at: Expr, depth: int, pitch: int, columns: int, scratch: Expr) -> None:
    """[depth, columns] at a row pitch, as [depth, 8]; what lies beyond the columns is left as it is and never stored."""
    with T.serial(0, depth) as k:
        for first, repeats, width in pieces(columns, (8, 4, 2, 1)):
            for n in range(repeats):
                start = first + n * width
                store(scratch, k * PANEL + start, load(source, at + k * pitch + start, width), width)


def panels(columns: int) -> tuple[int, int]:
    """How many panels, and columns of each; the last of several overlaps its neighbour."""
    return (-(-columns // PANEL), PANEL) if columns >= PANEL else (1, columns)


def panel_start(index: Expr, columns: int) -> Expr:
    """First column of a panel."""
    return index * PANEL if columns % PANEL == 0 else T.max(0, T.min(index * PANEL, columns - PANEL))


def matmul(name: str, p: Product, a_shape: tuple[int, ...], b_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> tirx.PrimFunc:
    """out[..., M, N] = a[..., M, K] x b[..., K, N]; batches of either operand broadcast as in numpy."""

    def body(a: Expr, b: Expr, out: Expr) -> None:
        if p.rows == 1:
            _stream(p, a, b, out, lambda n: (batch(n, out_shape, a_shape), batch(n, out_shape, b_shape)))
            return
        count, width = panels(p.columns)
        chunks = -(-p.rows // ROWS)
        with loop(p.batch * count * chunks, ROWS * p.depth * PANEL) as task:
            n, rest = bind(T.floordiv(task, count * chunks)), bind(T.floormod(task, count * chunks))
            column, chunk = bind(panel_start(T.floordiv(rest, chunks), p.columns)), T.floormod(rest, chunks)
            scratch = T.alloc_buffer((p.depth * PANEL,), "float32")
            a_at, b_at = batch(n, out_shape, a_shape), batch(n, out_shape, b_shape)
            pack_columns(b, b_at * (p.depth * p.columns) + column, p.depth, p.columns, width, scratch)
            rows = min(ROWS, p.rows)
            first = bind(T.min(chunk * ROWS, p.rows - rows))  # the last chunk overlaps: both write the same values
            left = (a, (a_at * p.rows + first) * p.depth)
            emit_rows(left, scratch, (out, (n * p.rows + first) * p.columns + column), (rows, p.depth, p.depth), p.columns, width)

    params = [Param("a", a_shape, "float32"), Param("b", b_shape, "float32"), Param("out", out_shape, "float32")]
    return function(name, params, body)


def _stream(p: Product, a: Expr, b: Expr, out: Expr, where: Callable[[Expr], tuple[Expr, Expr]]) -> None:
    """One row: STREAM columns at a time, down the rows of b."""
    for first, repeats, width in pieces(p.columns, (STREAM, 8, 4, 1)):
        with loop(p.batch * repeats, p.depth * width) as task:
            n, block = bind(T.floordiv(task, repeats)), T.floormod(task, repeats)
            a_at, b_at = where(n)
            column = bind(first + block * width)
            acc, lanes = registers(width, "float32"), min(width, 4)
            for j in range(0, width, lanes):
                store(acc, j, splat(T.float32(0), lanes), lanes)
            with T.serial(0, p.depth) as k:
                left = splat(bind(a[a_at * p.depth + k]), lanes)
                for j in range(0, width, lanes):
                    store(acc, j, load(acc, j, lanes) + left * load(b, (b_at * p.depth + k) * p.columns + column + j, lanes), lanes)
            for j in range(0, width, lanes):
                store(out, n * p.columns + column + j, load(acc, j, lanes), lanes)
