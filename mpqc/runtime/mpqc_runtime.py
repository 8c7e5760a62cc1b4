# SPDX-License-Identifier: Apache-2.0
"""Runs a network that mpqc compiled, from Python on the board: ctypes and numpy, nothing else.

    import numpy as np
    import mpqc_runtime

    model = mpqc_runtime.Model("model.so", threads=4)
    outputs = model.run({"input": np.zeros((1, 3, 224, 224), np.float32)})

This file lies beside lib/libmpqc.so in a bundle and finds it there; MPQC_LIBRARY names another one.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ABI = 1
"""MPQC_ABI of the mpqc.h that this file follows"""
ERROR_BYTES = 512
MOST_THREADS, MOST_RUNS = 256, 2**31 - 1
TYPES = ("", "float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")
"""By their number in mpqc.h"""


class Error(RuntimeError):
    """What libmpqc refused, in its words."""


class Tensor(NamedTuple):
    """An input or output. A code q means scale * (q - zero_point); scale is 0 where there are no codes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int


class Op(NamedTuple):
    """One kernel call of a run, with its mean time."""

    name: str
    kernel: str
    macs: int
    microseconds: float


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("dims", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("bytes", ctypes.c_size_t),
        ("scale", ctypes.c_float),
        ("zero_point", ctypes.c_int32),
    ]


class _Op(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("kernel", ctypes.c_char_p), ("macs", ctypes.c_int64)]


_MODEL, _SIZE, _TEXT, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_int
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "abi": (_INT, []),
    "load": (_MODEL, [_TEXT, _TEXT, _SIZE]),
    "clone": (_MODEL, [_MODEL]),
    "free": (None, [_MODEL]),
    "error": (_TEXT, [_MODEL]),
    "status_text": (_TEXT, [_INT]),
    "name": (_TEXT, [_MODEL]),
    "target": (_TEXT, [_MODEL]),
    "input_count": (_SIZE, [_MODEL]),
    "output_count": (_SIZE, [_MODEL]),
    "input": (ctypes.POINTER(_Tensor), [_MODEL, _SIZE]),
    "output": (ctypes.POINTER(_Tensor), [_MODEL, _SIZE]),
    "input_data": (_MODEL, [_MODEL, _SIZE]),
    "output_data": (_MODEL, [_MODEL, _SIZE]),
    "run": (_INT, [_MODEL]),
    "set_threads": (_INT, [_MODEL, _INT]),
    "op_count": (_SIZE, [_MODEL]),
    "op_at": (ctypes.POINTER(_Op), [_MODEL, _SIZE]),
    "profile": (_INT, [_MODEL, _INT, ctypes.POINTER(ctypes.c_double)]),
}


def _library(path: str | os.PathLike[str] | None) -> ctypes.CDLL:
    given = path or os.environ.get("MPQC_LIBRARY") or Path(__file__).resolve().parent / "lib" / "libmpqc.so"
    try:
        library = ctypes.CDLL(os.fspath(given))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, f"mpqc_{name}")
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise Error(f"{os.fspath(given)}: is not libmpqc for this machine ({error})") from error
    if library.mpqc_abi() != ABI:
        raise Error(f"{os.fspath(given)}: has ABI {library.mpqc_abi()}, this file follows {ABI}: take both from one bundle")
    return library


class _Handle:
    """A model of the library, freed with the last thing that reads its memory."""

    def __init__(self, library: ctypes.CDLL, model: int) -> None:
        self.library, self.model = library, model

    def __del__(self) -> None:
        self.library.mpqc_free(self.model)


