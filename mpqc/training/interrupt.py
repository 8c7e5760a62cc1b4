"""Ctrl-C waits for the end of the step under way, so that a checkpoint can be written; a second one does not wait."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """Within the block the first SIGINT only sets `pending`; `check` then raises what it would have raised."""

    def __init__(self, *, active: bool) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.pending = False

    def __enter__(self) -> Interrupts:
        if self.active:
            self.before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.active:
            signal.signal(signal.SIGINT, self.before)

    def check(self) -> None:
        """Raises KeyboardInterrupt where Ctrl-C was pressed."""
        if self.pending:
            self._raise()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            self._raise()
        self.pending = True

    def _raise(self) -> None:
        signal.signal(signal.SIGINT, self.before)
        if callable(self.before):
            self.before(signal.SIGINT, None)
        raise KeyboardInterrupt
