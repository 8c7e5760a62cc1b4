"""What a phase has done so far, kept while it runs: a run that is killed loses at most a few seconds of it.

A phase is a function of its inputs and sees no folder. Its loops ask for their `part`, which the phase's driver keeps beside the checkpoint that the
phase will leave: under the digest of the same inputs, so that a part is only ever found again for the same work. Without a driver nothing is kept.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mpqc.workspace.folder import Workspace, remove_path
from mpqc.workspace.log_file import LOG

EVERY = 10.0
"""Seconds between two saves"""
SUFFIX = ".part"
State = Mapping[str, np.ndarray]


@dataclass
class Part:
    """The state of one loop, arrays by name."""

    workspace: Workspace | None
    path: Path
    _saved: float = field(default_factory=lambda: time.monotonic())

    def load(self) -> dict[str, np.ndarray] | None:
        """What was saved last; None where nothing was, or it is damaged: then the loop begins anew."""
        if self.workspace is None or not self.path.is_file():
            return None
        try:
            with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as kept:
                found = {name: kept[name] for name in kept.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            LOG.warning("%s is damaged and begun anew: %s", self.path, error)
            return None
        LOG.info("goes on from %s", self.path.name)
        return found

    def save(self, state: Callable[[], State]) -> None:
        """Keeps what `state` gives, if EVERY seconds have passed since the last time. Raises MpqcError where it cannot be written."""
        if self.workspace is None or time.monotonic() - self._saved < EVERY:
            return
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **state())
        self.workspace.write_bytes(str(self.path.relative_to(self.workspace.root)), buffer.getvalue())
        self._saved = time.monotonic()


_DRIVER: ContextVar[tuple[Workspace, Path] | None] = ContextVar("driver", default=None)


def part(name: str) -> Part:
    """The part `name` of the phase that runs; one that keeps nothing where no phase does."""
    driver = _DRIVER.get()
    if driver is None:
        return Part(None, Path(name))
    workspace, checkpoint = driver
    return Part(workspace, checkpoint.with_name(f"{checkpoint.name}.{name}{SUFFIX}"))


@contextmanager
def kept_beside(workspace: Workspace, checkpoint: Path) -> Iterator[None]:
    """Parts of the block are kept beside `checkpoint`, and go when the block ends well."""
    token = _DRIVER.set((workspace, checkpoint))
    try:
        yield
    finally:
        _DRIVER.reset(token)
    for path in checkpoint.parent.glob(f"{checkpoint.name}.*{SUFFIX}"):
        remove_path(path)
