"""Schedules for the loops that TVM makes itself: threads outside, vectors inside, and functions that vectorize.

A reduction gets its innermost spatial loop inside the reduction loops, so that neighbouring outputs share a vector; then LLVM's own
loop vectorizer does the rest. A function that cannot be scheduled so stays as it is.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from mpqc.lowering.floats.functions import SCALAR
from mpqc.lowering.kernels.tir import PARALLEL_WORK

UNSCHEDULED = "mpqc.unscheduled"
"""Attribute of a function that no rule fits; its name in the module says so too"""


def scheduled(module: tvm.IRModule) -> tvm.IRModule:
    """`module` with every function of TVM's own scheduled; the others unchanged."""
    functions = {}
    for variable, func in module.functions.items():
        functions[variable] = _scheduled(func) if isinstance(func, tirx.PrimFunc) and not _finished(func) else func
    return tvm.IRModule(functions, attrs=module.attrs)


def _finished(func: tirx.PrimFunc) -> bool:
    """Whether it is a kernel of this package: one opaque block."""
    return "mpqc.kernel" in (func.attrs or {})


def _scheduled(func: tirx.PrimFunc) -> tirx.PrimFunc:
    func = tirx.PrimFunc(func.params, with_polynomials(func.body), func.ret_type, func.attrs)
    try:
        schedule = s_tir.Schedule(tvm.IRModule({"main": func}))
        for block in schedule.get_child_blocks(schedule.get_sblock("root")):
            _block(schedule, block)
        return schedule.mod["main"].without_attr("global_symbol")
    except (s_tir.ScheduleError, tvm.error.InternalError):  # loops that no rule fits: correct as they are, only slower
        return func.with_attr(UNSCHEDULED, 1)


def with_polynomials(body: Any) -> Any:
    """`body` with calls of float32 functions of the C library replaced by arithmetic."""

    def replace(call: Any, mutator: Any) -> Any:
        call = mutator.default_mutate(call)
        make = SCALAR.get(str(getattr(call.op, "name", "")))
        return make(call.args[0]) if make and str(call.args[0].ty) == "float32" else call

    return tvm_ffi.structural_mutate(body, [(tvm.ir.Call, replace)])


def _block(schedule: Any, block: Any) -> None:
    loops = schedule.get_loops(block)
    kinds = [var.iter_type for var in schedule.get(block).iter_vars]
    if len(loops) != len(kinds) or not loops:
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.DataPar]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == tirx.IterVar.CommReduce]
    if len(spatial) + len(reduced) != len(loops) or not spatial:
        return
    work, wide = _product(schedule, loops), not reduced or _product(schedule, spatial[-1:]) >= 4
    if reduced and wide:
        schedule.reorder(*spatial[:-1], *reduced, spatial[-1])
        schedule.decompose_reduction(block, reduced[0])
    outer = spatial[:-1] if wide else spatial
    if not outer:
        return
    first = schedule.fuse(*outer) if len(outer) > 1 else outer[0]
    if work >= PARALLEL_WORK and _product(schedule, [first]) > 1:
        schedule.parallel(first)


def _product(schedule: Any, loops: list[Any]) -> int:
    total = 1
    for loop in loops:
        total *= int(schedule.get(loop).extent)
    return total
