"""What a module says of itself, and inputs checked against it before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpqc.errors import DataError, RunError
from mpqc.values.json_file import parse_json

_OTHER_FLOATS = ("float16", "bfloat16", "float64")


@dataclass(frozen=True)
class Value:
    """An input or output of a module. `shape` is that of one call; `file` its name in a bundle's folders."""

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Argument:
    """A value as a kernel sees it. `home`: input, constant (`place` is its index) or tensor (`place` is its offset in the arena)."""

    home: str
    place: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Launch:
    """One kernel call."""

    kernel: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Memory:
    """What a module needs while it runs, in bytes."""

    arena_bytes: int
    """The one block that is allocated at load, for everything between inputs and constants"""
    live_bytes: int
    """Most bytes of activations that are live at once"""
    workspace_bytes: int
    """The largest scratch memory of a kernel"""


@dataclass(frozen=True)
class Description:
    """Inputs and outputs of a module, and how it is run."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    results: tuple[Argument, ...]
    """Where the outputs are after the last launch"""
    launches: tuple[Launch, ...]
    memory: Memory

    @classmethod
    def parse(cls, text: str, where: str = "model.json") -> Description:
        """Reads what the module's function `describe` returned. Raises RunError for anything else."""
        try:
            values = parse_json(text)
            inputs, outputs = (tuple(_value(row) for row in values[key]) for key in ("inputs", "outputs"))
            results = tuple(_argument(row["memory"]) for row in values["outputs"])
            launches = tuple(Launch(str(op["kernel"]), tuple(_argument(row) for row in op["arguments"])) for op in values["ops"])
            return cls(inputs, outputs, results, launches, Memory(**{name: int(size) for name, size in values["memory"].items()}))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise RunError("is not the description of an mpqc module", where=where, why=str(error)) from error

    def single(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`inputs` with half and double precision as the float32 that the network was compiled in; other types as they are."""
        floats = {value.name for value in self.inputs if value.dtype == "float32"}
        return {name: array.astype(np.float32) if name in floats and array.dtype.name in _OTHER_FLOATS else array for name, array in inputs.items()}

    def check(self, inputs: Mapping[str, np.ndarray]) -> int:
        """How many samples `inputs` hold: 1, or n where every array stacks n along its first dimension.

        Raises DataError for unknown or missing names, other shapes or dtypes, NaN and infinity.
        """
        unknown = sorted(set(inputs) - {value.name for value in self.inputs})
        if unknown:
            raise DataError("the model has no such input", where=unknown[0], hint=f"its inputs are {', '.join(value.name for value in self.inputs)}")
        counts = {value.name: _samples(value, inputs) for value in self.inputs}
        several = {name: count for name, count in counts.items() if count != 1}
        if len(set(several.values())) > 1:
            raise DataError(f"inputs hold different numbers of samples: {several}", where=next(iter(several)))
        return next(iter(several.values()), 1)


def _value(row: Mapping[str, object]) -> Value:
    shape, file = row["shape"], str(row["file"])
    if not isinstance(shape, list):
        raise TypeError("shape is not a list")
    if file in ("", ".", "..") or any(character in file for character in "/\\\0"):
        raise ValueError(f"{file!r} is not the name of a file")  # it is read and written in folders of ours
    return Value(str(row["name"]), file, tuple(map(_extent, shape)), str(np.dtype(str(row["dtype"]))))


def _argument(row: Sequence[Any]) -> Argument:
    home, place, dtype, shape = row
    return Argument(str(home), int(place), str(dtype), tuple(map(_extent, shape)))


def _extent(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 40:
        raise ValueError(f"{value!r} is not the size of a dimension")
    return value


def _samples(value: Value, inputs: Mapping[str, np.ndarray]) -> int:
    if value.name not in inputs:
        raise DataError("no array for this input", where=value.name)
    array = inputs[value.name]
    if array.dtype.name != value.dtype:
        raise DataError(f"is {array.dtype.name}, the model takes {value.dtype}", where=value.name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("holds NaN or infinity", where=value.name)
    if array.shape == value.shape:
        return 1
    fits = array.ndim == len(value.shape) > 0 and array.shape[1:] == value.shape[1:] and array.shape[0] > 0 and array.shape[0] % value.shape[0] == 0
    if not fits:
        raise DataError(f"has shape {list(array.shape)}, the model takes {list(value.shape)}", where=value.name)
    return array.shape[0] // value.shape[0]
