"""Progress of a compile: a live line for each phase on a terminal, lines in logs. Never on stdout.

A phase whose loops are given to `steps` shows how far it is and how long it will still take: on a terminal in the live line, elsewhere a line every
EVERY seconds.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from mpqc.values.text import printable

LOG = logging.getLogger("mpqc")
Item = TypeVar("Item")
SOON = 2.0
"""Seconds after which a phase says how far it is"""
EVERY = 10.0
"""Seconds between two lines where there is no terminal"""
OFTEN = 0.5
"""Seconds between two changes of the live line"""


@dataclass
class _Running:
    """The phase that runs now."""

    name: str
    show: Callable[[str], None]
    pause: float
    """Seconds between two shows"""
    start: float = field(default_factory=lambda: time.monotonic())
    shown: float = 0.0

    def __post_init__(self) -> None:
        self.shown = self.start + SOON - self.pause

    def at(self, done: int, total: int | None, begun: float) -> None:
        """Shows that `done` of `total` steps of the loop that begun at `begun` are done, if it is time to."""
        now = time.monotonic()
        if now - self.shown < self.pause:
            return
        self.shown = now
        self.show(f"{self.name}: {how_far(done, total, now - begun)}")


_RUNNING: ContextVar[_Running | None] = ContextVar("running", default=None)


def how_far(done: int, total: int | None, seconds: float) -> str:
    """`12 of 64 (19 %), about 40 s left`, from what the steps so far took; without a total, the count alone."""
    if total is None or done <= 0 or done > total:
        return f"{done} done in {seconds:.0f} s"
    left = seconds * (total - done) / done
    text = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
    return f"{done} of {total} ({100 * done / total:.0f} %), about {text} left"


def steps(items: Iterable[Item], total: int | None) -> Iterator[Item]:
    """`items`, one at a time, of which the phase that runs shows how many of `total` are done; None: nobody knows how many there are."""
    begun, running = time.monotonic(), _RUNNING.get()
    for done, item in enumerate(items):
        if running is not None and done:
            running.at(done, total, begun)
        yield item


@dataclass
class Progress:
    """Names and times the phases of a run. `seconds` holds the finished ones, for the report."""

    quiet: bool = False
    mute: bool = False
    """Whether even warnings are kept back: another process gives them"""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Shows `name` while the block runs, how far it is, and its time after it."""
        start = time.monotonic()
        LOG.debug("%s begins", name)
        with self._status(name):
            yield
        self.seconds[name] = time.monotonic() - start
        self.say(f"{name}: {self.seconds[name]:.1f} s")

    def say(self, line: str) -> None:
        """One line for the user, on stderr and in the log."""
        LOG.info("%s", line)
        if not self.quiet:
            print(printable(line), file=sys.stderr)

    def warn(self, line: str) -> None:
        """A line that the user should not miss, shown even when quiet."""
        LOG.warning("%s", line)
        if not self.mute:
            print(f"warning: {printable(line)}", file=sys.stderr)

    @contextmanager
    def _status(self, name: str) -> Iterator[None]:
        if self.quiet or not sys.stderr.isatty():
            with _as_running(_Running(name, self.say, EVERY)):
                yield
            return
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(printable(name))) as status:
            running = _Running(name, lambda line: status.update(Text(printable(line))), OFTEN)
            with _as_running(running):
                yield


@contextmanager
def _as_running(running: _Running) -> Iterator[None]:
    token = _RUNNING.set(running)
    try:
        yield
    finally:
        _RUNNING.reset(token)
