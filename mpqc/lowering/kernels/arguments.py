"""The parameters of every kernel that multiplies by stored weights: one declaration, which the program's calls rely on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from mpqc.lowering.kernels import residual as residuals
from mpqc.lowering.kernels.emit import Buffer, flat

SCALARS = 8
"""What requant.scalars gives; a kernel may have more of its own behind them"""


class Cut(Protocol):
    """What the declaration depends on."""

    @property
    def name(self) -> str: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def output_shape(self) -> tuple[int, ...]: ...
    @property
    def groups(self) -> int: ...
    @property
    def panels(self) -> int: ...
    @property
    def panel_bytes(self) -> int: ...
    @property
    def residual(self) -> residuals.Form | None: ...


AnyCut = TypeVar("AnyCut", bound=Any)


def joined(c: AnyCut, form: residuals.Form) -> AnyCut:
    """With a residual addition at its end; `c` is a frozen dataclass."""
    return replace(c, name=f"{c.name}_{form.key}", residual=form)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Arguments:
    """The buffers of a kernel, flat."""

    x: Buffer
    weights: Buffer
    start: Buffer
    scale: Buffer
    scalars: Buffer
    out: Buffer
    other: Buffer | None
    """The other operand of the residual addition, where there is one"""
    added: Buffer | None
    """Its constants"""


BYTES = ("int8", "int8")
"""Types of the input's and the output's codes"""


def declared(c: Cut, width: int, body: Callable[[Arguments], None], *, scalars: int = SCALARS, types: tuple[str, str] = BYTES) -> tirx.PrimFunc:
    """(x, weights [panels, bytes] int8, start [panels, 2 width] int32, scale [panels, width] float32, scalars int32, out), computed by `body`.

    width: output channels of a panel. start: what its accumulators start at, then the bits of requantization's `base`. types: of x and out.

    With a residual: (x, the other operand int8 in the output's shape, weights, start, scale, scalars, its constants [10, 4] int32, out).
    """
    panels = c.groups * c.panels
    with IRBuilder() as builder:
        with T.prim_func():
            T.func_name(c.name)
            T.func_attr({"global_symbol": c.name, "tirx.noalias": True, "op_pattern": 8})
            x = T.arg("x", T.buffer(c.input_shape, types[0]))
            other = T.arg("other", T.buffer(c.output_shape, "int8")) if c.residual else None
            weights = T.arg("weights", T.buffer((panels, c.panel_bytes), "int8"))
            start = T.arg("start", T.buffer((panels, 2 * width), "int32"))
            scale = T.arg("scale", T.buffer((panels, width), "float32"))
            constants = T.arg("scalars", T.buffer((scalars,), "int32"))
            added = T.arg("added", T.buffer((10, 4), "int32")) if c.residual else None
            out = T.arg("out", T.buffer(c.output_shape, types[1]))
            flattened = [buffer if buffer is None else flat(buffer) for buffer in (other, added)]
            body(Arguments(flat(x), flat(weights), flat(start), flat(scale), constants, flat(out), *flattened))
        return builder.get()
