"""Data movement kernels against numpy, for codes and for plain tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from checking import ISAS, Expected, check, expected, plain, quantized
from harness import core

from mpqc.lowering.kernels.move import concat, is_view, move, pad, relayout
from mpqc.lowering.kernels.walk import walk
from mpqc.numerics.integer import lookup
from mpqc.values.program import Concat, Move, Pad, Tensor

MAKERS: dict[str, Callable[[tuple[int, ...]], Tensor]] = {
    "codes": quantized,
    "float32": plain,
    "int64": lambda shape: plain(shape, "int64"),
}
MOVES: list[tuple[tuple[int, ...], Callable[[np.ndarray], np.ndarray]]] = [
    ((1, 33, 7, 9), lambda a: a.reshape(1, -1)),
    ((1, 33, 7, 9), lambda a: a.reshape(1, 33, 63)),
    ((1, 33, 63), lambda a: a.reshape(1, 33, 7, 9)),
    ((1, 32, 16, 16), lambda a: a.reshape(1, -1)),
    ((1, 33, 7, 9), lambda a: a.transpose(0, 2, 3, 1)),
    ((2, 16, 17, 8), lambda a: a.transpose(0, 3, 1, 2)),
    ((3, 17, 20), lambda a: a.transpose(0, 2, 1)),
    ((64, 48), lambda a: a.transpose(1, 0)),
    ((1, 33, 7, 9), lambda a: a[:, 3:20]),
    ((1, 33, 7, 9), lambda a: a[:, ::-2, 1:5]),
    ((1, 33, 7, 9), lambda a: a[:, [3, 1, 1, 7, 30]]),
    ((1, 33), lambda a: a[:, [3, 1, 1, 7, 30]]),
    ((9, 31), lambda a: a[[3, 1, 8]]),
    ((1, 33), lambda a: np.broadcast_to(a, (4, 33))),
    ((1, 32, 5, 5), lambda a: a.reshape(1, 2, 2, 8, 5, 5).transpose(0, 3, 4, 1, 5, 2).reshape(1, 8, 10, 10)),
    ((1, 116, 4, 4), lambda a: a.reshape(1, 2, 58, 4, 4).transpose(0, 2, 1, 3, 4).reshape(1, 116, 4, 4)),
    ((1,), lambda a: a),
    *(((1, channels, 3, 5), lambda a, lane=lane: a[:, lane::2]) for channels in (16, 17, 33, 48, 50, 96) for lane in (0, 1)),
    ((2, 48), lambda a: a[:, 1::2]),
    ((1, 64, 33, 31), lambda a: a[:, 32:]),
]


def data(tensor: Tensor, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-128, 128, tensor.shape).astype(tensor.dtype)


def move_case(shape: tuple[int, ...], f: Callable[[np.ndarray], np.ndarray], make: Callable[[tuple[int, ...]], Tensor], isa: str) -> Expected:
    x = make(shape)
    index = np.ascontiguousarray(f(np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)))
    y, values = make(index.shape), data(x, np.random.default_rng(7))
    op = Move("n", (), (), "Any", index)
    return expected(move(op, x, y, core(isa)), [(values, x)], (f(values), y), str(shape))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", MAKERS)
def test_move(kind: str, isa: str) -> None:
    check([move_case(shape, f, MAKERS[kind], isa) for shape, f in MOVES], isa)


def _requantizing_concat(axis: int, xs: list[Tensor], values: list[np.ndarray], y: Tensor, isa: str, rng: np.random.Generator) -> Expected:
    """The first and the last part through tables of their own."""
    first, last = (rng.permutation(np.arange(-128, 128)).astype(np.int8) for _ in range(2))
    joined = np.concatenate([lookup(values[0], first), values[1], lookup(values[2], last)], axis)
    kernel = concat(Concat("n", (), (), axis, (first, None, last)), xs, y, core(isa))
    return expected(kernel, list(zip(values, xs, strict=True)), (joined, y), f"axis {axis} with tables")


@pytest.mark.parametrize("isa", ISAS)
def test_concat_and_pad(isa: str) -> None:
    rng, cases = np.random.default_rng(8), []
    for make in MAKERS.values():
        for axis in (0, 1, 2, 3, -1):
            shapes = [[2, 5, 6, 7] for _ in range(3)]
            for shape, size in zip(shapes, (1, 17, 3), strict=True):
                shape[axis] = size
            xs = [make(tuple(shape)) for shape in shapes]
            values = [data(x, rng) for x in xs]
            joined = np.concatenate(values, axis)
            y = make(joined.shape)
            kernel = concat(Concat("n", (), (), axis), xs, y, core(isa))
            cases.append(expected(kernel, list(zip(values, xs, strict=True)), (joined, y), f"axis {axis}"))
            if y.dtype == "int8":
                cases.append(_requantizing_concat(axis, xs, values, y, isa, rng))
        x = make((1, 17, 5, 6))
        values = data(x, rng)
        grown = np.pad(values, ((0, 0), (1, 2), (0, 3), (2, 0)), constant_values=7)
        for pads, result in [
            ((0, 1, 0, 2, 0, 2, 3, 0), grown),
            ((0, 0, 0, 2, 0, 1, -1, 0), np.pad(values, ((0, 0), (0, 1), (0, 0), (2, 0)), constant_values=7)[:, :, :-1]),
        ]:
            y = make(result.shape)
            cases.append(expected(pad(Pad("n", (), (), pads, 7), x, y, core(isa)), [(values, x)], (result, y)))
    check(cases, isa)


def test_relayout_to_the_edge_of_the_network_and_back() -> None:
    rng = np.random.default_rng(9)
    inner, outer = quantized((2, 19, 16, 33)), plain((2, 19, 16, 33), "int8")
    values = data(outer, rng)
    pairs = [(inner, outer), (outer, inner)]
    check([expected(relayout(x, y, core("generic")), [(values, x)], (values, y)) for x, y in pairs], "generic")


def test_reshape_is_a_view_only_where_the_bytes_stay() -> None:
    def view(x: Tensor, y: Tensor) -> bool:
        return is_view(Move("n", (), (), "Reshape"), x, y)

    assert view(plain((1, 8, 4, 4)), plain((1, 128)))
    assert view(quantized((1, 8, 1, 1)), quantized((1, 8)))
    assert view(quantized((4, 9)), quantized((36,)))
    assert not view(quantized((1, 8, 4, 4)), quantized((1, 128)))
    assert not is_view(Move("n", (), (), "Slice", np.arange(4)), plain((8,)), plain((4,)))


def test_walk_needs_no_table_for_affine_positions() -> None:
    positions = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).transpose(3, 1, 0, 2)[::-1].reshape(-1)
    path = walk(positions)
    assert path.starts.size == 1
    loops = np.indices(path.sizes).reshape(len(path.sizes), -1)
    np.testing.assert_array_equal(path.starts[0] + np.array(path.steps) @ loops, positions)


def test_walk_keeps_a_table_of_what_is_not_affine() -> None:
    path = walk((np.array([70, 0, 30])[:, None] + np.arange(4)).reshape(-1))
    assert (path.starts.tolist(), path.sizes, path.steps) == ([70, 0, 30], (4,), (1,))
