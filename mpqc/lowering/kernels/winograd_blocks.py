"""What kernels of Winograd's algorithm have in common, whatever the tile: blocks of rows, shares of panels, and how outputs are stored."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from mpqc.lowering.kernels import requant as requantization
from mpqc.lowering.kernels import residual as residuals
from mpqc.lowering.kernels.arguments import Arguments
from mpqc.lowering.kernels.contraction import copy_row
from mpqc.lowering.kernels.emit import Buffer, Expr, store
from mpqc.lowering.kernels.micro import Operand


@dataclass(frozen=True)
class Block:
    """Some rows of tiles of an image."""

    image: Expr
    first: Expr
    """Its first row of tiles in the image"""
    rows: Expr
    padded: Buffer
    patches: Buffer
    """Transformed inputs, as each kernel lays them out"""


@dataclass(frozen=True)
class BlockEmitter(Arguments):
    """Emits the parts of a kernel that do not depend on the tile."""

    c: Any
    """Winograd or Winograd16"""
    width: ClassVar[int]
    """Output channels of a panel"""

    def pad(self, block: Block) -> None:
        """Copies the input rows of the block, with their padding."""
        strip = self.c.strip
        image = block.image * prod(self.c.input_shape[1:])
        zero = T.cast(self.scalars[0], "int8")
        with T.serial((block.rows - 1) * strip.step + strip.reach) as r:
            y = block.first * strip.step - strip.top + r
            copy_row(strip, Operand(self.x, image + y * strip.source_pitch), Operand(block.padded, r * strip.pitch), y, zero)

    def shared(self, extent: Expr) -> Any:
        """A loop over the parts of a block."""
        return (T.parallel if self.c.parallel and self.c.splits > 1 else T.serial)(extent)

    def place(self, group: Expr, within: Expr) -> tuple[Expr, Expr]:
        """Index and first output channel of a panel; the last one of a group overlaps the one before, so that it is whole."""
        c, first = self.c, within * self.width
        if c.group_channels % self.width:
            first = T.min(first, c.group_channels - self.width)
        return group * c.panels + within, group * c.group_channels + first

    def output(self, conditions: list[Expr], done: Buffer, first: int, panel: Expr, at: Expr) -> None:
        """Requantizes the sums of one output of panel number `panel`, from `first` in `done`, and stores them at `at` where `conditions` hold."""
        if not conditions:
            store(self.out, at, self.width, self._codes(done, first, panel, at))
            return
        with T.If(conditions[0] if len(conditions) == 1 else tirx.all(*conditions)), T.Then():
            store(self.out, at, self.width, self._codes(done, first, panel, at))

    def _codes(self, done: Buffer, first: int, panel: Expr, at: Expr) -> Expr:
        c, width = self.c, self.width
        place = requantization.Place(self.scale, panel * width, self.start, (2 * panel + 1) * width)
        if c.residual is None:
            return requantization.emit(c.requant, done, first, width, place, self.scalars)
        return residuals.emit(c.residual, c.requant, done, first, width, place, (self.other, at), self.added)
