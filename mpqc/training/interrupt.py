"""Ctrl-C and SIGTERM wait for the end of the step under way, so that a checkpoint can be written; a second one does not wait."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Within the block the first signal only sets `pending`; `check` then raises what it would have raised."""

    def __init__(self, *, active: bool) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.pending: int | None = None

    def __enter__(self) -> Interrupts:
        if self.active:
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS if self._is_handled(number)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.active:
            self._restore()

    def check(self) -> None:
        """Raises KeyboardInterrupt where Ctrl-C was pressed or the process was told to end."""
        if self.pending is not None:
            self._raise(self.pending)

    @staticmethod
    def _is_handled(number: int) -> bool:
        """Ctrl-C always; SIGTERM where somebody makes an exception of it (mpqc.cli.errors): by default it ends the process."""
        return number == signal.SIGINT or callable(signal.getsignal(number))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            self._raise(number)
        self.pending = number

    def _raise(self, number: int) -> None:
        self._restore()
        handler = self.before[signal.Signals(number)]
        if callable(handler):
            handler(number, None)
        raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
