"""The operators that the importer knows: ONNX op type -> torch function. Which function imports which op is said in mpqc/facts/ops.py.

An op function takes the ONNX inputs as positional arguments in ONNX order (None where an optional one is absent) and the ONNX
attributes as keyword arguments under their ONNX names. It is pure and differentiable by torch.autograd.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from mpqc.facts.ops import ROWS
from mpqc.frontend.opset_functions import EXPANDED
from mpqc.frontend.opset_upgrades import DOWNGRADES

Function = TypeVar("Function", bound=Callable[..., Any])
Refusal = Callable[[Mapping[str, Any]], str]
"""Attributes -> why the op function cannot take them, or an empty string."""


@dataclass(frozen=True)
class OpEntry:
    """How one ONNX operator becomes a call."""

    function: Callable[..., Any]
    static: tuple[int, ...]
    """Inputs that must be constants; passed as Python lists (numbers where of rank 0)"""
    scalars: tuple[int, ...]
    """Inputs of one element, passed as Python numbers where they are constants, as tensors otherwise"""
    refuse: Refusal
    attributes: frozenset[str]
    """Attribute names that the function takes"""
    ignored: frozenset[str]
    """Attributes without effect on the result"""
    absent: tuple[int, ...]
    """Optional inputs that the function does not take"""
    outputs: int | None
    """How many outputs the function gives at most; above one it returns a tuple. None: any number"""


OPS: dict[str, OpEntry] = {}


def op(
    *,
    static: tuple[int, ...] = (),
    scalars: tuple[int, ...] = (),
    ignored: tuple[str, ...] = (),
    refuse: Refusal | None = None,
    absent: tuple[int, ...] = (),
    outputs: int | None = 1,
) -> Callable[[Function], Function]:
    """Register the decorated function for the ONNX operators that the table of ops has it for. Raises LookupError where it has it for none."""

    def register(function: Function) -> Function:
        parameters = inspect.signature(function).parameters.values()
        keywords = frozenset(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)
        for name in _imported_by(function):
            OPS[name] = OpEntry(function, static, scalars, refuse or (lambda _: ""), keywords, frozenset(ignored), absent, outputs)
        return function

    return register


def _imported_by(function: Callable[..., Any]) -> list[str]:
    place = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    names = [row.name for row in ROWS if row.imported_by == place]
    if not names:
        raise LookupError(f"no op in mpqc/facts/ops.py is imported by {place}")
    return names


def check_complete() -> None:
    """Raises LookupError naming an op of the table whose importer function does not exist."""
    missing = [row for row in ROWS if row.name not in OPS.keys() | DOWNGRADES.keys() | EXPANDED]
    if missing:
        raise LookupError(f"{missing[0].name} is in mpqc/facts/ops.py, but there is no function {missing[0].imported_by}")
