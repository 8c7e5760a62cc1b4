"""Chains of data movement: Reshape, Transpose, Slice, Gather... in a row are one movement, often none at all.

An index says where each output element comes from: out.flat[i] = in.flat[index[i]]. Indices of successive moves compose, so a
channel shuffle (reshape, transpose, reshape) or a transpose there and back is looked at as a whole.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mpqc.values.program import Move, Op, Program


def compose_moves(program: Program) -> Program:
    """`program` with chains of moves replaced by single moves, where no other op reads what lies between."""
    ops: list[Op] = []
    pending: dict[str, Move] = {}
    for op in program.ops:
        composed = _after(op, pending, program) if isinstance(op, Move) else op
        if isinstance(composed, Move) and _only_moved(composed, program):
            pending[composed.outputs[0]] = composed
        else:
            ops.append(composed)
    return replace(program, ops=tuple(ops))


def _after(op: Move, pending: dict[str, Move], program: Program) -> Move:
    before = pending.get(op.inputs[0])
    if before is None:
        return op
    name = f"{before.name}+{op.name}"
    return Move(name, before.inputs, op.outputs, kind=f"{before.kind}+{op.kind}", index=_chained(before.index, op.index))


def _chained(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    if first is None or second is None:
        return first if second is None else second
    return first.ravel()[second.ravel()]


def _only_moved(op: Move, program: Program) -> bool:
    """Whether all that reads the output of `op` is further moves."""
    name = op.outputs[0]
    return name not in program.outputs and all(isinstance(user, Move) for user in program.uses[name])
