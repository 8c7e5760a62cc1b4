"""Elementwise nodes between two quantized tensors run as one table of 256 codes: which ones, told alike from a network's graph (sites) and from
a QDQ file (program).

Ops whose outputs span orders of magnitude (Exp, Log, Div, ...) get no codes of their own. Where such nodes stand between codes that are there
anyway, the table gives exactly the codes that computing them in float and quantizing the result would give, without the float kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpqc.facts.ops import facts, is_elementwise


def channel_axis(operand: tuple[int, ...], shape: tuple[int, ...]) -> int | None:
    """The axis of `shape` along which an operand that broadcasts to it varies, as numpy does; None where it is one number or varies along several."""
    aligned = (1,) * (len(shape) - len(operand)) + operand
    axes = [axis for axis, size in enumerate(aligned) if size != 1]
    return axes[0] if len(axes) == 1 and len(aligned) == len(shape) else None


UNQUANTIZED = "input is not quantized"
"""Reason of a node that could run on integers if what feeds it did"""


@dataclass(frozen=True)
class Maker:
    """The node that writes a tensor."""

    name: str
    op_type: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    is_known: bool = True
    """Whether its domain is one whose ops the table of ops is about"""


@dataclass(frozen=True)
class Lookup:
    """The graph that is asked. Each function takes a tensor's name."""

    codes: Callable[[str], str | None]
    """What tells one tensor of codes from another, None for a tensor that is not quantized"""
    constant: Callable[[str], int | None]
    """Number of values of a constant, None for a tensor that is computed"""
    maker: Callable[[str], Maker | None]
    shape: Callable[[str], tuple[int, ...]]


@dataclass(frozen=True)
class Function:
    """A function of one tensor of codes."""

    source: str
    """The tensor that it reads"""
    nodes: frozenset[str]
    """Names of the nodes that compute it"""


def function_of(result: str, lookup: Lookup) -> Function | str:
    """The function of one quantized tensor that float tensor `result` is, or the reason why it is none."""
    inside: dict[str, Maker] = {}
    sources: dict[str, str] = {}
    pending = [result]
    while pending:
        current = pending.pop()
        codes, size = lookup.codes(current), lookup.constant(current)
        if codes is not None:
            sources[codes] = current
        elif size is None:
            maker = lookup.maker(current)
            if maker is None or not (maker.is_known and is_elementwise(maker.op_type)):
                return _refusal(maker)
            if maker.name not in inside:
                inside[maker.name] = maker
                pending += [name for name in maker.inputs if name]
        elif size != 1:
            return "a constant of the function is not one number"
    if len(sources) != 1:
        return "the function reads more than one tensor"
    source = next(iter(sources.values()))
    if any(lookup.shape(name) != lookup.shape(source) for maker in inside.values() for name in maker.outputs):
        return "the function broadcasts its input"
    return Function(source, frozenset(inside))


def _refusal(maker: Maker | None) -> str:
    if maker is None or facts(maker.op_type).role is not None:
        return UNQUANTIZED
    return facts(maker.op_type).reason
