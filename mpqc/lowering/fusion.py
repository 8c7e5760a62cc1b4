"""Which additions are done by the convolution that makes one of their operands: decided here, done by select.py and kernels/residual.py.

A convolution takes an Add over where the target has that kernel, its output feeds nothing else, the other operand is ready before it
runs, and all three tensors have one shape and lie channels last. Of two such convolutions the later one. Every other Add has its own kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from mpqc.lowering.kernels.kernel import KernelTarget
from mpqc.lowering.kernels.residual import Residual, residual
from mpqc.lowering.layout import Layout, Placement
from mpqc.values.program import Binary, Conv, Op, Program

NARROWEST = 8
"""Output channels of a group that fill a vector of codes"""


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
        self.made: dict[str, tuple[int, Op]] = {name: (index, op) for index, op in enumerate(program.ops) for name in op.outputs}
        self.uses = Counter(name for op in program.ops for name in op.inputs) + Counter(program.outputs)

    def join(self, add: Binary) -> tuple[str, Join] | None:
        """The convolution's output and the join, where `add` can be joined."""
        if add.kind != "add" or len(add.inputs) != 2 or not self._alike((*add.inputs, *add.outputs)):
            return None
        other, last = sorted(add.inputs, key=self._ready)
        conv = self.made[last][1] if last in self.made else None
        if not isinstance(conv, Conv) or self._ready(other) == self._ready(last) or not self._takes(conv):
            return None
        zeros = (self._zero_point(last), self._zero_point(other), self._zero_point(add.outputs[0]))
        added = residual(conv, add, zeros)
        return (last, Join(add, other, added)) if added else None

    def _ready(self, name: str) -> int:
        return self.made[name][0] if name in self.made else -1

    def _zero_point(self, name: str) -> int:
        return self.program.tensors[name].zero_point

    def _alike(self, names: tuple[str, ...]) -> bool:
        """Quantized, of one shape, and channels last."""
        tensors = [self.program.tensors[name] for name in names]
        placements = {self.layout[name] for name in names}
        if any(tensor.qparams is None for tensor in tensors) or len({tensor.shape for tensor in tensors}) != 1:
            return False
        return placements == {Placement.channels_last(tensors[0].shape)} and len(tensors[0].shape) in (3, 4)

    def _takes(self, conv: Conv) -> bool:
        """The convolution's own output feeds nothing else, and its kernel stores whole vectors."""
        channels, depth = conv.weight.shape[:2]
        depthwise = depth == 1 and conv.groups > 1
        return self.uses[conv.outputs[0]] == 1 and not depthwise and channels // conv.groups >= NARROWEST
