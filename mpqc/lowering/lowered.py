"""What lowering hands to the builder: the Relax module and everything a person or the runner needs to know of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpqc.facts.features import needs
from mpqc.lowering.arena import Arena
from mpqc.lowering.launch import Launch, Slot
from mpqc.lowering.steps import Call, Step
from mpqc.values.program import Dequantize, Quantize

if TYPE_CHECKING:
    import numpy as np
    from tvm import IRModule

    from mpqc.lowering.layout import Layout
    from mpqc.lowering.storage import Storage
    from mpqc.numerics.winograd import FormName
    from mpqc.targets import Target
    from mpqc.values.program import Program

SCHEMA_VERSION = 2
LONGEST = 80
"""Characters of a file's name before its suffix"""
DEVICES = frozenset(("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))))
"""What Windows keeps for devices, whatever the suffix"""


@dataclass(frozen=True)
class Kept:
    """A stretch that stays float."""

    op: str
    op_types: tuple[str, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class Lowered:
    """A program as one Relax module for one target. `description` is also inside the module (function `describe`)."""

    module: IRModule
    target: Target
    steps: tuple[Step, ...]
    layout: Layout
    storage: Storage
    calls: tuple[Launch, ...]
    arena: Arena
    floats: tuple[Kept, ...]
    description: str
    """JSON: inputs, outputs (name, file, shape, dtype), the kernel calls in order, and where in memory all of it lies"""
    constant_bytes: int
    """Bytes of all weights, tables and other constants that the module holds, those of float stretches included; equal ones are held once"""
    constants: tuple[np.ndarray, ...]
    """They themselves, as arguments of home `constant` number them"""
    forms: Mapping[str, FormName] = field(default_factory=dict)
    """Convolutions that are not computed directly, by name of the op"""

    @property
    def largest_bytes(self) -> int:
        """Bytes of the largest tensor that a kernel writes, scratch apart."""
        return max((slot.nbytes for call in self.calls for slot in call.outputs), default=0)

    @property
    def conversions(self) -> tuple[Call, ...]:
        """Calls that only change the layout of a tensor (the ONNX file has no node for them)."""
        return tuple(step for step in self.steps if isinstance(step, Call) and step.relayout)


def describe(program: Program, launches: tuple[Launch, ...], outputs: tuple[Slot, ...], arena: Arena, storage: Storage, target: Target) -> str:
    """The description of a module, as JSON. `needs`: [name, word of the auxiliary vector, bit] of each feature that the core must have.

    `scale` and `zero_point` of an input or output: those of its codes, or of the codes that a float one becomes, or is made of, at once.

    An argument is [home, place, dtype, shape]; place is an index for inputs and constants and an offset in bytes for tensors of the arena.
    """
    files = file_names((*program.inputs, *program.outputs))
    values = {
        "schema_version": SCHEMA_VERSION,
        "name": program.name,
        "target": target.name,
        "needs": [list(need) for need in needs(target.features)],
        "inputs": [_value(program, name, files) for name in program.inputs],
        "outputs": [_value(program, name, files) | {"memory": _argument(slot, arena)} for name, slot in zip(program.outputs, outputs, strict=True)],
        "memory": {"arena_bytes": arena.nbytes, "live_bytes": arena.live_bytes, "workspace_bytes": arena.workspace_bytes},
        "two_a_byte": {"tensors": sorted(storage.packed), "refused": dict(storage.whole)},
        "ops": [_op(call, arena) for call in launches],
    }
    return json.dumps(values)


def _op(call: Launch, arena: Arena) -> dict[str, object]:
    """One kernel call; `joined` names further nodes that it does."""
    arguments = [_argument(slot, arena) for slot in call.arguments]
    return {"name": call.op, "kernel": call.kernel, "macs": call.macs, "joined": list(call.joined), "arguments": arguments}


def _argument(slot: Slot, arena: Arena) -> list[object]:
    place = arena.offsets[slot.index] if slot.home == "tensor" else slot.index
    return [slot.home, place, slot.dtype, list(slot.shape)]


def _value(program: Program, name: str, files: dict[str, str]) -> dict[str, object]:
    tensor = program.tensors[name]
    return {"name": name, "file": files[name], "shape": list(tensor.shape), "dtype": tensor.dtype} | _grid(program, name)


def _grid(program: Program, name: str) -> dict[str, object]:
    """Scale and zero point of the value's codes, {} where it has none, or one for each channel. Bytes are the numbers themselves."""
    if program.tensors[name].dtype == "uint8":
        return {"scale": 1.0, "zero_point": 0}
    users = [program.tensors[user.outputs[0]] for user in program.uses[name] if isinstance(user, Quantize)]
    makers = [program.tensors[op.inputs[0]] for op in program.ops if isinstance(op, Dequantize) and name in op.outputs]
    grids = [tensor.qparams for tensor in (program.tensors[name], *users, *makers) if tensor.qparams is not None]
    if not grids or grids[0].scale.size != 1 or grids[0].zero_point.size != 1:
        return {}
    return {"scale": float(grids[0].scale.item()), "zero_point": int(grids[0].zero_point.item())}


def file_names(names: tuple[str, ...]) -> dict[str, str]:
    """A distinct `.npy` file name for every tensor name, legal everywhere: long ones end in a hash, names of devices get a mark."""
    files: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        stem = _stem(name)
        candidates = (stem, *(f"{stem}_{number}" for number in range(2, len(names) + 2)))
        free = next(candidate for candidate in candidates if candidate.lower() not in taken)
        taken.add(free.lower())
        files[name] = f"{free}.npy"
    return files


def _stem(name: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_").lstrip("-") or "tensor"
    if len(stem) > LONGEST:
        return f"{stem[: LONGEST - 9]}_{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return f"{stem}_" if stem.lower() in DEVICES else stem
