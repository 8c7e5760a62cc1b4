"""Scratch memory of kernels, planned: what TVM would take from its pool at run time becomes a parameter of the kernel.

TVM puts temporaries of up to STACK bytes on the stack and asks its pool for larger ones. Here each larger one gets a fixed place in
one buffer `workspace`, which the caller passes. Inside a parallel loop every thread needs its own: the loop is cut into as
many runs of neighbouring steps as the chip has cores, and each run has its own part of the buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import s_tir, tirx

STACK = 1023
"""Bytes of a temporary that TVM still puts on the stack (less than kMaxStackAlloca of its device_api.h)"""
ALIGNMENT = 64

_OPAQUE = (
    s_tir.transform.CanonicalizeLoop,
    s_tir.transform.LowerInitBlock,
    s_tir.transform.PlanAndUpdateBufferAllocationLocation,
    s_tir.transform.ConvertBlocksToOpaque,
    s_tir.transform.LowerMatchBuffer,
    s_tir.transform.LowerOpaqueBlock,
)
"""TVM's own passes from blocks to plain statements, in the order of its pipeline"""


@dataclass(frozen=True)
class Planned:
    """A kernel without allocations of its own."""

    func: tirx.PrimFunc
    workspace: int
    """Bytes of its last parameter; 0: it has none"""


@lru_cache(maxsize=512)
def plan_workspace(func: tirx.PrimFunc, cores: int) -> Planned:
    """`func` with a last parameter int8 [workspace] for its large temporaries; unchanged where it has none."""
    if not _has_large(func.body):
        return Planned(func, 0)
    plain = _without_blocks(func) if _found(func.body, s_tir.SBlock) else func
    size = _size(plain.body, cores)
    if size == 0:
        return Planned(func, 0)
    place = _Place(cores, tirx.decl_buffer((size,), "int8", name="workspace"))
    body = tvm_ffi.structural_mutate(plain.body, [(tirx.For, place.loop), (tirx.AllocBuffer, place.allocation)])
    return Planned(tirx.PrimFunc([*plain.params, place.workspace], body, plain.ret_type, plain.attrs), size)


def _without_blocks(func: tirx.PrimFunc) -> tirx.PrimFunc:
    module = tvm.IRModule({"kernel": func})
    return tvm.transform.Sequential([make() for make in _OPAQUE])(module)["kernel"]


def _has_large(body: Any) -> bool:
    in_blocks = _found(body, s_tir.SBlock, lambda block: any(_bytes(buffer) > STACK for buffer in block.alloc_buffers))
    return bool(in_blocks or _found(body, tirx.AllocBuffer, _is_large))


def _found(body: Any, kind: type, test: Callable[[Any], bool] = lambda node: True) -> list[Any]:
    """The statements of `kind` in `body` that pass `test`."""
    found: list[Any] = []
    tvm_ffi.structural_walk(body, (kind, lambda node: found.append(node) if test(node) else None))
    return found


def _is_large(statement: tirx.AllocBuffer) -> bool:
    return _bytes(statement.buffer) > STACK


def _bytes(buffer: Any) -> int:
    return prod(int(extent) for extent in buffer.shape) * np.dtype(str(buffer.dtype)).itemsize


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _part(body: Any) -> int:
    """Bytes of the large temporaries in `body`, each once."""
    return sum(_aligned(_bytes(statement.buffer)) for statement in _found(body, tirx.AllocBuffer, _is_large))


def _size(body: Any, cores: int) -> int:
    """Bytes of all large temporaries, those in parallel loops once for every core."""
    inside = sum(_part(loop.body) for loop in _found(body, tirx.For, _is_parallel))
    return _part(body) + (cores - 1) * inside


def _is_parallel(loop: tirx.For) -> bool:
    return loop.kind == tirx.ForKind.PARALLEL


class _Place:
    """Gives every large temporary of one kernel its place, in the order of the code."""

    def __init__(self, cores: int, workspace: Any) -> None:
        self.cores, self.workspace = cores, workspace
        self.next: Any = 0

    def allocation(self, statement: Any, mutator: Any) -> Any:
        """A large temporary becomes a view of the workspace."""
        if not _is_large(statement):
            return statement
        at, self.next = self.next, self.next + _aligned(_bytes(statement.buffer))
        return tirx.DeclBuffer(statement.buffer, data=tirx.address_of(self.workspace[at]))

    def loop(self, loop: Any, mutator: Any) -> Any:
        """A parallel loop with large temporaries becomes one loop over runs and one over the steps of a run."""
        part = _part(loop.body) if _is_parallel(loop) else 0
        if part == 0:
            return mutator.default_mutate(loop)
        run, begin = tirx.Var("run", loop.loop_var.ty), self.next
        self.next = begin + run * part
        body = mutator.mutate(loop.body)
        self.next = begin + self.cores * part
        first, last = (loop.min + tirx.floordiv(bound * loop.extent, self.cores) for bound in (run, run + 1))
        steps = tirx.For(loop.loop_var, first, last - first, tirx.ForKind.SERIAL, body)
        return tirx.For(run, 0, self.cores, tirx.ForKind.PARALLEL, steps)
