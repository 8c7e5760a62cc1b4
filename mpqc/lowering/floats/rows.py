"""Softmax, layer normalization and reductions over contiguous rows, sixteen elements at a time; a row stays in the cache for all its passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from mpqc.lowering.floats.functions import exp
from mpqc.lowering.kernels.tir import Expr, Param, T, bind, function, intrinsic, load, loop, pieces, registers, splat, store, typed

WIDTHS = (16, 4, 1)
Fold = Callable[[Expr, Expr, int], Expr]
LOWEST = -3.4028234663852886e38


def plus(a: Expr, b: Expr, lanes: int) -> Expr:
    """a + b."""
    return a + b


def times(a: Expr, b: Expr, lanes: int) -> Expr:
    """a * b."""
    return a * b


def larger(a: Expr, b: Expr, lanes: int) -> Expr:
    """The larger one; NaN where one is NaN."""
    return intrinsic("llvm.maximum", typed("float32", lanes), a, b)


def smaller(a: Expr, b: Expr, lanes: int) -> Expr:
    """The smaller one; NaN where one is NaN."""
    return intrinsic("llvm.minimum", typed("float32", lanes), a, b)


FOLDS: dict[str, tuple[Fold, float]] = {"sum": (plus, 0.0), "mean": (plus, 0.0), "max": (larger, float("-inf")), "min": (smaller, float("inf"))}
"""Reductions: how two values become one, and what it starts from"""


class Fold16:
    """A running result over a row: sixteen lanes, four and one, folded into one number at the end."""

    def __init__(self, fold: Fold, start: float) -> None:
        self.fold = fold
        self.lanes = registers(16, "float32")
        store(self.lanes, 0, splat(T.float32(start), 16), 16)

    def add(self, value: Expr, lanes: int) -> None:
        """Folds a vector in."""
        store(self.lanes, 0, self.fold(load(self.lanes, 0, lanes), value, lanes), lanes)

    def total(self) -> Expr:
        """The result, as a scalar."""
        for width in (8, 4, 2, 1):
            store(self.lanes, 0, self.fold(load(self.lanes, 0, width), load(self.lanes, width, width), width), width)
        return bind(self.lanes[0])


def over(length: int, body: Callable[[Expr, int], None]) -> None:
    """body(offset, lanes) over a row."""
    for first, repeats, lanes in pieces(length, WIDTHS):
        with T.serial(0, repeats) as i:
            body(first + i * lanes, lanes)


def softmax(name: str, shape: tuple[int, ...], *, log: bool = False) -> tirx.PrimFunc:
    """Softmax over the last axis."""
    length = shape[-1]
    rows = _count(shape[:-1])

    def row(x: Expr, out: Expr, at: Expr) -> None:
        top = Fold16(larger, float("-inf"))
        over(length, lambda i, lanes: top.add(load(x, at + i, lanes), lanes))
        highest, total = top.total(), Fold16(plus, 0.0)

        def exponential(i: Expr, lanes: int) -> None:
            value = bind(exp(load(x, at + i, lanes) - splat(highest, lanes), lanes))
            store(out, at + i, value, lanes)
            total.add(value, lanes)

        over(length, exponential)
        scale = bind(T.float32(1) / total.total())
        over(length, lambda i, lanes: store(out, at + i, load(out, at + i, lanes) * splat(scale, lanes), lanes))

    def body(x: Expr, out: Expr) -> None:
        with loop(rows, 4 * length) as i:
            row(x, out, bind(i * length))

    return function(name, [Param("x", shape, "float32"), Param("out", shape, "float32")], body)


def layer_norm(name: str, shape: tuple[int, ...], axes: int, epsilon: float) -> tirx.PrimFunc:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the last `axes` axes."""
    length, rows = _count(shape[-axes:]), _count(shape[:-axes])

    def row(x: Expr, gamma: Expr, beta: Expr, out: Expr, at: Expr) -> None:
        total = Fold16(plus, 0.0)
        over(length, lambda i, lanes: total.add(load(x, at + i, lanes), lanes))
        mean = bind(total.total() * T.float32(1.0 / length))
        squares = Fold16(plus, 0.0)

        def spread(i: Expr, lanes: int) -> None:
            away = bind(load(x, at + i, lanes) - splat(mean, lanes))
            squares.add(away * away, lanes)

        over(length, spread)
        scale = bind(T.float32(1) / T.sqrt(squares.total() * T.float32(1.0 / length) + T.float32(epsilon)))

        def finish(i: Expr, lanes: int) -> None:
            value = (load(x, at + i, lanes) - splat(mean, lanes)) * splat(scale, lanes)
            store(out, at + i, value * load(gamma, i, lanes) + load(beta, i, lanes), lanes)

        over(length, finish)

    def body(x: Expr, gamma: Expr, beta: Expr, out: Expr) -> None:
        with loop(rows, 4 * length) as i:
            row(x, gamma, beta, out, bind(i * length))

    weights = shape[-axes:]
    params = [Param("x", shape, "float32"), Param("gamma", weights, "float32"), Param("beta", weights, "float32"), Param("out", shape, "float32")]
    return function(name, params, body)


def reduction(name: str, kind: str, shape: tuple[int, ...], axes: Sequence[int], out_shape: tuple[int, ...]) -> tirx.PrimFunc:
    """sum, mean, max or min over neighbouring `axes` (sorted)."""
    fold, start = FOLDS[kind]
    outer, count, inner = _count(shape[: axes[0]]), _count(shape[axes[0] : axes[-1] + 1]), _count(shape[axes[-1] + 1 :])
    factor = T.float32(1.0 / count)

    def rows(x: Expr, out: Expr) -> None:
        with loop(outer, count) as i:
            result = Fold16(fold, start)
            over(count, lambda k, lanes: result.add(load(x, i * count + k, lanes), lanes))
            T.buffer_store(out, result.total() * factor if kind == "mean" else result.total(), [i])

    def columns(x: Expr, out: Expr) -> None:
        with loop(outer, count * inner) as i:

            def some(at: Expr, lanes: int) -> None:
                running = registers(lanes, "float32")
                store(running, 0, splat(T.float32(start), lanes), lanes)
                with T.serial(0, count) as k:
                    store(running, 0, fold(load(running, 0, lanes), load(x, (i * count + k) * inner + at, lanes), lanes), lanes)
                value = load(running, 0, lanes)
                store(out, i * inner + at, value * splat(factor, lanes) if kind == "mean" else value, lanes)

            over(inner, some)

    params = [Param("x", shape, "float32"), Param("out", out_shape, "float32")]
    return function(name, params, rows if inner == 1 else columns)


def _count(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
