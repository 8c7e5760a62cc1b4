"""Quantized types and their parameters: the values that sites are given.

Ranges are the full two's-complement ranges; widths without a container of their own live in the next wider
one: 1..2 -> int2, 3..4 -> int4, 5..8 -> int8, 9..16 -> int16.

Weights of few bits may lie on the half-integer grid instead: values s(2q + 1) for the two's-complement q, so codes are the odd numbers
-(2^b - 1) to 2^b - 1 and no level is lost to the zero in the middle (the mid-rise quantizer of
signal processing). Files store the odd code in the container that holds it; a module stores q.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mpqc.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

CONTAINERS = (2, 4, 8, 16)
"""Widths, in bits, in which a file can store an integer."""
LEAST_BITS, MOST_BITS = 1, 16
MOST_HALF_BITS = 3
"""Odd codes of more bits do not fit the container of their width, and a level more no longer matters"""


@dataclass(frozen=True, order=True)
class QType:
    """An integer type: signed, `bits` wide, with one scale for the tensor or one for each index of `axis`."""

    bits: int
    axis: int | None = None
    """None: per tensor. Otherwise the axis of the tensor whose every index has its own scale."""
    half: bool = False
    """Whether the codes are the odd numbers of the half-integer grid; their zero point is 0"""

    def __post_init__(self) -> None:
        if not LEAST_BITS <= self.bits <= MOST_BITS:
            raise UsageError(f"{self.bits} bits is outside {LEAST_BITS}..{MOST_BITS}", where="qtype")
        if self.half and self.bits > MOST_HALF_BITS:
            raise UsageError(f"{self.bits} bits is outside {LEAST_BITS}..{MOST_HALF_BITS}, which the half-integer grid has", where="qtype")

    @property
    def qmin(self) -> int:
        """Smallest code: -2^(bits-1); on the half-integer grid -(2^bits - 1)."""
        return -self.qmax if self.half else -(1 << (self.bits - 1))

    @property
    def qmax(self) -> int:
        """Largest code: 2^(bits-1) - 1; on the half-integer grid 2^bits - 1."""
        return (1 << (self.bits if self.half else self.bits - 1)) - 1

    @property
    def container(self) -> int:
        """Bits of the narrowest container that holds this type in a file."""
        return next(width for width in CONTAINERS if width >= self.bits and 1 << (width - 1) > self.qmax)

    @property
    def key(self) -> str:
        """The name used in JSON files and tables: `int4`, on the half-integer grid `half2`."""
        return f"{'half' if self.half else 'int'}{self.bits}"

    @classmethod
    def parse(cls, key: str, axis: int | None = None) -> QType:
        """The inverse of `key`. Raises UsageError for anything else."""
        match = re.fullmatch(r"(int|half)(\d{1,2})", key)
        if not match:
            raise UsageError(f"{key!r} is not a qtype", hint="write int2, int4, int8, ... or half1, half2, half3")
        return cls(int(match[2]), axis, half=match[1] == "half")


def largest_code(bits: int) -> int:
    """The largest magnitude of a weight's code at this width, on whichever grid."""
    return max(-QType(bits, half=half).qmin for half in (False, bits <= MOST_HALF_BITS))


@dataclass(frozen=True, eq=False)
class QParams:
    """Scale and zero point of one tensor.

    `scale` is float32 and positive, `zero_point` int32; both have shape [] (per tensor) or [n] (per axis).
    A real value x has the code clamp(rne(x / scale) + zero_point, qtype.qmin, qtype.qmax), on the half-integer grid
    clamp(2 rne((x / scale - 1) / 2) + 1, qmin, qmax).
    """

    qtype: QType
    scale: np.ndarray
    zero_point: np.ndarray


class Calibrated(Protocol):
    """The qparams that a calibration, or training, found for every site."""

    def qparams(self, site: str, bits: int) -> QParams:
        """Scale and zero point of `site` at `bits`."""
