"""The program under construction: its ops and tensors, and which file tensors have codes in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from onnx import NodeProto, helper

from mpqc.numerics import integer
from mpqc.qdq.read.quantizers import Coding
from mpqc.qdq.read.source import Source
from mpqc.quantize.functions import UNQUANTIZED
from mpqc.values.program import Op, Rescale, Table, Tensor, code_dtype
from mpqc.values.qtype import QParams

__all__ = ["UNQUANTIZED", "Builder", "Codes", "FloatNode", "Target"]


@dataclass(frozen=True, eq=False)
class Codes:
    """A tensor of codes in the program."""

    name: str
    shape: tuple[int, ...]
    coding: Coding

    @property
    def qparams(self) -> QParams:
        """Its qparams."""
        return self.coding.qparams


@dataclass(frozen=True, eq=False)
class Target:
    """Where a matched op writes: the code tensor behind Q, with the clamp that a fused Relu/Clip leaves."""

    name: str
    shape: tuple[int, ...]
    coding: Coding
    low: int
    high: int

    @property
    def qparams(self) -> QParams:
        """Qparams of the output."""
        return self.coding.qparams

    @property
    def clamped(self) -> Coding:
        """The output's coding within the clamp."""
        return replace(self.coding, low=self.low, high=self.high)

    @property
    def zero_point(self) -> int:
        """Zero point of the output."""
        return int(self.coding.qparams.zero_point)


@dataclass(frozen=True, eq=False)
class FloatNode(Op):
    """One node that stays float, before its region is closed."""

    node: NodeProto


@dataclass(eq=False)
class Builder:
    """Grows a program. `codes` maps a float or integer tensor of the file to the code tensor it is equal to."""

    source: Source
    ops: list[Op] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    codes: dict[str, Codes] = field(default_factory=dict)
    quantized: dict[str, list[Codes]] = field(default_factory=dict)
    """float tensor -> what its quantizers made of it"""
    reasons: dict[str, str] = field(default_factory=dict)
    """node name -> why it has no integer form"""

    def new_codes(self, name: str, shape: tuple[int, ...], coding: Coding) -> Codes:
        """Declare a tensor of codes, under a free name close to `name`."""
        free = name
        while free in self.tensors:
            free += "_codes"
        self.tensors[free] = Tensor(free, shape, code_dtype(coding.qparams.qtype.bits), coding.qparams)
        return Codes(free, shape, coding)

    def plain(self, name: str) -> str:
        """Declare the file's tensor `name` as a plain one."""
        if name not in self.tensors:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(self.source.elements[name])).name
            self.tensors[name] = Tensor(name, self.source.shapes[name], dtype)
        return name

    def recoded(self, codes: Codes, coding: Coding, name: str, node: str) -> Codes:
        """`codes` brought to `coding` by a step more, or unchanged where they are there already."""
        steps, result = self.brought(codes, coding, name, node)
        self.ops += steps
        return result

    def brought(self, codes: Codes, coding: Coding, name: str, node: str) -> tuple[list[Op], Codes]:
        """The steps that bring `codes` to `coding`, none or one, not added yet; and what they make."""
        if codes.coding.serves(coding):
            return [], codes
        result = self.new_codes(name, codes.shape, coding)
        names = (node, (codes.name,), (result.name,))
        table = recoding(codes, coding)
        if table is None:
            m = float(integer.ratio(codes.qparams.scale, coding.qparams.scale))
            return [Rescale(*names, m, 0.0, coding.low, coding.high, "Requantize")], result
        return [Table(*names, table, "Requantize")], result


def are_long(*codings: Coding) -> bool:
    """Whether one of them has codes of more than 8 bits."""
    return any(coding.qparams.qtype.bits > 8 for coding in codings)


def recoding(codes: Codes, coding: Coding) -> np.ndarray | None:
    """int8 [256] that brings `codes` to `coding`, None where they are there already or either has more than 8 bits."""
    if codes.coding.serves(coding) or are_long(codes.coding, coding):
        return None
    table = integer.table(lambda values: values, codes.qparams, coding.qparams)
    return np.clip(table, coding.low, coding.high).astype(np.int8)
