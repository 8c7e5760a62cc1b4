"""A lowered program as a list: which kernel runs on which values, in order. Frozen before any Relax is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpqc.lowering.kernels.kernel import Kernel
    from mpqc.values.program import Float


@dataclass(frozen=True)
class Call:
    """One kernel call. Inputs may have another shape than the kernel's buffers: the memory is the same."""

    op: str
    """Name of the ONNX node that asks for it"""
    kernel: Kernel = field(repr=False)
    inputs: tuple[str, ...]
    output: str
    joined: tuple[str, ...] = ()
    """Names of the nodes after it that the kernel does as well (fusion.py)"""
    relayout: bool = False
    """Whether it only changes how a tensor lies: the ONNX file has no node for it"""


@dataclass(frozen=True)
class View:
    """`output` is the memory of `source` under another shape: nothing runs."""

    op: str
    source: str
    output: str


@dataclass(frozen=True)
class Region:
    """A float stretch, left to TVM's own ONNX frontend; its tensors lie as ONNX writes them."""

    op: Float = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


Step = Call | View | Region
