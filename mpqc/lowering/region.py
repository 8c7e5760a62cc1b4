"""Float stretches as launches: what TVM's frontend made of them, call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import tvm
from tvm import relax, tirx

from mpqc.errors import LoweringError
from mpqc.lowering.float_region import import_float
from mpqc.lowering.floats.schedule import UNSCHEDULED
from mpqc.lowering.launch import Slot
from mpqc.values.program import Float

Value = Slot | tuple[Slot, ...]

LONGEST = 120
"""Characters of a kernel's name"""


class Module(Protocol):
    """What a stretch needs of the module that it goes into."""

    def constant(self, values: np.ndarray) -> Slot:
        """A constant of the module."""

    def tensor(self, dtype: str, shape: Sequence[int]) -> Slot:
        """A new tensor in the arena."""

    def launch(self, op: str, name: str, func: tirx.PrimFunc, inputs: Sequence[Slot], outputs: Sequence[Slot]) -> None:
        """Adds one kernel call."""


@dataclass
class Region:
    """One stretch on its way into a module."""

    op: Float
    into: Module
    values: dict[relax.Var, Value] = field(default_factory=dict)

    def emit(self, inputs: Sequence[Slot]) -> tuple[Slot, ...]:
        """Adds the stretch's launches; returns its results in the order of the op's outputs."""
        module = import_float(self.op)
        main = module["main"]
        self.values.update(zip(main.params, inputs, strict=True))
        for block in main.body.blocks:
            for binding in block.bindings:
                self.values[binding.var] = self._value(binding.value, module)
        result = self._value(main.body.body, module)
        return result if isinstance(result, tuple) else (result,)

    def _value(self, expr: Any, module: tvm.IRModule) -> Value:
        if isinstance(expr, tvm.ir.GenericConst):
            return self.into.constant(expr.value.numpy())
        if isinstance(expr, relax.Tuple):
            return tuple(self._slot(part, module) for part in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            parts = self._value(expr.tuple_value, module)
            assert isinstance(parts, tuple)
            return parts[expr.index]
        if isinstance(expr, relax.If):
            hint = "decide it before the network runs, or keep it out of the deployed network"
            raise LoweringError("an If whose condition is computed has no form in the compiled program", where=self.op.name, hint=hint)
        return self._call(expr, module) if isinstance(expr, relax.Call) else self.values[expr]

    def _slot(self, expr: Any, module: tvm.IRModule) -> Slot:
        value = self._value(expr, module)
        assert isinstance(value, Slot)
        return value

    def _call(self, call: relax.Call, module: tvm.IRModule) -> Value:
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else str(call.op)
        if name == "relax.reshape":
            return self._slot(call.args[0], module).shaped(_shape(call.ty))
        if name != "relax.call_tir":
            raise LoweringError(f"TVM has no loops for {name}", where=self.op.name, hint="keep this node out of the deployed network")
        inputs = [self._slot(part, module) for part in call.args[1].fields]
        types = list(call.ty.fields) if isinstance(call.ty, relax.TupleType) else [call.ty]
        outputs = tuple(self.into.tensor(str(kind.dtype), _shape(kind)) for kind in types)
        function = module[call.args[0]]
        name = _short(f"float_{call.args[0].name_hint}") + "_unscheduled" * (UNSCHEDULED in (function.attrs or {}))
        self.into.launch(self.op.name, name, function, inputs, outputs)
        return outputs if isinstance(call.ty, relax.TupleType) else outputs[0]


def _short(name: str) -> str:
    """`name`, or its beginning and a hash of all of it: TVM calls a kernel by all that was fused into it, of a long recurrence hundreds of ops."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 17]}_{sha256(name.encode()).hexdigest()[:16]}"


def _shape(kind: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in kind.shape)
