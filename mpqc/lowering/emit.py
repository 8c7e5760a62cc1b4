"""Steps -> the functions of a module, its constants, and the launches that run them in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tvm import tirx
from tvm_ffi import structural_equal

from mpqc.errors import LoweringError
from mpqc.lowering.launch import Launch, Slot
from mpqc.lowering.region import Region as FloatRegion
from mpqc.lowering.scratch import plan_workspace
from mpqc.lowering.steps import Call, Region, Step, View
from mpqc.values.program import Program


@dataclass(frozen=True)
class Function:
    """A PrimFunc of the module."""

    source: tirx.PrimFunc
    """As the kernel was given"""
    symbol: str
    func: tirx.PrimFunc
    """As it is compiled: with its workspace as a parameter"""
    workspace: int


@dataclass
class Emitter:
    """Collects the parts of a module step by step."""

    program: Program
    cores: int
    values: dict[str, Slot] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    functions: dict[str, list[Function]] = field(default_factory=dict)
    """Kernels by name: a module holds equal code once"""
    constants: list[np.ndarray] = field(default_factory=list)
    tensors: int = 0
    """Tensors of the arena so far"""
    _known: dict[tuple[str, tuple[int, ...], bytes], int] = field(default_factory=dict)

    def emit(self, steps: Sequence[Step]) -> tuple[Slot, ...]:
        """Adds all steps and returns where the network's outputs are."""
        for index, name in enumerate(self.program.inputs):
            tensor = self.program.tensors[name]
            self.values[name] = Slot("input", index, tensor.dtype, tensor.shape)
        for step in steps:
            self._step(step)
        return tuple(self.values[name].shaped(self.program.tensors[name].shape) for name in self.program.outputs)

    def launch(
        self,
        op: str,
        name: str,
        func: tirx.PrimFunc,
        inputs: Sequence[Slot],
        outputs: Sequence[Slot],
        macs: int = 0,
        joined: tuple[str, ...] = (),
    ) -> None:
        """Adds one kernel call; the slots must have the shapes of the kernel's parameters."""
        given, wanted = [slot.shape for slot in (*inputs, *outputs)], [_shape(parameter) for parameter in func.params]
        if given != wanted:
            raise LoweringError(f"kernel {name} takes {wanted}, it was given {given}", where=op)
        function = self._function(name, func)
        workspace = self.tensor("int8", (function.workspace,)) if function.workspace else None
        self.launches.append(Launch(op, function.symbol, macs, tuple(inputs), tuple(outputs), workspace, joined))

    def tensor(self, dtype: str, shape: Sequence[int]) -> Slot:
        """A new tensor in the arena."""
        self.tensors += 1
        return Slot("tensor", self.tensors - 1, dtype, tuple(shape))

    def constant(self, values: np.ndarray) -> Slot:
        """A constant of the module; equal ones are kept once."""
        key = (str(values.dtype), values.shape, values.tobytes())
        if key not in self._known:
            self._known[key] = len(self.constants)
            self.constants.append(np.ascontiguousarray(values))
        return Slot("constant", self._known[key], str(values.dtype), values.shape)

    def _step(self, step: Step) -> None:
        if isinstance(step, View):
            self.values[step.output] = self.values[step.source]
        elif isinstance(step, Call):
            self._call(step)
        else:
            self._region(step)

    def _call(self, step: Call) -> None:
        kernel = step.kernel
        shapes = [_shape(parameter) for parameter in kernel.func.params]
        inputs = [self.values[name].shaped(shape) for name, shape in zip(step.inputs, shapes, strict=False)]
        inputs += [self.constant(values) for values in kernel.constants]
        output = self.tensor(kernel.output_dtype, kernel.output_shape)
        self.launch(step.op, kernel.name, kernel.func, inputs, [output], kernel.macs, step.joined)
        self.values[step.output] = output

    def _region(self, step: Region) -> None:
        inputs = [self.values[name].shaped(self.program.tensors[name].shape) for name in step.inputs]
        results = FloatRegion(step.op, self).emit(inputs)
        self.values.update(zip(step.outputs, results, strict=True))

    def _function(self, name: str, func: tirx.PrimFunc) -> Function:
        namesakes = self.functions.setdefault(name, [])
        known = next((function for function in namesakes if structural_equal(function.source, func)), None)
        if known is None:
            planned = plan_workspace(func, self.cores)
            known = Function(func, f"{name}_{len(namesakes)}" if namesakes else name, planned.func, planned.workspace)
            namesakes.append(known)
        return known


def _shape(parameter: tirx.Var) -> tuple[int, ...]:
    return tuple(int(extent) for extent in parameter.ty.shape)
