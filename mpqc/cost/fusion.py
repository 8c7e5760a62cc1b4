"""Which additions a convolution does at its end: the one rule, for a network's nodes (cost model) and for a program's ops (lowering).

A convolution takes an addition over where the target has that kernel (the caller asks), its output feeds nothing else, the other operand
is ready before it runs, and all three tensors have one shape of rank 3 or 4. Of two such convolutions the later one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mpqc.facts.kernels import is_depthwise, stores_vectors
from mpqc.values.site import OpNode, SiteTable


@dataclass(frozen=True)
class Step:
    """An op as the rule sees it."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    convolves: bool = False
    """A convolution whose kernel can add at its end, see `can_add`"""


def can_add(output_channels: int, groups: int, depth: int) -> bool:
    """Whether the kernel of a convolution can add at its end. depth: input channels of a group."""
    return not is_depthwise(groups, groups * depth) and stores_vectors(output_channels, groups)


def can_join(shapes: Iterable[tuple[int, ...]]) -> bool:
    """Whether an addition of tensors of these shapes, operands and sum, is one that convolutions do."""
    found = set(shapes)
    return len(found) == 1 and len(next(iter(found))) in (3, 4)


class Joins:
    """Finds the convolution that does an addition."""

    def __init__(self, steps: Sequence[Step], outputs: Iterable[str] = ()) -> None:
        """`steps` in execution order; `outputs` are read after the last one."""
        self._steps = steps
        self._made = {name: index for index, step in enumerate(steps) for name in step.outputs}
        self._uses = Counter(name for step in steps for name in step.inputs) + Counter(outputs)

    def of(self, operands: tuple[str, ...]) -> tuple[str, str] | None:
        """The operand that a convolution makes and then adds to, and the other one; None where the addition of `operands` is a kernel of its own."""
        if len(operands) != 2:
            return None
        other, last = sorted(operands, key=self._ready)
        if self._ready(other) == self._ready(last) or self._uses[last] != 1:
            return None
        return (last, other) if self._steps[self._made[last]].convolves else None

    def _ready(self, name: str) -> int:
        return self._made.get(name, -1)


@dataclass(frozen=True)
class Additions:
    """What convolutions of a network add at their ends."""

    kernels: frozenset[str] = frozenset()
    """Names of the Adds that a kernel of the target does"""
    joined: Mapping[str, str] = field(default_factory=dict)
    """Outputs of convolutions that are never stored, with the site of the sum"""

    @classmethod
    def of(cls, table: SiteTable, *, has_kernel: bool) -> Additions:
        """All of `table`; without the kernel the target is one that adds by other means."""
        found = fused_additions(table)
        sums = {node.name: node.output for node in table.nodes if node.output in table.by_name}
        joined = {made: sums[name] for name, made in found.items() if name in sums and made in table.by_name}
        return cls(frozenset(found) if has_kernel else frozenset(), joined)


def fused_additions(table: SiteTable) -> dict[str, str]:
    """Names of the Adds of `table` that the convolution before them does, with the output of that convolution, which is then never stored."""
    joins = Joins([Step(node.inputs, (node.output, *node.extra_outputs), _convolves(node)) for node in table.nodes])
    found = {node.name: joins.of(node.inputs) for node in table.nodes if node.op_type == "Add" and _alike(node, table)}
    return {name: operands[0] for name, operands in found.items() if operands}


def _convolves(node: OpNode) -> bool:
    return node.op_type == "Conv" and can_add(node.weight_shape[0], node.groups, node.weight_shape[1])


def _alike(add: OpNode, table: SiteTable) -> bool:
    return can_join([*(table.by_name[name].shape for name in add.inputs if name in table.by_name), add.output_shape])
