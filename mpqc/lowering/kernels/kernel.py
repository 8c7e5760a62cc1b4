"""What a kernel is: one PrimFunc, the constants it reads, and what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mpqc.errors import LoweringError
from mpqc.facts.features import KernelName, best_form

if TYPE_CHECKING:
    from tvm import tirx

Code = TypeVar("Code")


@dataclass(frozen=True)
class KernelTarget:
    """What the kernels need to know of a chip."""

    features: frozenset[str] = frozenset({"neon", "dotprod"})
    """What its instruction set has, see mpqc/facts/features.py: they choose a kernel's form. All forms give the same results bit for bit."""
    cores: int = 4
    """Threads that share the work of one kernel; the result does not depend on it."""
    block_bytes: int = 0
    """Bytes of input that a block of a product may copy to scratch; 0: as many as are fastest. The result does not depend on it either."""

    def form(self, kernel: KernelName) -> str:
        """Name of the form of `kernel` for this chip. Raises LoweringError where it has none."""
        found = best_form(kernel, self.features)
        if found is None:
            raise LoweringError(f"the kernel {kernel} has no form for a core with {', '.join(sorted(self.features)) or 'no features'}")
        return found

    def code(self, kernel: KernelName, codes: Mapping[str, Code]) -> Code:
        """The one of `codes`, one a form of `kernel`, for this chip. Raises LoweringError for a form that has none: no other is taken instead."""
        found = self.form(kernel)
        if found not in codes:
            raise LoweringError(f"the form {found} of the kernel {kernel} has no code", hint="list it in mpqc/facts/features.py when it has")
        return codes[found]

    def has(self, kernel: KernelName) -> bool:
        """Whether `kernel` has a form for this chip."""
        return best_form(kernel, self.features) is not None


@dataclass(frozen=True, eq=False)
class Kernel:
    """Code for one op at given shapes and qtypes.

    `func` takes the activation inputs, then `constants` in order, then the output: all contiguous buffers, tensors in
    NHWC. Equal shapes give equal PrimFuncs (tvm_ffi.structural_equal), so a module holds one for all of them.
    """

    name: str
    """Shape and kind, legal as a symbol name; kernels with equal code have equal names"""
    func: tirx.PrimFunc
    constants: tuple[np.ndarray, ...]
    output_shape: tuple[int, ...]
    output_dtype: str
    macs: int
    """Multiply-accumulates of the op itself (padding of tiles not counted); 0 where it has none"""
