"""Progress of a compile: a live line for each phase on a terminal, one plain line each in logs. Never on stdout."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mpqc.values.text import printable

LOG = logging.getLogger("mpqc")


@dataclass
class Progress:
    """Names and times the phases of a run. `seconds` holds the finished ones, for the report."""

    quiet: bool = False
    mute: bool = False
    """Whether even warnings are kept back: another process gives them"""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Shows `name` while the block runs, and its time after it."""
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
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(name):
            yield
