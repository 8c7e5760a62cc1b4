"""Parts of plots as inline SVG. Colours, fonts and line styles are classes of the page's style sheet, so that plots follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from mpqc.values.text import printable

SHOWN = 24
"""Characters of a name beside an axis; the whole name is shown where the pointer rests"""

MOST = 1e200
"""Beyond, and below one part of it, numbers of a file are not told apart"""


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` along pixels from `start` to `end`; logarithmic ones are above 0."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """The pixel of `value`."""
        low, high, value = (math.log10(item) for item in (self.low, self.high, value)) if self.is_log else (self.low, self.high, value)
        return self.start + (self.end - self.start) * ((value - low) / (high - low) if high > low else 0.5)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers inside, at most about `most`."""
        return _decades(self.low, self.high, most) if self.is_log else _steps(self.low, self.high, most)


def _steps(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most or 1.0
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float, most: int) -> list[float]:
    ends = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    stride = max(-(-(ends[1] - ends[0] + 1) // most), 1)
    return [10.0**power for power in range(ends[0], ends[1] + 1, stride)]


def around(values: Sequence[float], *, is_log: bool = False, margin: float = 0.06) -> tuple[float, float]:
    """Ends of an axis that shows all `values`, which are above 0 where it is logarithmic."""
    low, high = max(min(values), -MOST), min(max(values), MOST)
    if is_log:
        low = max(low, 1 / MOST)
        factor = (high / low) ** margin if high > low else 2.0
        return low / max(factor, 1.25), high * max(factor, 1.25)
    room = margin * (high - low) or abs(high) * 0.1 or 1.0
    return low - room, high + room


def svg(width: float, height: float, label: str, parts: Iterable[str]) -> str:
    """A plot. `label`: what it shows, for those who hear the page."""
    head = f'<svg role="img" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" aria-label="{safe(label)}">'
    return head + "".join(parts) + "</svg>"


def text(x: float, y: float, content: object, kind: str = "", *, turn: float = 0.0) -> str:
    """Text at a point, with classes `kind`; `turn` degrees around it."""
    turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}{turned}>{safe(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A line between two points."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def bar(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A rectangle by its upper left corner."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" class="{kind}"/>'


def curve(points: Iterable[tuple[float, float]], kind: str) -> str:
    """Points joined by straight lines."""
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" class="{kind}"/>'


def titled(title: str, parts: Iterable[str]) -> str:
    """Parts that say `title` where the pointer rests on them."""
    return f"<g><title>{safe(title)}</title>{''.join(parts)}</g>"


def safe(content: object) -> str:
    """Text from files as text of a page: nothing in it is read as markup, and nothing is invisible."""
    return escape(printable(content))


def short(name: str) -> str:
    """`name` without its middle where it is long: networks' names differ at both ends."""
    name = printable(name)
    return name if len(name) <= SHOWN else f"{name[:8]}\u2026{name[-(SHOWN - 9) :]}"


def grid(axis: Axis, across: tuple[float, float], labels: Iterable[tuple[float, str]]) -> Iterator[str]:
    """Lines of a vertical `axis` from pixel to pixel `across`, each with its label at the left."""
    for value, label in labels:
        y = axis.at(value)
        yield line(across[0], y, across[1], y, "grid")
        yield text(across[0] - 5, y + 3.5, label, "end")
