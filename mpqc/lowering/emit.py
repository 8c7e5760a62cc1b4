"""Steps -> one Relax module: a function `main` that calls kernels, and a function `describe` that returns what the module is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm_ffi import structural_equal

from mpqc.errors import LoweringError
from mpqc.lowering.float_region import import_float
from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.steps import Call, Region, Step, View
from mpqc.program import Program

Expr = Any
"""A Relax expression"""


@dataclass(frozen=True)
class Called:
    """One kernel call of `main`, in call order: what the profile is named after."""

    op: str
    kernel: str
    macs: int


@dataclass
class Emitter:
    """Builds `main` step by step."""

    program: Program
    builder: relax.BlockBuilder = field(default_factory=relax.BlockBuilder)
    values: dict[str, Expr] = field(default_factory=dict)
    calls: list[Called] = field(default_factory=list)
    functions: dict[str, list[tuple[tirx.PrimFunc, relax.GlobalVar]]] = field(default_factory=dict)
    """Kernels by name: a module holds equal code once"""
    constants: dict[tuple[str, tuple[int, ...], bytes], Expr] = field(default_factory=dict)

    def emit(self, steps: Sequence[Step]) -> tvm.IRModule:
        """The module with its `main`."""
        inputs = [self._parameter(name) for name in self.program.inputs]
        with self.builder.function("main", inputs):
            with self.builder.dataflow():
                for step in steps:
                    self._step(step)
                results = [self._shaped(self.values[name], self.program.tensors[name].shape) for name in self.program.outputs]
                output = self.builder.emit_output(results[0] if len(results) == 1 else relax.Tuple(results))
            self.builder.emit_func_output(output)
        return self.builder.get()

    def _parameter(self, name: str) -> Expr:
        tensor = self.program.tensors[name]
        self.values[name] = relax.Var(_identifier(name), relax.TensorType(tensor.shape, tensor.dtype))
        return self.values[name]

    def _step(self, step: Step) -> None:
        if isinstance(step, View):
            self.values[step.output] = self.values[step.source]
        elif isinstance(step, Call):
            self._call(step)
        else:
            self._region(step)

    def _call(self, step: Call) -> None:
        kernel = step.kernel
        shapes = [_static_shape(parameter.ty.shape) for parameter in kernel.func.params]
        arguments = [self._shaped(self.values[name], shape) for name, shape in zip(step.inputs, shapes, strict=False)]
        arguments += [self._constant(values) for values in kernel.constants]
        if len(arguments) + 1 != len(shapes):
            raise LoweringError(f"kernel {kernel.name} takes {len(shapes) - 1} inputs, {len(arguments)} were given", where=step.op)
        result = relax.TensorType(kernel.output_shape, kernel.output_dtype)
        function = self._function(kernel)
        self.values[step.output] = self.builder.emit(relax.call_tir(function, arguments, out_ty=result))
        self.calls.append(Called(step.op, function.name_hint, kernel.macs))

    def _shaped(self, value: Expr, shape: tuple[int, ...]) -> Expr:
        """`value` under another shape of as many elements: a view."""
        if _static_shape(value.ty.shape) == tuple(shape):
            return value
        return self.builder.emit(relax.op.reshape(value, tuple(shape)))

    def _function(self, kernel: Kernel) -> relax.GlobalVar:
        namesakes = self.functions.setdefault(kernel.name, [])
        known = next((variable for func, variable in namesakes if structural_equal(func, kernel.func)), None)
        if known is not None:
            return known
        variable = self.builder.add_func(kernel.func.without_attr("global_symbol"), kernel.name)
        namesakes.append((kernel.func, variable))
        return variable

    def _constant(self, values: np.ndarray) -> Expr:
        key = (str(values.dtype), values.shape, values.tobytes())
        if key not in self.constants:
            self.constants[key] = relax.const(tvm.runtime.tensor(np.ascontiguousarray(values)))
        return self.constants[key]

    def _region(self, step: Region) -> None:
        module = import_float(step.op)
        main = module["main"]
        inputs = [self._shaped(self.values[name], self.program.tensors[name].shape) for name in step.inputs]
        inliner = Inliner(self, module, dict(zip(main.params, inputs, strict=True)), step.op.name)
        results = inliner.run(main)
        self.values.update(zip(step.outputs, results, strict=True))


@mutator
class Inliner(PyExprMutator):
    """Copies the body of a Relax function of call_tir bindings into the emitter's `main`."""

    def __init__(self, emitter: Emitter, module: tvm.IRModule, values: Mapping[relax.Var, Expr], where: str) -> None:
        super().__init__()
        self.emitter, self.module, self.where = emitter, module, where
        self.values = dict(values)
        self.names: dict[str, relax.GlobalVar] = {}

    def run(self, main: relax.Function) -> list[Expr]:
        """Emits the body; returns the results."""
        for block in main.body.blocks:
            for binding in block.bindings:
                self._bind(binding)
        result = self.visit_expr(main.body.body)
        return list(result.fields) if isinstance(result, relax.Tuple) else [result]

    def visit_var_(self, op: relax.Var) -> Expr:
        """The value that stands for a variable of the region."""
        return self.values[op]

    visit_dataflow_var_ = visit_var_

    def visit_global_var_(self, op: relax.GlobalVar) -> Expr:
        """The region's PrimFunc under its name in the whole module."""
        if op.name_hint not in self.names:
            self.names[op.name_hint] = self.emitter.builder.add_func(self.module[op], f"float_{op.name_hint}")
        return self.names[op.name_hint]

    def _bind(self, binding: relax.VarBinding) -> None:
        value = self.visit_expr(binding.value)
        if isinstance(value, (relax.Call, relax.TupleGetItem)):
            symbol = self._symbol(value) if isinstance(value, relax.Call) else ""
            value = self.emitter.builder.emit(value)
            self.emitter.calls += [Called(self.where, symbol, 0)] if symbol else []
        self.values[binding.var] = value

    def _symbol(self, call: relax.Call) -> str:
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else str(call.op)
        if name == "relax.reshape":
            return ""
        if name not in ("relax.call_tir", "relax.call_dps_packed", "relax.call_pure_packed"):
            raise LoweringError(f"TVM has no loops for {name}", where=self.where, hint="keep this node out of the deployed network")
        return str(getattr(call.args[0], "name_hint", name))


def _static_shape(shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(extent) for extent in shape)


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)
