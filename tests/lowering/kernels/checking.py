"""Compares kernels with the results they must give, bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi
from harness import A72, A76, HOST, Case, Machine, run

from mpqc.lowering.kernels.kernel import Kernel
from mpqc.lowering.kernels.layout import to_physical
from mpqc.values.program import Tensor
from mpqc.values.qtype import QParams, QType

MACHINES: dict[str, Machine] = {"dotprod": A76, "neon": A72, "generic": HOST}


@dataclass(frozen=True, eq=False)
class Expected:
    """A kernel, its inputs as they lie in memory and the output that it must give."""

    kernel: Kernel
    inputs: tuple[np.ndarray, ...]
    output: np.ndarray
    label: str = ""


def quantized(shape: Sequence[int], zero_point: int = 0, scale: float = 0.04, bits: int = 8) -> Tensor:
    """An int8 tensor of the program."""
    return Tensor("t", tuple(shape), "int8", QParams(QType(bits), np.float32(scale), np.int32(zero_point)))


def plain(shape: Sequence[int], dtype: str = "float32") -> Tensor:
    """A tensor without qparams."""
    return Tensor("t", tuple(shape), dtype)


def expected(kernel: Kernel, inputs: Sequence[tuple[np.ndarray, Tensor]], output: tuple[np.ndarray, Tensor], label: str = "") -> Expected:
    """From arrays in ONNX order and their tensors."""
    return Expected(kernel, tuple(to_physical(*pair) for pair in inputs), to_physical(output[0].astype(kernel.output_dtype), output[1]), label)


def check(cases: Sequence[Expected], isa: str, *, threads: Sequence[int] = (1, 3)) -> None:
    """Fails unless every kernel gives exactly its output for each number of threads, emulated for AArch64 and on this machine for generic."""
    _names_mean_one_code([case.kernel for case in cases])
    calls = [(case, count) for count in threads for case in cases]
    with tempfile.TemporaryDirectory() as folder:
        got = run([Case(case.kernel, case.inputs, count) for case, count in calls], MACHINES[isa], Path(folder))
    for (case, count), array in zip(calls, got, strict=True):
        np.testing.assert_array_equal(array, case.output, err_msg=f"{case.kernel.name} {case.label} ({isa}, {count} threads)", strict=True)


def _names_mean_one_code(kernels: Sequence[Kernel]) -> None:
    first: dict[str, Kernel] = {}
    for kernel in kernels:
        other = first.setdefault(kernel.name, kernel)
        assert other is kernel or tvm_ffi.structural_equal(other.func, kernel.func), f"two different kernels are called {kernel.name}"


ISAS = [pytest.param("generic"), pytest.param("neon", marks=pytest.mark.emulator), pytest.param("dotprod", marks=pytest.mark.emulator)]
"""Values of a parameter `isa`"""


def codes(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Random int8 with the extremes in it."""
    array = rng.integers(-128, 128, tuple(shape), dtype=np.int8)
    array.reshape(-1)[:2] = [-128, 127][: array.size]
    return array
