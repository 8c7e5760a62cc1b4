"""The lowering on one screen: compose moves, plan the layout, choose kernels, emit Relax."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from mpqc.errors import TargetError
from mpqc.lowering.emit import Emitter
from mpqc.lowering.kernels.kernel import KernelTarget
from mpqc.lowering.layout import plan_layout
from mpqc.lowering.lowered import Kept, Lowered, describe
from mpqc.lowering.movement import compose_moves
from mpqc.lowering.select import plan_steps
from mpqc.program import Float, Program
from mpqc.targets import Target


def lower_program(program: Program, target: Target) -> Lowered:
    """See `mpqc.lowering.lower`."""
    if target.llvm is None:
        raise TargetError("is cost-only: there is no code for it", where=target.name, hint="the plan and the QDQ file are the result")
    program = compose_moves(program)
    layout = plan_layout(program)
    steps = plan_steps(program, layout, kernel_target(target))
    emitter = Emitter(program)
    module = emitter.emit(steps)
    calls = tuple(emitter.calls)
    description = describe(program, calls, target)
    floats = tuple(Kept(op.name, op.op_types, op.reason) for op in program.ops if isinstance(op, Float))
    return Lowered(_described(module, description), target, steps, layout, calls, floats, description)


def kernel_target(target: Target) -> KernelTarget:
    """What the kernels need to know of `target`."""
    return KernelTarget(isa="dotprod" if target.has_dotprod else "generic", cores=target.cores)


def _described(module: tvm.IRModule, description: str) -> tvm.IRModule:
    """`module` with a function that returns its description as bytes, so that model.so needs no file beside it."""
    text = relax.const(tvm.runtime.tensor(np.frombuffer(description.encode(), np.uint8).copy()))
    builder = relax.BlockBuilder(module)
    with builder.function("describe", []):
        builder.emit_func_output(builder.emit(text))
    return builder.get()
