"""A module for this machine inside this process: loaded once, its memory allocated once, its kernels called in order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

from mpqc.errors import RunError
from mpqc.runtime.description import Argument, Description

ALIGNMENT = 64


@dataclass(frozen=True, eq=False)
class HostModule:
    """A loaded module: arrays that its inputs are written to and its results read from, and calls (a kernel and its arguments)."""

    description: Description
    inputs: tuple[np.ndarray, ...]
    results: tuple[np.ndarray, ...]
    calls: tuple[tuple[Any, tuple[Any, ...]], ...]

    @classmethod
    def load(cls, path: Path, threads: int) -> HostModule:
        """Loads a module that will run on `threads` threads. Raises RunError (no such file, built for another machine, not an mpqc module)."""
        path = path.resolve()  # a name without a slash would be looked up as a system library
        if not path.is_file():
            raise RunError("no such file", where=str(path))
        try:
            library = tvm.runtime.load_module(str(path))
            machine = relax.VirtualMachine(library, tvm.cpu())
            description = Description.parse(machine["describe"]().numpy().tobytes().decode(), str(path))
            kernels = [library.get_function(launch.kernel, query_imports=True) for launch in description.launches]
            memory = _Memory.of(description, list(machine["constants"]()))
        except (RuntimeError, OSError, AttributeError, ValueError) as error:
            raise RunError("is not an mpqc module for this machine", where=str(path), why=str(error).splitlines()[-1]) from error
        _configure_threads(threads)
        arguments = [tuple(memory.tensor(argument) for argument in launch.arguments) for launch in description.launches]
        results = tuple(memory.array(argument) for argument in description.results)
        return cls(description, memory.inputs, results, tuple(zip(kernels, arguments, strict=True)))

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for one sample, copies of their memory."""
        for place, array in zip(self.inputs, arrays, strict=True):
            place[...] = array
        for kernel, arguments in self.calls:
            kernel(*arguments)
        return [result.copy() for result in self.results]


def _configure_threads(threads: int) -> None:
    """Lets kernels of this process run on `threads` threads, on any core.

    By itself TVM binds its threads, and for good the one that calls it: what that does afterwards, and every process that it starts, would share one
    core. TVM reads the variable whenever it makes threads; what the user set stays.
    """
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    tvm.get_global_func("runtime.config_threadpool")(1, threads)


@dataclass(frozen=True, eq=False)
class _Memory:
    inputs: tuple[np.ndarray, ...]
    constants: list[Any]
    arena: np.ndarray

    @classmethod
    def of(cls, description: Description, constants: list[Any]) -> _Memory:
        inputs = (_aligned(prod(value.shape) * np.dtype(value.dtype).itemsize).view(value.dtype).reshape(value.shape) for value in description.inputs)
        return cls(tuple(inputs), constants, _aligned(description.memory.arena_bytes))

    def array(self, argument: Argument) -> np.ndarray:
        """The memory of an argument, under its shape."""
        if argument.home == "input":
            return self.inputs[argument.place].reshape(argument.shape)
        if argument.home == "constant":
            return self.constants[argument.place].numpy().reshape(argument.shape)
        size = prod(argument.shape) * np.dtype(argument.dtype).itemsize
        return self.arena[argument.place : argument.place + size].view(argument.dtype).reshape(argument.shape)

    def tensor(self, argument: Argument) -> Any:
        """The same as a tensor that kernels take."""
        same = argument.home == "constant" and tuple(self.constants[argument.place].shape) == argument.shape
        return self.constants[argument.place] if same else tvm_ffi.from_dlpack(self.array(argument))


def _aligned(size: int) -> np.ndarray:
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]