class Model:
    """A loaded network. `inputs` and `outputs` are what it takes and gives; `data` maps each name to its own memory as an array.

    Threads that share a model wait for each other; `clone` lets them run at once.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 1, *, library: str | os.PathLike[str] | None = None) -> None:
        """Loads model.so for runs on `threads` threads. Raises Error with what is wrong."""
        self._library = _library(library)
        message = ctypes.create_string_buffer(ERROR_BYTES)
        self._take(self._library.mpqc_load(os.fsencode(path), message, ERROR_BYTES), message.value)
        if threads != 1:
            self.set_threads(threads)

    def _take(self, model: int | None, message: bytes) -> None:
        if not model:
            raise Error(message.decode("utf-8", "replace"))
        self._model, self._handle = model, _Handle(self._library, model)
        self._turn = threading.RLock()
        self.name = _text(self._library.mpqc_name(model))
        self.target = _text(self._library.mpqc_target(model))
        self.inputs, given = self._tensors("input")
        self.outputs, made = self._tensors("output")
        self._given = dict(zip((tensor.name for tensor in self.inputs), given))
        self._made = dict(zip((tensor.name for tensor in self.outputs), made))
        self.data = {**self._given, **self._made}

    def _tensors(self, kind: str) -> tuple[tuple[Tensor, ...], list[np.ndarray]]:
        count = getattr(self._library, f"mpqc_{kind}_count")(self._model)
        rows = [getattr(self._library, f"mpqc_{kind}")(self._model, index).contents for index in range(count)]
        places = [getattr(self._library, f"mpqc_{kind}_data")(self._model, index) for index in range(count)]
        tensors = tuple(Tensor(_text(row.name), tuple(row.shape[: row.dims]), TYPES[row.type], float(row.scale), int(row.zero_point)) for row in rows)
        return tensors, [self._array(row, tensor, place) for row, tensor, place in zip(rows, tensors, places)]

    def _array(self, row: _Tensor, tensor: Tensor, place: int) -> np.ndarray:
        memory = (ctypes.c_char * row.bytes).from_address(place)
        memory._handle = self._handle  # type: ignore[attr-defined]  # the array keeps its memory alive
        return np.frombuffer(memory, np.dtype(tensor.dtype)).reshape(tensor.shape)

    def run(self, inputs: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name, copies of their memory, of `inputs` by name (one array alone where the network has one input).

        Raises Error for unknown or missing names, other shapes or types, and what the library refuses.
        """
        named = {self.inputs[0].name: inputs} if isinstance(inputs, np.ndarray) and len(self.inputs) == 1 else inputs
        if not isinstance(named, Mapping):
            one = "one numpy array, or " if len(self.inputs) == 1 else ""
            raise Error(f"give {one}the {len(self.inputs)} inputs by name: {', '.join(self._given)} (given was {type(named).__name__})")
        self._check(named)
        with self._turn:  # inputs and outputs lie in one place: they are one run's alone
            for name, place in self._given.items():
                place[...] = named[name]
            self.run_again()
            return {name: values.copy() for name, values in self._made.items()}

    def run_again(self) -> None:
        """Runs on what lies in `data`; the outputs lie there afterwards. Nothing is copied."""
        with self._turn:
            self._checked(self._library.mpqc_run(self._model))

    def set_threads(self, threads: int) -> None:
        """Runs will take `threads` threads, 1 to 256."""
        _require_count(threads, "threads", MOST_THREADS)
        with self._turn:
            self._checked(self._library.mpqc_set_threads(self._model, threads))

    def profile(self, runs: int = 10) -> list[Op]:
        """Mean microseconds of every kernel call over `runs` runs."""
        _require_count(runs, "runs", MOST_RUNS)
        count = self._library.mpqc_op_count(self._model)
        times = (ctypes.c_double * max(count, 1))()
        with self._turn:
            self._checked(self._library.mpqc_profile(self._model, runs, times))
        ops = [self._library.mpqc_op_at(self._model, index).contents for index in range(count)]
        return [Op(_text(op.name), _text(op.kernel), int(op.macs), times[index]) for index, op in enumerate(ops)]

    def clone(self) -> Model:
        """The same network for another thread: weights are shared, all else is its own."""
        copy = Model.__new__(Model)
        copy._library = self._library
        copy._take(self._library.mpqc_clone(self._model), self._library.mpqc_error(self._model))
        return copy

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        if set(inputs) != set(self._given):
            raise Error(f"inputs are {', '.join(self._given)}, given were {', '.join(map(str, inputs)) or 'none'}")
        for tensor in self.inputs:
            array = inputs[tensor.name]
            if not isinstance(array, np.ndarray) or array.dtype.name != tensor.dtype or array.shape != tensor.shape:
                raise Error(f"{tensor.name}: takes {tensor.dtype} {list(tensor.shape)}")

    def _checked(self, status: int) -> None:
        if status:
            what, why = _text(self._library.mpqc_status_text(status)), _text(self._library.mpqc_error(self._model))
            raise Error(f"{what}: {why}" if why else what)


def _require_count(value: object, what: str, most: int) -> None:
    if not isinstance(value, int) or not 1 <= value <= most:
        raise Error(f"{what}: {value!r} is no whole number from 1 to {most}")


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
