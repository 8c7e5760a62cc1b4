"""The plan of a module as a table: what `describe` says as JSON, for a loader that believes nothing and parses nothing (runtime/native/plan.c).

Little-endian: a header, then values (inputs, outputs), constants, arguments, ops, needs, extents, text. Records name text and extents by where these
begin; a constant is a stretch of what TVM stores in the module for its own loader.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpqc.errors import LoweringError

MAGIC = b"mpqcplan"
VERSION = 1
HEADER = struct.Struct("<8s10I3Q2I")
ARGUMENT = struct.Struct("<4IQ")
VALUE_NAMES = struct.Struct("<2I")
GRID = struct.Struct("<fi")
CONSTANT = struct.Struct("<2Q")
OP = struct.Struct("<4IQ")
NEED = struct.Struct("<4I")
HOMES = {"input": 0, "constant": 1, "tensor": 2}
TYPES = {
    name: number
    for number, name in enumerate(
        ("float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"), start=1
    )
}
"""As mpqc.h numbers them"""
TENSOR_MAGIC = 0xDD5E40F096B4A13F
"""First word of a tensor that TVM stores: kTVMTensorMagic of its <tvm/runtime/tensor.h>"""


@dataclass
class _Table:
    """Text and extents, equal ones once."""

    text: bytearray = field(default_factory=bytearray)
    extents: list[int] = field(default_factory=list)
    _names: dict[str, int] = field(default_factory=dict)
    _shapes: dict[tuple[int, ...], int] = field(default_factory=dict)

    def name(self, text: str) -> int:
        """Where `text` begins; a NUL in it, which would end it, becomes a question mark."""
        if text not in self._names:
            self._names[text] = len(self.text)
            self.text += text.replace("\0", "?").encode("utf-8", "replace") + b"\0"
        return self._names[text]

    def shape(self, extents: tuple[int, ...]) -> int:
        """Where `extents` begin."""
        if extents not in self._shapes:
            self._shapes[extents] = len(self.extents)
            self.extents += extents
        return self._shapes[extents]

    def argument(self, row: Sequence[Any]) -> bytes:
        """A value as a kernel sees it, [home, place, dtype, shape]."""
        home, place, dtype, shape = row
        if dtype not in TYPES:
            raise LoweringError(f"the runtime library has no type {dtype}", hint="keep this value out of the deployed network")
        return ARGUMENT.pack(HOMES[home], TYPES[dtype], len(shape), self.shape(tuple(shape)), place)


def pack_plan(description: str, offsets: Sequence[int], sizes: Sequence[int]) -> bytes:
    """The plan of the module that `description` describes; its constants of `sizes` bytes lie at `offsets` of what TVM stores."""
    facts: Mapping[str, Any] = json.loads(description)
    table = _Table()
    inputs = [_value(table, row, ["input", index, row["dtype"], row["shape"]]) for index, row in enumerate(facts["inputs"])]
    outputs = [_value(table, row, row["memory"]) for row in facts["outputs"]]
    constants = [CONSTANT.pack(offset, size) for offset, size in zip(offsets, sizes, strict=True)]
    arguments, ops = _ops(table, facts["ops"])
    needs = [NEED.pack(table.name(name), word, bit, 0) for name, word, bit in facts["needs"]]
    name, target = table.name(facts["name"]), table.name(facts["target"])
    text = bytes(table.text) + bytes(-len(table.text) % 8)
    parts = (inputs, outputs, constants, arguments, ops, needs)
    body = b"".join(b"".join(part) for part in parts) + np.array(table.extents, "<i8").tobytes() + text
    memory = (facts["memory"][key] for key in ("arena_bytes", "live_bytes", "workspace_bytes"))
    counts = (*map(len, parts), len(table.extents), len(text))
    return HEADER.pack(MAGIC, VERSION, HEADER.size + len(body), *counts, *memory, name, target) + body


def _value(table: _Table, row: Mapping[str, Any], memory: Sequence[Any]) -> bytes:
    names = VALUE_NAMES.pack(table.name(row["name"]), table.name(row["file"]))
    where = table.argument([*memory[:2], row["dtype"], row["shape"]])
    return names + where + GRID.pack(row.get("scale", 0.0), row.get("zero_point", 0))


def _ops(table: _Table, rows: Iterable[Mapping[str, Any]]) -> tuple[list[bytes], list[bytes]]:
    """The arguments of all ops, and the ops, which say where theirs begin."""
    arguments: list[bytes] = []
    ops = []
    for row in rows:
        given = [table.argument(argument) for argument in row["arguments"]]
        ops.append(OP.pack(table.name(row["name"]), table.name(row["kernel"]), len(arguments), len(given), row["macs"]))
        arguments += given
    return arguments, ops


def find_constants(stored: bytes, constants: Sequence[np.ndarray]) -> list[int]:
    """Where the bytes of each of `constants` begin in `stored`, what TVM's loader reads. Raises LoweringError where TVM stored one otherwise."""
    found = []
    for index, values in enumerate(constants):
        head = stored_head(values)
        at = stored.find(head + values.tobytes())
        if at < 0:
            raise LoweringError("TVM stores a constant in another way than the runtime library reads", where=f"constant {index}")
        found.append(at + len(head))
    return found


def stored_head(values: np.ndarray) -> bytes:
    """What TVM writes before the bytes of a tensor: SaveDLTensor of its <tvm/runtime/tensor.h>."""
    code = {"i": 0, "u": 1, "f": 2, "b": 6}[values.dtype.kind]
    kind = struct.pack("<2BH", code, values.dtype.itemsize * 8, 1)
    shape = np.array(values.shape, "<i8").tobytes()
    return struct.pack("<2Q2ii", TENSOR_MAGIC, 0, 1, 0, values.ndim) + kind + shape + struct.pack("<q", values.nbytes)
