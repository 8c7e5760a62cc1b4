"""Lowering: integer program -> Relax module of mpqc's kernels -> shared library. The only part, with runtime/, that needs TVM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpqc.lowering.lowered import Lowered
    from mpqc.targets import Target
    from mpqc.values.program import Program

__all__ = ["build", "lower"]


def lower(program: Program, target: Target, block_bytes: int = 0) -> Lowered:
    """`program` as one Relax module for `target`: one memory layout, one kernel a step, constants at their real width.

    block_bytes: of input that a block of a product may copy to scratch, for programs that must take little memory; 0: what is fastest.
    Raises LoweringError naming the op where there is no kernel, TargetError for a target without code, ToolMissingError without TVM.
    """
    from mpqc.lowering.relax_module import lower_program

    return lower_program(program, target, block_bytes)


def build(lowered: Lowered, path: str | Path) -> Path:
    """Writes the module's shared library to `path`. Raises LoweringError or ToolMissingError."""
    from mpqc.lowering.binary import build as build_binary

    return build_binary(lowered, path)
