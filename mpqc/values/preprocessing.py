"""What pixels become before a network sees them: declared once, kept with everything that is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from mpqc.errors import UsageError

COVER, STRETCH, PAD = "cover", "stretch", "pad"
"""How a picture of another shape gets the network's: scaled to cover it and cut, squeezed into it, or whole between grey bars"""
PIXEL_RANGE = (0.0, 255.0)


@dataclass(frozen=True)
class Preprocessing:
    """A value x of the first input becomes (x * scale - mean) / std; pictures are resized, and their channels put in order, before that.

    `mean` and `std` are one number, or one a channel in the order that the network takes them.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    bgr: bool = False
    """Whether pictures go in as blue, green, red"""
    resize: str = COVER
    """cover | stretch | pad | a number: the part of the shorter side that the centre keeps (up to 1), or its pixels before the cut"""
    layout: str = ""
    """nchw | nhwc: how the network's input lies, where its shape does not tell"""
    name: str = ""
    """Of the preset, where it is one"""
    folded: bool = False
    """Whether scale, mean and std are the network's first convolution's business: values go in as they are, bytes"""

    def __post_init__(self) -> None:
        if self.resize not in (COVER, STRETCH, PAD) and not _is_positive(self.resize):
            raise UsageError(f"{self.resize!r} is no way to resize", where="--resize", hint="write cover, stretch, pad, 0.875 or 256")
        if self.layout not in ("", "nchw", "nhwc"):
            raise UsageError(f"unknown layout {self.layout!r}", where="--layout", hint="write nchw or nhwc")
        if self.scale is not None and not (isfinite(self.scale) and self.scale):
            raise UsageError(f"{self.scale} is no scale", where="--scale", hint="write for example 0.00392157, which is 1/255")

        if self.std is not None and not all(self.std):
            raise UsageError("divides by 0", where="--std", hint="write deviations, for example 58.4,57.1,57.4")

    @property
    def declared(self) -> bool:
        """Whether somebody said what values go in; otherwise they go in as they are."""
        return bool(self.name) or self.folded or not self.is_identity

    @property
    def is_identity(self) -> bool:
        """Whether values go in as they are."""
        return self.folded or self._is_plain

    @property
    def _is_plain(self) -> bool:
        return self.mean is None and self.std is None and self.scale is None

    @property
    def text(self) -> str:
        """One line for people."""
        name = f"{self.name}: " if self.name else ""
        if self.folded:
            name = f"bytes 0..255 as they are; the first convolution does {name}"
        return f"{name}{self._formula}{', channels in the order blue, green, red' if self.bgr else ''}{self._fitting}"

    @property
    def _formula(self) -> str:
        if self._is_plain:
            return "values as they are"
        scaled = "x" if self.scale is None else f"x * {self.scale:.6g}"
        shifted = scaled if self.mean is None else f"({scaled} - {_numbers(self.mean)})"
        return shifted if self.std is None else f"{shifted} / {_numbers(self.std)}"

    @property
    def _fitting(self) -> str:
        if self.resize == COVER:
            return ""
        known = {STRETCH: "pictures squeezed to the input's shape", PAD: "pictures whole between grey bars"}
        return ", " + known.get(self.resize, f"the centre of pictures (resize {self.resize})")


UNTOUCHED = Preprocessing()


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else "[" + ", ".join(f"{value:g}" for value in values) + "]"
