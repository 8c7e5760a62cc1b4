"""Which tensors are stored two codes a byte: decided here, done by the kernels (kernels/nibbles.py).

A tensor is where its qtype has at most 4 bits and all its codes fit -8 to 7, its innermost extent is even, and the kernels that write and
read it have a form for it. Tensors that are views of one another are stored alike. Inputs and outputs of the program are one a byte.
mpqc/cost/storage.py says the same of sites, before there is a program: which kernels have such a form is said there for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx
import numpy as np

from mpqc.cost.storage import WHOLE
from mpqc.errors import LoweringError
from mpqc.facts.kernels import stores_pairs
from mpqc.lowering.kernels.nibbles import Packing, packed
from mpqc.lowering.layout import Layout
from mpqc.lowering.steps import Call, Step, View
from mpqc.targets import OpKind
from mpqc.values.program import Binary, Concat, Conv, Gemm, MatMul, Move, Op, Pool, Program, Resize, Table
from mpqc.values.qtype import QType

HALF = QType(4)
FLOAT_BITS = 32


@dataclass(frozen=True)
class Storage:
    """How the tensors of at most 4 bits are stored."""

    packed: frozenset[str] = frozenset()
    """Names of those stored two codes a byte"""
    whole: Mapping[str, str] = field(default_factory=dict)
    """Names of the others, with the reason"""

    def packing(self, inputs: Sequence[str], output: str) -> Packing:
        """For a kernel on these tensors."""
        return Packing(tuple(name in self.packed for name in inputs), output in self.packed)


def plan_storage(program: Program, layout: Layout, steps: Sequence[Step]) -> Storage:
    """The decision for `program`. steps: as they are when everything is one a byte."""
    narrow = [name for name in _made(program) if _bits(program, name) <= HALF.bits]
    if not narrow:
        return Storage()
    whole = dict(_unsuited(program, layout, narrow))
    for step in steps:
        if isinstance(step, Call):
            whole |= dict(_refused(step, program, [name for name in narrow if name not in whole]))
    _spread(steps, whole)
    return Storage(frozenset(narrow) - whole.keys(), {name: whole[name] for name in narrow if name in whole})


def _made(program: Program) -> Mapping[str, Op]:
    return {name: op for op in program.ops for name in op.outputs}


def _bits(program: Program, name: str) -> int:
    q = program.tensors[name].qparams
    return FLOAT_BITS if q is None else q.qtype.bits


def _unsuited(program: Program, layout: Layout, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Tensors that are one a byte whatever the kernels."""
    made = _made(program)
    for name in names:
        if name in program.outputs:
            yield name, "is an output of the program"
        elif not layout[name].shape or layout[name].shape[-1] % 2:
            yield name, f"has an odd innermost extent, {layout[name].shape}"
        elif not _fits(made[name], program):
            yield name, "has codes beyond 4 bits"


def _fits(op: Op, program: Program) -> bool:
    """Whether all codes that `op` writes are 4-bit ones; what it only moves is as wide as its inputs are said to be."""
    if isinstance(op, (Conv, Gemm, MatMul, Binary, Pool)):
        return HALF.qmin <= op.low and op.high <= HALF.qmax
    if isinstance(op, Table):
        return _moves_narrow(_bits(program, op.inputs[0]), op.table)
    tables = [op.table(index) if isinstance(op, Concat) else None for index in range(len(op.inputs))]
    return all(_moves_narrow(_bits(program, name), table) for name, table in zip(op.inputs, tables, strict=True))


def _moves_narrow(bits: int, table: np.ndarray | None) -> bool:
    """Whether codes of `bits` bits, or what `table` makes of them, are 4-bit ones."""
    if table is not None:
        return bool(table.min() >= HALF.qmin and table.max() <= HALF.qmax)
    return bits <= HALF.bits or bits == FLOAT_BITS


def _refused(call: Call, program: Program, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Tensors among `names` that the kernel of `call` cannot read or write two a byte."""
    places = [*call.inputs, call.output]
    chosen = [index for index, name in enumerate(places) if name in names]
    if not chosen:
        return
    op = next((op for op in program.ops if op.name == call.op), None)
    if call.relayout or _moves_codes(op):
        reason = "has no kernel for it" if isinstance(op, MatMul) else "moves single codes"
        yield from ((places[index], f"{call.op} {reason}") for index in chosen)
    elif isinstance(op, Conv) and call.output in names and not _writes_pairs(op, program):
        yield call.output, f"{call.op} has no kernel for it"
        yield from _refused(call, program, [name for name in names if name != call.output])
    elif not _works(call, chosen):
        yield from ((places[index], f"{call.op} has no kernel for it") for index in chosen if not _works(call, [index]))


_KINDS: Mapping[type[Op], OpKind] = {Move: OpKind.MOVE, Resize: OpKind.RESIZE, MatMul: OpKind.MATMUL}


def _moves_codes(op: Op | None) -> bool:
    return any(isinstance(op, kind) and means in WHOLE for kind, means in _KINDS.items())


def _writes_pairs(op: Conv, program: Program) -> bool:
    return stores_pairs(op.weight.shape[0], op.groups, program.tensors[op.inputs[0]].shape[1])


def _works(call: Call, chosen: Sequence[int]) -> bool:
    count = len(call.inputs)
    try:
        packed(call.kernel, Packing(tuple(index in chosen for index in range(count)), count in chosen))
    except LoweringError:
        return False
    return True


def _spread(steps: Sequence[Step], whole: dict[str, str]) -> None:
    """What is a view of a tensor that is one a byte is too."""
    views = nx.Graph((step.source, step.output) for step in steps if isinstance(step, View))
    for group in nx.connected_components(views):
        reason = next((whole[name] for name in sorted(group) if name in whole), None)
        if reason is not None:
            whole.update({name: reason for name in group if name not in whole})
