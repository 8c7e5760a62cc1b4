"""The table of operators that the importer knows: ONNX op type -> torch function.

An op function takes the ONNX inputs as positional arguments in ONNX order (None where an optional one is absent) and the ONNX
attributes as keyword arguments under their ONNX names. It is pure and differentiable by torch.autograd.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

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
    *names: str,
    static: tuple[int, ...] = (),
    scalars: tuple[int, ...] = (),
    ignored: tuple[str, ...] = (),
    refuse: Refusal | None = None,
    absent: tuple[int, ...] = (),
    outputs: int | None = 1,
) -> Callable[[Function], Function]:
    """Register the decorated function for the ONNX operators `names` of the standard domain."""

    def register(function: Function) -> Function:
        parameters = inspect.signature(function).parameters.values()
        keywords = frozenset(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)
        for name in names:
            OPS[name] = OpEntry(function, static, scalars, refuse or (lambda _: ""), keywords, frozenset(ignored), absent, outputs)
        return function

    return register
