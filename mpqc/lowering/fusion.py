"""Which additions are done by the convolution that makes one of their operands: decided here, done by select.py and kernels/residual.py.

By the rule of mpqc/cost/fusion.py, where the target has that kernel and all three tensors lie channels last. Every other Add has its own kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mpqc.cost.fusion import Joins, Step, can_add, can_join
from mpqc.lowering.kernels.kernel import KernelTarget
from mpqc.lowering.kernels.residual import Residual, residual
from mpqc.lowering.layout import Layout, Placement
from mpqc.values.program import Binary, Conv, Op, Program


@dataclass(frozen=True, eq=False)
class Join:
    """An addition done at the end of a convolution."""

    add: Binary
    other: str
    """The operand that the convolution reads"""
    residual: Residual


Fusion = Mapping[str, Join]
"""By the name of the convolution's own output, which no longer exists"""


def plan_fusion(program: Program, layout: Layout, target: KernelTarget) -> Fusion:
    """The joins of `program` on `target`."""
    if not target.has("residual"):
        return {}
    planner = _Planner(program, layout)
    joins = (planner.join(op) for op in program.ops if isinstance(op, Binary))
    return dict(filter(None, joins))


class _Planner:
    def __init__(self, program: Program, layout: Layout) -> None:
        self.program, self.layout = program, layout
        self.makers: dict[str, Op] = {name: op for op in program.ops for name in op.outputs}
        self.joins = Joins([Step(op.inputs, op.outputs, isinstance(op, Conv) and _can_add(op)) for op in program.ops], program.outputs)

    def join(self, add: Binary) -> tuple[str, Join] | None:
        """The convolution's output and the join, where `add` can be joined."""
        found = self.joins.of(add.inputs) if add.kind == "add" and self._alike((*add.inputs, *add.outputs)) else None
        if found is None:
            return None
        made, other = found
        conv = self.makers[made]
        assert isinstance(conv, Conv), made
        zeros = (self._zero_point(made), self._zero_point(other), self._zero_point(add.outputs[0]))
        added = residual(conv, add, zeros)
        return (made, Join(add, other, added)) if added else None

    def _zero_point(self, name: str) -> int:
        return self.program.tensors[name].zero_point

    def _alike(self, names: tuple[str, ...]) -> bool:
        """Quantized, of one shape, and channels last."""
        tensors = [self.program.tensors[name] for name in names]
        placements = {self.layout[name] for name in names}
        if any(tensor.qparams is None or tensor.is_long for tensor in tensors) or not can_join(tensor.shape for tensor in tensors):
            return False
        return placements == {Placement.channels_last(tensors[0].shape)}


def _can_add(conv: Conv) -> bool:
    channels, depth = conv.weight.shape[:2]
    return can_add(channels, conv.groups, depth)
