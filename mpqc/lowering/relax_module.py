"""The lowering on one screen: compose moves, plan the layout, choose kernels, emit launches, plan the memory."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from mpqc.errors import TargetError
from mpqc.lowering.arena import plan_arena
from mpqc.lowering.emit import Emitter
from mpqc.lowering.kernels.kernel import KernelTarget
from mpqc.lowering.layout import plan_layout
from mpqc.lowering.lowered import Kept, Lowered, describe
from mpqc.lowering.movement import compose_moves
from mpqc.lowering.product_forms import choose_forms
from mpqc.lowering.select import plan_steps
from mpqc.lowering.storage import plan_storage
from mpqc.targets import Target
from mpqc.values.program import Float, Program


def lower_program(program: Program, target: Target, block_bytes: int = 0) -> Lowered:
    """See `mpqc.lowering.lower`."""
    if target.llvm is None:
        raise TargetError("is cost-only: there is no code for it", where=target.name, hint="the plan and the QDQ file are the result")
    program = compose_moves(program)
    layout = plan_layout(program)
    forms = choose_forms(program, target)
    core = kernel_target(target, block_bytes)
    steps = plan_steps(program, layout, core, forms=forms)
    storage = plan_storage(program, layout, steps)
    if storage.packed:
        steps = plan_steps(program, layout, core, storage, forms)
    emitter = Emitter(program, target.cores)
    outputs = emitter.emit(steps)
    launches = tuple(emitter.launches)
    arena = plan_arena(launches, outputs)
    description = describe(program, launches, outputs, arena, storage, target)
    floats = tuple(Kept(op.name, op.op_types, op.reason) for op in program.ops if isinstance(op, Float))
    stored = sum(values.nbytes for values in emitter.constants)
    held = tuple(emitter.constants)
    return Lowered(_module(emitter, description), target, steps, layout, storage, launches, arena, floats, description, stored, held, forms)


def kernel_target(target: Target, block_bytes: int = 0) -> KernelTarget:
    """What the kernels need to know of `target`."""
    return KernelTarget(target.features, target.cores, block_bytes)


def _module(emitter: Emitter, description: str) -> tvm.IRModule:
    """All kernels, and two functions that are called once at load: `constants` returns them, `describe` what the module is, as bytes."""
    builder = relax.BlockBuilder()
    for namesakes in emitter.functions.values():
        for function in namesakes:
            builder.add_func(function.func.with_attr("global_symbol", function.symbol), function.symbol)
    text = np.frombuffer(description.encode(), np.uint8)
    with builder.function("describe", []):
        builder.emit_func_output(builder.emit(_constant(text)))
    with builder.function("constants", []):
        builder.emit_func_output(builder.emit(relax.Tuple([_constant(values) for values in emitter.constants])))
    return builder.get()


def _constant(values: np.ndarray) -> relax.Expr:
    return relax.const(tvm.runtime.tensor(values.copy()))
