"""Which tensors share qparams: only those between which codes move unchanged.

A node with one data input gives its codes on, so both ends share. The operands of a Concat do not have to: one that others read as well keeps
qparams of its own, and is requantized where it enters. An operand that only this Concat reads takes the Concat's qparams: nobody ever sees it at
others, and rounding once is better than twice. Where all operands share qparams anyway (a pyramid of pools), the result joins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Carrier:
    """A node that moves codes."""

    joins: bool
    """Whether it is a Concat"""
    reads: tuple[str, ...]
    results: tuple[str, ...]
    lone: frozenset[str]
    """Those of `reads` that nothing else reads"""


def sharing_groups(carriers: Sequence[Carrier], order: Sequence[str]) -> dict[str, str]:
    """Tensor -> its group, named after the first member in `order`; empty for a tensor that shares with no other.

    `carriers` are in execution order.
    """
    parts = _Parts(order)
    for carrier in carriers:
        if not carrier.joins:
            parts.join(*carrier.reads, *carrier.results)
    readers: dict[str, list[Carrier]] = {}
    for carrier in carriers:
        for name in carrier.reads:
            readers.setdefault(name, []).append(carrier)
    for carrier in carriers:
        if carrier.joins:
            parts.join(*carrier.results, *_taken_along(carrier, parts, readers))
    return parts.names()


def _taken_along(concat: Carrier, parts: _Parts, readers: dict[str, list[Carrier]]) -> list[str]:
    """The operands that take the qparams of `concat`."""
    if len({parts.root(name) for name in concat.reads}) == 1:
        return list(concat.reads)
    return [name for name in concat.reads if all(_is_lone(member, concat, parts, readers) for member in parts.members(name))]


def _is_lone(name: str, concat: Carrier, parts: _Parts, readers: dict[str, list[Carrier]]) -> bool:
    """Whether all that is made of a tensor lies in its own part or goes into `concat`."""
    found = readers.get(name, [])
    inside = all(reader is concat or parts.root(reader.results[0]) == parts.root(name) for reader in found)
    return len(found) == 1 and name in found[0].lone and inside


class _Parts:
    """Disjoint sets of tensors."""

    def __init__(self, order: Sequence[str]) -> None:
        self.rank = {name: index for index, name in enumerate(order)}
        self._part = {name: [name] for name in order}

    def root(self, name: str) -> str:
        """What stands for the part of `name`."""
        return self._part[name][0]

    def members(self, name: str) -> list[str]:
        """All tensors in the part of `name`."""
        return self._part[name]

    def join(self, *names: str) -> None:
        """Put the parts of `names` together."""
        whole = sorted({member for name in names for member in self._part[name]}, key=self.rank.__getitem__)
        for member in whole:
            self._part[member] = whole

    def names(self) -> dict[str, str]:
        """Tensor -> first member of its part, empty where it is alone."""
        return {name: part[0] if len(part) > 1 else "" for name, part in self._part.items()}
