"""The inner code of F(4x4,3x3) in int16 on cores without SDOT: transforms of inputs, weights and products (numerics/winograd16.py), SMLAL by lane.

Sums of int32 are meant modulo 2^32. LLVM is told by TVM that they do not wrap; nothing that it could conclude from that is used: no sum is
compared or widened, and the factor that undoes the scale is read from memory, so that the shift after it is not folded into it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mpqc.facts.kernels import LARGE_CHANNELS, LARGE_LANES, LARGE_POSITIONS, LARGE_TILES
from mpqc.lowering.kernels.emit import Buffer, Expr, load, neon, splat, store
from mpqc.lowering.kernels.micro import Operand, sign_extended

LANES = LARGE_LANES
"""int16 of a vector: input channels that are transformed together"""
TILES, CHANNELS = LARGE_TILES, LARGE_CHANNELS
"""Tiles and output channels of a register tile: sixteen accumulators of four channels"""
GROUP = TILES * LANES
"""Transformed inputs of a register tile for a vector of input channels"""
STEP = LANES * CHANNELS
"""Transformed weights of a panel for a vector of input channels"""
SUMS = TILES * CHANNELS
"""Sums of a register tile"""
ROWS = (1, 2, 3, 4, 0, 5)
"""Rows of positions in the order in which they are computed: sums and differences of 1 and 2, of 3 and 4, are soon used and forgotten"""


def _bound(value: Expr) -> Expr:
    return T.Bind(value)


def _up(value: Expr, power: int, dtype: str = "int16", lanes: int = LANES) -> Expr:
    """`value` times 2^power."""
    return T.shift_left(value, splat(tirx.const(power, dtype), lanes))


def transformed_inputs(d: Sequence[Expr]) -> list[Expr]:
    """Six neighbours along an axis, int16x8."""
    even, odd = _bound(d[4] - _up(d[2], 2)), _bound(d[3] - _up(d[1], 2))
    near, far = _bound(d[4] - d[2]), _bound(_up(d[3] - d[1], 1))
    first = near + _up(d[0] - d[2], 2)
    last = (d[5] - d[3]) - _up(far, 1)
    return [_bound(value) for value in (first, even + odd, even - odd, near + far, near - far, last)]


def transform_patch(x: Operand, pitches: tuple[int, int], to: Buffer, places: Sequence[Expr]) -> None:
    """Eight channels of one patch of 6x6 codes: rows are `pitches[0]` bytes apart, columns `pitches[1]`; position p goes to places[p]."""
    n = LARGE_POSITIONS
    columns = []
    for j in range(n):
        column = [_bound(T.cast(load(x.buffer, x.at + i * pitches[0] + j * pitches[1], LANES), "int16x8")) for i in range(n)]
        columns.append(transformed_inputs(column))
    for i in range(n):
        for j, value in enumerate(transformed_inputs([column[i] for column in columns])):
            store(to, places[i * n + j], LANES, value)


def _combined(r: int, g: Sequence[Expr]) -> Expr:
    """Three taps along an axis at position r, int16x8; g[1] is not read at the ends, nor is one of the others."""
    if r in (0, 5):
        return g[0] if r == 0 else g[2]
    sign = 1 if r in (1, 3) else -1
    outer, middle = (g[0] + g[2], g[1]) if r in (1, 2) else (g[0] + _up(g[2], 2), _up(g[1], 1))
    return outer + middle if sign > 0 else outer - middle


def _along(g: Sequence[Expr]) -> list[Expr]:
    """Three taps along an axis at all positions."""
    outer, wide, middle = _bound(g[0] + g[2]), _bound(g[0] + _up(g[2], 2)), _bound(_up(g[1], 1))
    return [g[0], *(_bound(value) for value in (outer + g[1], outer - g[1], wide + middle, wide - middle)), g[2]]


TAP_ROWS = {0: (0,), 5: (2,)}
"""Rows of the kernel that a row of positions needs, where not all"""


def unpacked(word: Expr, field: int, width: int, odd: bool) -> Expr:
    """Field `field` of each byte; odd: q of a code 2q + 1."""
    return _bound(word if width == 8 else sign_extended(word, field, width, odd))


def transform_weights(taps: Sequence[Expr | None], r: int, to: Buffer, places: Sequence[Expr]) -> None:
    """Row r of positions of sixteen filters for one input channel. taps: nine vectors, None for those that the row does not need."""
    for half in range(2):
        wide = [None if tap is None else _half(tap, half) for tap in taps]
        row = [_bound(_combined(r, [wide[3 * y + x] for y in range(3)])) for x in range(3)]
        for place, value in zip(places, _along(row), strict=True):
            store(to, place + half * LANES, LANES, value)


def _half(vector: Expr, half: int) -> Expr:
    return T.cast(tirx.Shuffle([vector], list(range(half * 8, half * 8 + 8))), "int16x8")


def multiply(acc: Buffer, v: Operand, w: Operand, vectors: Expr) -> None:
    """Adds to `acc` [tile, channel] the products of `vectors` vectors of input channels."""
    with T.serial(vectors) as n:
        tiles = [_bound(load(v.buffer, v.at + n * GROUP + t * LANES, LANES)) for t in range(TILES)]
        for k in range(LANES):
            for half in range(2):
                weights = _bound(load(w.buffer, w.at + n * STEP + k * CHANNELS + half * LANES, LANES))
                parts = [tirx.Shuffle([weights], list(range(i, i + 4))) for i in (0, 4)]
                for t in range(TILES):
                    for i, part in enumerate(parts):
                        at = t * CHANNELS + half * LANES + i * 4
                        lane = tirx.Shuffle([tiles[t]], [k] * 4)
                        store(acc, at, 4, load(acc, at, 4) + neon("smull.v4i32", "int32x4", part, lane))


def doubled(value: Expr, power: int = 1) -> Expr:
    """2^power times four sums."""
    return _up(value, power, "int32", 4)


def sixfold(value: Expr) -> Expr:
    """Six times four sums."""
    return doubled(value, 2) + doubled(value)


def transformed_products(m: Sequence[Expr]) -> list[Expr]:
    """Sums at six positions -> four outputs times 24, 12, 6 and 6."""
    near, far = _bound(m[1] + m[2]), _bound(m[3] + m[4])
    odd, wide = _bound(m[1] - m[2]), _bound(m[3] - m[4])
    first = sixfold(m[0]) - doubled(near, 2) + far
    last = sixfold(m[5]) + doubled(wide) - odd
    return [_bound(value) for value in (first, wide - doubled(odd), far - near, last)]
