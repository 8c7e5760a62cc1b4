"""What runs at run time: kernels in order, each on memory whose place is known. The runner does nothing but call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

import numpy as np

Home = Literal["input", "constant", "tensor"]
"""Where a value lives: an input of the network, a constant of the module, or a tensor in the arena"""


@dataclass(frozen=True)
class Slot:
    """A value as one kernel sees it. Slots of one home and index are the same memory under other shapes."""

    home: Home
    index: int
    dtype: str
    shape: tuple[int, ...]

    def shaped(self, shape: Sequence[int]) -> Slot:
        """The same memory under another shape of as many elements."""
        assert prod(shape) == prod(self.shape), (shape, self.shape)
        return replace(self, shape=tuple(shape))

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Launch:
    """One kernel call."""

    op: str
    """Name of the ONNX node that asks for it"""
    kernel: str
    """Symbol in the module"""
    macs: int
    inputs: tuple[Slot, ...]
    """Activations and constants"""
    outputs: tuple[Slot, ...]
    workspace: Slot | None = None
    """Scratch memory, free again after the call"""
    joined: tuple[str, ...] = ()
    """Names of further nodes that the kernel does"""

    @property
    def arguments(self) -> tuple[Slot, ...]:
        """What the kernel is called with."""
        return (*self.inputs, *self.outputs, *([self.workspace] if self.workspace else []))
