"""What the runtime adds to the kernels: chains of tiny kernels in whole bundles, the kernels' own cycles taken off."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mpqc.lowering import build, lower
from mpqc.lowering.steps import Call
from mpqc.runtime.bundle import write_bundle
from mpqc.targets import Target
from mpqc.timing.pricer import Pricer
from mpqc.timing.program import write_program
from mpqc.values.program import Dequantize, Op, Program, Quantize, Table, Tensor
from mpqc.values.qtype import QParams, QType

SHAPE = (1, 64)
SHORT, LONG = 2, 18
"""Tables in the two chains"""


def runtime_cycles(target: Target, folder: Path, pricer: Pricer) -> dict[str, float]:
    """Cycles that the runtime adds to every kernel (`call`) and to every run (`run`)."""
    whole = {length: _chain_cycles(length, target, folder / str(length), pricer) for length in (SHORT, LONG)}
    calls = [step for step in lower(_chain(1), target).steps if isinstance(step, Call)]
    program = write_program([step.kernel for step in calls], target.llvm_target, folder / "kernels", target.cores)
    quantize, table, dequantize = (pricer.kernel(program, index) for index, step in enumerate(calls))
    call = (whole[LONG] - whole[SHORT]) / (LONG - SHORT) - table
    return {"call": call, "run": whole[SHORT] - SHORT * (call + table) - 2 * call - quantize - dequantize}


def _chain_cycles(length: int, target: Target, folder: Path, pricer: Pricer) -> float:
    folder.mkdir(parents=True)
    lowered = lower(_chain(length), target)
    bundle = write_bundle(folder / "bundle", lowered, build(lowered, folder / "model.so"))
    return pricer.bundle(bundle, (2, 12))


def _chain(length: int) -> Program:
    """Quantize, `length` tables, dequantize."""
    lookup = np.arange(-128, 128).astype(np.int8)
    ops: list[Op] = [Quantize("quantize", ("in",), ("x0",))]
    ops += [Table(f"table{i}", (f"x{i}",), (f"x{i + 1}",), lookup, "Sigmoid") for i in range(length)]
    ops.append(Dequantize("dequantize", (f"x{length}",), ("out",)))
    codes = [Tensor(f"x{i}", SHAPE, "int8", QParams(QType(8), np.asarray(0.05, np.float32), np.asarray(-3, np.int32))) for i in range(length + 1)]
    tensors = [Tensor("in", SHAPE, "float32"), *codes, Tensor("out", SHAPE, "float32")]
    return Program(tuple(ops), {tensor.name: tensor for tensor in tensors}, ("in",), ("out",))
