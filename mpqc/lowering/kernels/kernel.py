"""What a kernel is: one PrimFunc, the constants it reads, and what it makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from tvm import tirx

Isa = Literal["dotprod", "neon", "generic"]


@dataclass(frozen=True)
class KernelTarget:
    """What the kernels need to know of a chip."""

    isa: Isa = "dotprod"
    """dotprod: AArch64 with SDOT (Cortex-A55, A76, Neoverse N1). neon: AArch64 without (A53, A72). generic: portable loops for any CPU.

    All give the same results bit for bit.
    """
    cores: int = 4
    """Threads that share the work of one kernel; the result does not depend on it."""


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
